# SPDX-License-Identifier: MIT
"""The table of what must be reached and what is aimed at, filled with what one run has measured."""

#: text, must, aim, whether more is better, how it is found; `m` is a Measured.
ROWS = [
    ("4k randread QD1, /dev/fuse: p50 over PT's", 1.15, 1.05, False,
     lambda m: m.ratio("randread-4k-qd1", "pvdisk-dev", "PT", "p50_us")),
    ("4k randread QD1, default transport: IOPS over QSD's", 1.5, 4, True,
     lambda m: m.ratio("randread-4k-qd1", m.default, "QSD")),
    ("4k randread QD1, default transport: IOPS over nbdfuse's", 5, 10, True,
     lambda m: m.ratio("randread-4k-qd1", m.default, "NBD")),
    ("4k randread QD1, default transport: p99 over its own p50", None, 2, False,
     lambda m: m.value("randread-4k-qd1", m.default, "p99_us") / m.value("randread-4k-qd1", m.default, "p50_us")),
] + [
    (f"4k {what}: IOPS over {whose}", must, aim, True,
     lambda m, cell=cell, other=other: m.ratio(cell, m.default, other))
    for what, cell in (("randread QD32", "randread-4k-qd32"), ("randread 4x8", "randread-4k-4xqd8"))
    for whose, other, must, aim in (("QSD's", "QSD", 1.8, 2.2), ("nbdfuse's", "NBD", 6, 10), ("PT's", "PT", 0.9, 1.0))
] + [
    (f"{what} over {whose}", must, aim, True,
     lambda m, cell=cell, other=other: m.ratio(cell, m.default, other))
    for what, cell, whose, other, must, aim in (
        ("4k randwrite QD32: IOPS", "randwrite-4k-qd32", "QSD's", "QSD", 1.3, 2.5),
        ("4k randwrite QD32: IOPS", "randwrite-4k-qd32", "PT's", "PT", 0.9, 1.0),
        ("1 MiB read QD4", "read-1m-qd4", "QSD's", "QSD", 3, 6),
        ("1 MiB read QD4", "read-1m-qd4", "PT's", "PT", 0.9, 1.0),
        ("1 MiB write QD4", "write-1m-qd4", "QSD's", "QSD", 1.0, 1.3),
        ("1 MiB write QD4", "write-1m-qd4", "PT's", "PT", 0.9, 1.0),
    )
] + [
    ("CPU time per 4k I/O, server and fio, QD32: over QSD's", 1.0, 0.6, False,
     lambda m: m.cpu("randread-4k-qd32", m.default) / m.cpu("randread-4k-qd32", "QSD")),
    ("PV stack over the same FUSE code on the bare image, 4k QD1, /dev/fuse (us, p50)", 1.0, 0.5, False,
     lambda m: m.value("randread-4k-qd1", "pvdisk-dev", "p50_us") - m.value("randread-4k-qd1", "bare-dev", "p50_us")),
    ("PV stack over the same FUSE code on the bare image, 4k QD1, io_uring (us, p50)", 1.0, 0.5, False,
     lambda m: m.value("randread-4k-qd1", "pvdisk-uring", "p50_us")
     - m.value("randread-4k-qd1", "bare-uring", "p50_us")),
    ("PV stack over the same FUSE code on the bare image, 4k QD32, default transport (us of the server's CPU)", 1.0, 0.5,
     False, lambda m: m.value("randread-4k-qd32", m.default, "server_cpu_us")
     - m.value("randread-4k-qd32", m.default.replace("pvdisk", "bare"), "server_cpu_us")),
    ("in process, null device, inline: round trip at QD1 (ns)", 300, 150, False,
     lambda m: m.stack("null, inline, round trip, queue depth 1")),
    ("in process, null device, inline: millions of requests a second in batches", 5, 10, True,
     lambda m: 1000 / m.stack("null, inline, batches of 32")),
    ("in process, 4k reads of a cached image: millions a second", 1.0, 1.3, True,
     lambda m: 1000 / m.stack("whole stack, 4 KiB random reads, depth 32")),
    ("in process, 1 MiB reads: rate over a preadv2 loop's", 0.8, 0.95, True,
     lambda m: m.stack("preadv2 loop, 1 MiB reads, depth 4") / m.stack("whole stack, 1 MiB reads, depth 4")),
    ("notifications per request at QD32", 0.25, 0.05, False, lambda m: m.notifications),
    ("start to first I/O (ms)", 50, 10, False, lambda m: m.idle["first_io_ms"]),
    ("memory of an idle disk's process (MiB, private and dirty)", 8, 2, False, lambda m: m.idle["private_mib"]),
]


class Measured:
    """What a run has found, by name; KeyError and TypeError say that something was not measured."""

    def __init__(self, summary, stack_rows, notifications, idle):
        self.summary = summary
        self.rows = {row["name"]: row["median"] for row in stack_rows}
        self.notifications = notifications
        self.idle = idle
        names = {name for by_exporter in summary.values() for name in by_exporter}
        self.default = "pvdisk-uring" if "pvdisk-uring" in names else "pvdisk-dev"

    def value(self, cell, exporter, field="requests_per_second"):
        """A median."""
        return self.summary[cell][exporter][field]

    def ratio(self, cell, exporter, other, field="requests_per_second"):
        """A median over another exporter's."""
        return self.value(cell, exporter, field) / self.value(cell, other, field)

    def cpu(self, cell, exporter):
        """CPU time of server and client for one request."""
        return self.value(cell, exporter, "server_cpu_us") + self.value(cell, exporter, "client_cpu_us")

    def stack(self, name):
        """Nanoseconds for one request, of a row of `pvdisk bench`."""
        return self.rows[name]


def evaluate(measured):
    """Rows as dictionaries: what, must, aim, measured, verdict."""
    rows = []
    for text, must, aim, more, find in ROWS:
        try:
            value = find(measured)
        except (KeyError, TypeError, ZeroDivisionError):
            value = None
        rows.append({"what": text, "must": must, "aim": aim, "measured": value, "verdict": verdict(value, must, aim, more)})
    return rows


def verdict(value, must, aim, more):
    """In a word."""
    if value is None:
        return "not measured"
    def reaches(limit):
        return value >= limit if more else value <= limit
    if reaches(aim):
        return "aim"
    return "must" if must is None or reaches(must) else "MISSED"


def markdown(rows):
    """The table for docs/performance.md."""
    lines = ["| what | must | aim | measured | |", "|---|---|---|---|---|"]
    for row in rows:
        value = "-" if row["measured"] is None else f"{row['measured']:.3g}"
        must = "-" if row["must"] is None else f"{row['must']:g}"
        lines.append(f"| {row['what']} | {must} | {row['aim']:g} | {value} | {row['verdict']} |")
    return "\n".join(lines)
