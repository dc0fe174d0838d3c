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

import cells
import exporters
import report

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ["pvdisk", "PT", "PT-null", "QSD", "NBD", "RAW"]


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
    parser.add_argument("--repetitions", type=int, metavar="N", help="runs of each cell (5; 2 with --quick)")
    parser.add_argument("--runtime", type=float, metavar="S", help="seconds of a run (2; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
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
    unknown = set(wanted) - set(NAMES)
    if unknown:
        sys.exit(f"bench: no such comparator: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    chosen = []
    if arguments.pvdisk and "pvdisk" in wanted:
        options = arguments.pvdisk_option
        chosen.append(exporters.PVDisk(image, scratch, placement, os.path.abspath(arguments.pvdisk), options))
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
            print(f"bench: {exporter.name} is left out: {tool} is not installed", file=sys.stderr)
        else:
            present.append(exporter)
    return present


def measure(chosen, selected, arguments, placement, image):
    """All samples: cell name -> exporter name -> list."""
    repetitions = arguments.repetitions or (2 if arguments.quick else 5)
    runtime = arguments.runtime or (1 if arguments.quick else 2)
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
                    samples[cell.name][exporter.name].append(cells.run(cell, exporter, placement, runtime, 0.5))
                finally:
                    exporter.stop()
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
        "kernel": platform.release(), "cpus": len(os.sched_getaffinity(0)), "cpu_model": model,
        "placement": placement.describe(), "file_system": file_system(scratch),
        "load_at_start": os.getloadavg()[0], "image_mib": arguments.size,
        "pvdisk_options": arguments.pvdisk_option,
        "fio": subprocess.run(["fio", "--version"], capture_output=True, text=True, check=False).stdout.strip(),
    }


def main():
    """Measures and reports; whatever happens, nothing stays mounted or running."""
    arguments = parse_arguments()
    words = arguments.cells.split(",") if arguments.cells else [""]
    selected = [cell for cell in cells.CELLS if any(word in cell.name for word in words)]
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
        samples = measure(chosen, selected, arguments, placement, image)
        summary = report.summarise(samples)
        print(report.table(summary, selected, machine))
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump(report.document(summary, samples, machine), file, indent=1)
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
