# SPDX-License-Identifier: MIT
"""What is measured: fio jobs, and how one is run and read."""

import dataclasses
import json
import subprocess

from exporters import cpu_seconds


@dataclasses.dataclass(frozen=True)
class Cell:
    """One access pattern."""

    name: str
    pattern: str
    block: str
    depth: int = 1
    jobs: int = 1

    @property
    def writes(self):
        """Whether the image changes."""
        return "write" in self.pattern

    @property
    def is_bulk(self):
        """Whether bytes per second say more than requests per second."""
        return self.block != "4k"


CELLS = [
    Cell("randread-4k-qd1", "randread", "4k"),
    Cell("randread-4k-qd32", "randread", "4k", depth=32),
    Cell("randread-4k-4xqd8", "randread", "4k", depth=8, jobs=4),
    Cell("randwrite-4k-qd1", "randwrite", "4k"),
    Cell("randwrite-4k-qd32", "randwrite", "4k", depth=32),
    Cell("randwrite-4k-4xqd8", "randwrite", "4k", depth=8, jobs=4),
    Cell("read-1m-qd4", "read", "1m", depth=4),
    Cell("write-1m-qd4", "write", "1m", depth=4),
    Cell("read-128k-qd1", "read", "128k"),
    Cell("write-128k-qd1", "write", "128k"),
]

#: Those that the table of musts needs.
MUST_CELLS = {
    "randread-4k-qd1", "randread-4k-qd32", "randread-4k-4xqd8", "randwrite-4k-qd32", "read-1m-qd4", "write-1m-qd4",
}


@dataclasses.dataclass
class Sample:
    """One run of one cell against one exporter."""

    requests_per_second: float
    bytes_per_second: float
    p50_us: float
    p99_us: float
    p999_us: float
    server_cpu_us: float | None
    client_cpu_us: float


def milliseconds(seconds):
    """A time as fio takes it: a fraction of a second without a unit would be none."""
    return f"{round(seconds * 1000)}ms"


def fio_command(cell, exporter, runtime, ramp):
    """The command line for fio 3.33."""
    command = [
        "fio", "--name=cell", f"--filename={exporter.file()}", f"--rw={cell.pattern}", f"--bs={cell.block}",
        f"--numjobs={cell.jobs}", f"--runtime={milliseconds(runtime)}", f"--ramp_time={milliseconds(ramp)}", "--time_based",
        # Without these fio drops the page cache that is to be measured, or spends its time on its own bookkeeping.
        "--invalidate=0", "--norandommap", "--randrepeat=0", "--allow_file_create=0",
        f"--direct={exporter.direct}", "--group_reporting", "--output-format=json",
        # One process, so that ending it ends all jobs.
        "--thread",
    ]
    if cell.depth > 1:
        return command + ["--ioengine=libaio", f"--iodepth={cell.depth}"]
    return command + ["--ioengine=psync"]


def run(cell, exporter, placement, runtime, ramp):
    """Runs the cell once."""
    server = exporter.process.pid if exporter.process else None
    before = cpu_seconds(server) if server else 0
    result = subprocess.run(
        fio_command(cell, exporter, runtime, ramp), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        preexec_fn=placement.pin_client, check=False)
    after = cpu_seconds(server) if server else 0
    if result.returncode != 0:
        raise RuntimeError(f"fio failed on {exporter.name}, {cell.name}: {result.stderr.strip()[-400:]}")
    # fio may print warnings ahead of the document.
    job = json.loads(result.stdout[result.stdout.index("{"):])["jobs"][0]
    side = job["write" if cell.writes else "read"]
    if job["error"] != 0 or side["total_ios"] == 0:
        raise RuntimeError(f"fio met error {job['error']} on {exporter.name}, {cell.name}")
    percentiles = side["clat_ns"]["percentile"]
    # fio does not count requests of the ramp, but the server worked for them too: at the same rate.
    requests = side["iops"] * (runtime + ramp)
    client = (job["usr_cpu"] + job["sys_cpu"]) / 100 * cell.jobs / side["iops"] * 1e6
    return Sample(
        requests_per_second=side["iops"], bytes_per_second=side["bw_bytes"],
        p50_us=percentiles["50.000000"] / 1000, p99_us=percentiles["99.000000"] / 1000,
        p999_us=percentiles["99.900000"] / 1000,
        server_cpu_us=(after - before) / requests * 1e6 if server else None, client_cpu_us=client)
