# SPDX-License-Identifier: MIT
"""What is measured beside the cells: the stack in process, an idle disk, and curves with one thing changed at a time."""

import dataclasses
import json
import os
import statistics
import subprocess
import time

import cells
import exporters


def stack_rows(program, image, repeats, milliseconds):
    """The rows of `pvdisk bench`, without and with the image."""
    rows = []
    for words in ([], [image]):
        result = subprocess.run(
            [program, "bench", "--json", "--repeats", str(repeats), "--milliseconds", str(milliseconds), *words],
            capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"pvdisk bench failed: {result.stderr.strip()[-400:]}")
        rows += json.loads(result.stdout)
    return rows


def notifications_per_request(statistics_document):
    """Both ends' notifications for one request, from what `pvdisk mount --statistics` said."""
    queues = statistics_document["queues"]
    sent = sum(queue[end]["notifications"] for queue in queues for end in ("frontend", "backend"))
    return sent / max(1, sum(queue["frontend"]["requests"] for queue in queues))


def idle_disk(exporter, repeats=5):
    """Medians of the time from starting pvdisk to the first block read, and of the memory it then has for itself."""
    times, private = [], []
    for _ in range(repeats):
        begin = time.monotonic()
        exporter.start(pause=0.0005)
        descriptor = os.open(exporter.file(), os.O_RDONLY)
        os.pread(descriptor, 4096, 0)
        times.append((time.monotonic() - begin) * 1000)
        os.close(descriptor)
        with open(f"/proc/{exporter.process.pid}/smaps_rollup") as rollup:
            fields = {line.split(":")[0]: int(line.split()[1]) for line in rollup if line.endswith("kB\n")}
        # What nobody can give back: a clean page of the program's file is the file's.
        private.append(fields["Private_Dirty"] / 1024)
        exporter.stop()
    return {"first_io_ms": statistics.median(times), "private_mib": statistics.median(private)}


@dataclasses.dataclass(frozen=True)
class Curve:
    """One thing changed, the rest as by default."""

    name: str
    x_name: str
    values: list
    #: The options of `pvdisk mount` for a value.
    options: object = None
    #: The cell for a value.
    cell: object = None
    #: Others that the value means something to.
    beside: tuple = ()


QD32 = cells.Cell("randread-4k-4xqd8", "randread", "4k", depth=8, jobs=4)
CURVES = [
    Curve("queues", "queues", [1, 2, 4, 8], options=lambda n: [f"--queues={n}"]),
    Curve("ring-pages", "ring pages", [1, 2, 4, 8, 16], options=lambda n: [f"--ring-pages={n}"]),
    Curve("depth", "requests in flight (4k reads, one job)", [1, 2, 4, 8, 16, 32, 64, 128],
          cell=lambda n: cells.Cell(f"qd{n}", "randread", "4k", depth=n), beside=("PT", "QSD")),
    Curve("size", "KiB in a request (reads, depth 4)", [1, 4, 16, 64, 256, 1024, 4096],
          cell=lambda n: cells.Cell(f"size{n}", "read", f"{n}k", depth=4), beside=("PT", "QSD")),
    Curve("segments", "segments of a request (1 MiB reads, depth 4)", [1, 11, 32, 64, 128, 256],
          options=lambda n: [f"--indirect-segments={n}"],
          cell=lambda n: cells.Cell("read-1m-qd4", "read", "1m", depth=4)),
    Curve("kept-grants", "pages kept mapped, in % of those in flight (1 MiB reads, depth 8)", [10, 25, 50, 75, 100, 150, 200],
          options=lambda n: [f"--max-persistent-grants={n * 8 * 256 // 100}"],
          cell=lambda n: cells.Cell("read-1m-qd8", "read", "1m", depth=8)),
]


def curve_points(curve, by_name, placement, runtime):
    """exporter name -> [(value, rate)]: thousands of requests a second, or MB/s where the size changes."""
    points = {}
    for value in curve.values:
        cell = curve.cell(value) if curve.cell else QD32
        for name, exporter in by_name.items():
            if name.startswith("pvdisk"):
                exporter.options = list(exporter.fixed_options) + (curve.options(value) if curve.options else [])
            elif name not in curve.beside:
                continue
            exporter.start()
            try:
                sample = cells.run(cell, exporter, placement, runtime, 0.3)
            finally:
                exporter.stop()
            rate = sample.bytes_per_second / 1e6 if cell.is_bulk else sample.requests_per_second / 1e3
            points.setdefault(name, []).append((value, rate))
    for exporter in by_name.values():
        if hasattr(exporter, "fixed_options"):
            exporter.options = list(exporter.fixed_options)
    return points


def disk_points(by_name, image, scratch, placement, runtime, counts=(1, 2, 4, 8, 16, 32, 64)):
    """How the sum of rates, and the fairest share, hold with many disks at once: one process and one fio job each."""
    name = next(name for name in by_name if name.startswith("pvdisk"))
    model = by_name[name]
    size = 16 << 20
    points, shares = [], []
    for count in counts:
        disks = []
        try:
            for number in range(count):
                path = os.path.join(scratch, f"disk{number}.raw")
                if not os.path.exists(path):
                    with open(image, "rb") as source, open(path, "wb") as target:
                        target.write(source.read(size))
                place = os.path.join(scratch, f"disk{number}")
                os.makedirs(place, exist_ok=True)
                disks.append(type(model)(path, place, placement, model.program, model.options + ["--queues=1"]))
                disks[-1].start()
            rates = run_many(disks, runtime)
        finally:
            for disk in disks:
                disk.stop()
        points.append((count, sum(rates) / 1e3))
        shares.append((count, min(rates) / max(rates)))
    return {name: points}, {name: shares}


def run_many(disks, runtime):
    """Requests a second of each disk, read at the same time."""
    command = ["fio", "--output-format=json", "--rw=randread", "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=4",
               f"--runtime={cells.milliseconds(runtime)}", "--time_based", "--invalidate=0", "--norandommap", "--thread"]
    for number, disk in enumerate(disks):
        command += [f"--name=disk{number}", f"--filename={disk.file()}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"fio failed: {result.stderr.strip()[-400:]}")
    jobs = json.loads(result.stdout[result.stdout.index("{"):])["jobs"]
    return [job["read"]["iops"] for job in jobs]
