#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures pvdisk beside a C passthrough, qemu-storage-daemon, nbdfuse and the raw file.

Every comparator serves the same image in the same cache state; exporters take turns, one at a time, cell by cell, so that
a slow minute of the machine hits all of them; medians are compared, and the spread is shown beside them.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import cells
import exporters
import extras
import musts
import plots
import report

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ["pvdisk-uring", "pvdisk-dev", "bare-uring", "bare-dev", "PT", "QSD", "NBD", "RAW"]
EXTRA_NAMES = ["PT-null"]


class Placement:
    """Which CPUs the server and fio may use; None leaves it to the kernel."""

    def __init__(self, name):
        available = sorted(os.sched_getaffinity(0))
        self.name = name
        self.server = self.client = None
        if name == "same":
            self.server = self.client = {available[0]}
        elif name == "split":
            if len(available) < 2:
                sys.exit("bench: placement 'split' needs two CPUs")
            half = (len(available) + 1) // 2
            self.server, self.client = set(available[:half]), set(available[half:])

    def pin_server(self):
        """Runs in the server's process before its program."""
        if self.server:
            os.sched_setaffinity(0, self.server)

    def pin_client(self):
        """Runs in fio's process before fio."""
        if self.client:
            os.sched_setaffinity(0, self.client)

    def describe(self):
        """A sentence for the report."""
        if not self.server:
            return "free (the kernel places server and client)"
        return f"{self.name}: server on CPU {sorted(self.server)}, client on CPU {sorted(self.client)}"


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pvdisk", metavar="PROGRAM", help="the pvdisk command; without it only the others are run")
    parser.add_argument("--pvdisk-option", action="append", default=[], metavar="OPTION",
                        help="an option for `pvdisk mount`; write --pvdisk-option=--queues=2")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="the image's size (1024)")
    parser.add_argument("--bare", metavar="PROGRAM", help="the bare-export command: the same FUSE code without the stack")
    parser.add_argument("--repetitions", type=int, metavar="N", help="runs of each cell (3; 2 with --quick)")
    parser.add_argument("--runtime", type=float, metavar="S", help="seconds of a run (1.5; 0.7 with --quick)")
    parser.add_argument("--quick", action="store_true", help="about two minutes: only the cells of the table of musts")
    parser.add_argument("--scale", metavar="NAME,...", help="curves instead of cells: all, or some of "
                        + ",".join([curve.name for curve in extras.CURVES] + ["disks"]))
    parser.add_argument("--docs", metavar="DIR", help="write plots to DIR/figures, and the tables into DIR/performance.md")
    parser.add_argument("--cells", metavar="NAME,...", help="only cells whose names contain one of these words")
    parser.add_argument("--only", metavar="NAME,...", help=f"only these comparators: {','.join(NAMES)}")
    parser.add_argument("--placement", choices=["free", "same", "split"], default="free",
                        help="server and client where the kernel likes, on one CPU, or apart")
    parser.add_argument("--scratch", metavar="DIR", help="where the image is made (a directory on a disk)")
    parser.add_argument("--json", metavar="FILE", help="write every sample and the medians there")
    parser.add_argument("--list", action="store_true", help="list the cells and end")
    return parser.parse_args()


def file_system(path):
    """The type of the file system that a path lies in."""
    result = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", path], capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def make_scratch(parent):
    """A directory of our own, on a disk if there is one: a file system in memory has no writeback to measure."""
    choices = [parent] if parent else ["/var/tmp", os.path.expanduser("~/.cache"), "/tmp"]
    on_disk = [choice for choice in choices if os.path.isdir(choice) and file_system(choice) not in ("tmpfs", "ramfs")]
    if not on_disk:
        print("bench: no directory on a disk; figures for writes are those of memory", file=sys.stderr)
    return tempfile.mkdtemp(prefix="pvdisk-bench-", dir=(on_disk or choices)[0])


def build_passthrough(scratch):
    """Compiles passthrough.c; its path, or None with a word on standard error."""
    program = os.path.join(scratch, "passthrough")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False)
    command = ["cc", "-O2", "-o", program, os.path.join(HERE, "passthrough.c"), *flags.stdout.split(), "-pthread"]
    if flags.returncode != 0 or subprocess.run(command, check=False).returncode != 0:
        print("bench: passthrough.c does not build (libfuse3-dev missing?); PT is left out", file=sys.stderr)
        return None
    return program


def make_image(scratch, mebibytes):
    """A fully written image: holes and unwritten blocks would make first writes slow and reads fast."""
    path = os.path.join(scratch, "image.raw")
    block = os.urandom(1 << 20)
    with open(path, "wb") as image:
        for _ in range(mebibytes):
            image.write(block)
        image.flush()
        os.fsync(image.fileno())
    return path


def settle(image, reread):
    """Brings the image to the same state before each run: nothing dirty, everything in the page cache."""
    with open(image, "rb", buffering=0) as file:
        os.fdatasync(file.fileno())
        if reread:
            buffer = bytearray(1 << 20)
            while file.readinto(buffer):
                pass


def choose_exporters(arguments, image, scratch, placement):
    """The comparators that are wanted and can run here."""
    wanted = arguments.only.split(",") if arguments.only else NAMES
    unknown = set(wanted) - set(NAMES + EXTRA_NAMES)
    if unknown:
        known = ", ".join(NAMES + EXTRA_NAMES)
        sys.exit(f"bench: no such comparator: {', '.join(sorted(unknown))}; there are {known}")
    chosen = []
    for program, kinds in ((arguments.pvdisk, (exporters.PVDiskRing, exporters.PVDisk)),
                           (arguments.bare, (exporters.BareExportRing, exporters.BareExport))):
        for kind in kinds:
            if program and kind.name in wanted:
                options = arguments.pvdisk_option
                chosen.append(kind(image, scratch, placement, os.path.abspath(program), options))
    if "PT" in wanted or "PT-null" in wanted:
        program = build_passthrough(scratch)
        for kind in (exporters.Passthrough, exporters.NullPassthrough):
            if program and kind.name in wanted:
                chosen.append(kind(image, scratch, placement, program))
    for kind in (exporters.StorageDaemon, exporters.NetworkBlock, exporters.Raw):
        if kind.name in wanted:
            chosen.append(kind(image, scratch, placement))
    present = []
    for exporter in chosen:
        tool = exporter.missing()
        if tool:
            print(f"bench: {exporter.name} is left out: this machine lacks {tool}", file=sys.stderr)
        else:
            present.append(exporter)
    return present


def measure(chosen, selected, arguments, placement, image):
    """All samples: cell name -> exporter name -> list."""
    repetitions = arguments.repetitions or (2 if arguments.quick else 3)
    runtime = arguments.runtime or (0.7 if arguments.quick else 1.5)
    ramp = 0.2 if arguments.quick else 0.4
    samples = {cell.name: {exporter.name: [] for exporter in chosen} for cell in selected}
    total = repetitions * len(selected) * len(chosen)
    done = 0
    for repetition in range(repetitions):
        for cell in selected:
            # A different one begins each time, so that none always follows the same neighbour.
            turn = repetition % len(chosen)
            for exporter in chosen[turn:] + chosen[:turn]:
                settle(image, reread=True)
                exporter.start()
                try:
                    samples[cell.name][exporter.name].append(cells.run(cell, exporter, placement, runtime, ramp))
                finally:
                    exporter.stop()
                if cell.name == "randread-4k-qd32" and getattr(exporter, "statistics", None):
                    exporter.busy_statistics = exporter.statistics
                done += 1
                if sys.stderr.isatty():
                    print(f"\r{done}/{total} {exporter.name} {cell.name}    ", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return samples


def describe_machine(arguments, placement, scratch):
    """What a reader must know to compare these figures with others."""
    model = "unknown"
    with open("/proc/cpuinfo") as cpus:
        for line in cpus:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "date": time.strftime("%Y-%m-%d"), "kernel": platform.release(), "cpus": len(os.sched_getaffinity(0)), "cpu_model": model,
        "placement": placement.describe(), "file_system": file_system(scratch),
        "load_at_start": os.getloadavg()[0], "image_mib": arguments.size,
        "pvdisk_options": arguments.pvdisk_option,
        "fio": subprocess.run(["fio", "--version"], capture_output=True, text=True, check=False).stdout.strip(),
    }


def measure_beside(arguments, chosen, image, summary):
    """What the table of musts needs beside the cells; the table's rows and what they came from."""
    ours = [exporter for exporter in chosen if exporter.name.startswith("pvdisk")]
    beside = {"stack": [], "notifications": None, "idle": {}}
    if ours:
        repeats, milliseconds = (3, 200) if arguments.quick else (5, 400)
        beside["stack"] = extras.stack_rows(ours[0].program, image, repeats, milliseconds)
        busy = getattr(ours[0], "busy_statistics", None)
        beside["notifications"] = extras.notifications_per_request(busy) if busy else None
        beside["idle"] = extras.idle_disk(ours[0])
    measured = musts.Measured(summary, beside["stack"], beside["notifications"], beside["idle"])
    return beside, musts.evaluate(measured)


def measure_curves(arguments, chosen, image, scratch, placement):
    """The curves that were asked for: name -> exporter -> points."""
    names = arguments.scale.split(",")
    by_name = {exporter.name: exporter for exporter in chosen if exporter.name in ("pvdisk-uring", "pvdisk-dev", "PT", "QSD")}
    runtime = arguments.runtime or 1
    curves, pictures = {}, {}
    for curve in extras.CURVES:
        if "all" not in names and curve.name not in names:
            continue
        points = extras.curve_points(curve, by_name, placement, runtime)
        curves[curve.name] = points
        unit = "MB/s" if curve.name in ("size", "segments", "kept-grants") else "thousand reads a second"
        pictures[f"scale-{curve.name}.svg"] = plots.lines(f"pvdisk by {curve.name}", curve.x_name, unit, points)
    if "all" in names or "disks" in names:
        points, shares = extras.disk_points(by_name, image, scratch, placement, runtime)
        curves["disks"], curves["disks-fairness"] = points, shares
        pictures["scale-disks.svg"] = plots.lines("Many disks at once", "disks", "thousand reads a second, all", points)
    return curves, pictures


BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def rewrite_measured(directory, words):
    """Puts a run's tables between the marks in performance.md."""
    path = os.path.join(directory, "performance.md")
    if not os.path.exists(path):
        return
    with open(path) as file:
        page = file.read()
    if BEGIN in page and END in page:
        head, rest = page.split(BEGIN, 1)
        with open(path, "w") as file:
            file.write(f"{head}{BEGIN}\n{words}\n{END}{rest.split(END, 1)[1]}")


def write_documents(directory, documents):
    """Text files by name."""
    os.makedirs(directory, exist_ok=True)
    for name, words in documents.items():
        with open(os.path.join(directory, name), "w") as file:
            file.write(words)


def picture(summary, selected):
    """The cells as bars."""
    groups = {}
    for cell in selected:
        values = []
        for name, one in summary[cell.name].items():
            scale = one["bytes_per_second"] / one["requests_per_second"] / 1e6 if cell.is_bulk else 1e-3
            low, high = one["requests_per_second_range"]
            # The file itself takes no crossing and would flatten all others.
            if name != "RAW":
                values.append((name, one["requests_per_second"] * scale, low * scale, high * scale))
        groups[f"{cell.name} ({'MB/s' if cell.is_bulk else 'thousand a second'})"] = values
    return plots.bars("pvdisk and others: medians and ranges", "", groups)


def main():
    """Measures and reports; whatever happens, nothing stays mounted or running."""
    arguments = parse_arguments()
    words = arguments.cells.split(",") if arguments.cells else [""]
    selected = [cell for cell in cells.CELLS if any(word in cell.name for word in words)]
    if arguments.quick and not arguments.cells:
        selected = [cell for cell in selected if cell.name in cells.MUST_CELLS]
    if arguments.list or not selected:
        print("\n".join(cell.name for cell in cells.CELLS))
        return 0 if arguments.list else 1
    if shutil.which("fio") is None:
        sys.exit("bench: fio is not installed; .ci/setup bench installs it")
    # Also where the shell has left SIGINT ignored, as it does for commands in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    placement = Placement(arguments.placement)
    scratch = make_scratch(arguments.scratch)
    chosen = []
    try:
        image = make_image(scratch, arguments.size)
        chosen = choose_exporters(arguments, image, scratch, placement)
        if not chosen:
            sys.exit("bench: nothing to measure")
        machine = describe_machine(arguments, placement, scratch)
        if arguments.scale:
            settle(image, reread=True)
            curves, pictures = measure_curves(arguments, chosen, image, scratch, placement)
            result, documents = {"machine": machine, "curves": curves}, pictures
            print(json.dumps(curves, indent=1))
        else:
            samples = measure(chosen, selected, arguments, placement, image)
            summary = report.summarise(samples)
            beside, rows = measure_beside(arguments, chosen, image, summary)
            table = report.table(summary, selected, machine)
            print(f"{table}\n\n{musts.markdown(rows)}")
            result = report.document(summary, samples, machine) | {"beside": beside, "musts": rows}
            documents = {
                "bench.svg": picture(summary, selected), "bench.txt": table + "\n"}
            if arguments.docs:
                command = " ".join(word for word in sys.argv[1:] if not word.startswith("/"))
                rewrite_measured(arguments.docs, f"`bench.py {command}`\n\n{musts.markdown(rows)}\n\n```\n{table}\n```")
        if arguments.json:
            write_documents(os.path.dirname(os.path.abspath(arguments.json)), {
                os.path.basename(arguments.json): json.dumps(result, indent=1)})
        if arguments.docs:
            write_documents(os.path.join(arguments.docs, "figures"), documents)
        return 0
    except KeyboardInterrupt:
        print("\nbench: interrupted", file=sys.stderr)
        return 130
    except (exporters.ExporterError, RuntimeError) as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 2
    finally:
        for exporter in chosen:
            exporter.stop()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
