#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""conversation.py OUT: how the conversations in the store differ from those recorded between Linux's own drivers.

Reads what Tests/RealXen/run left in OUT (xenstored-trace.log and domains.txt), compares it with the recorded conversation of
the same scenario, and prints a table. Each difference needs an explanation below; one without makes the exit status 5.
"""
import pathlib
import re
import sys

RECORDED = pathlib.Path(__file__).resolve().parent.parent / "XenRecords/Resources/conversations"

# Our scenario, the recorded one, and the end that is ours.
SCENARIOS = {
    "defaults": ("default-1vcpu", "backend"),
    "queues2-order2-seg64": ("fe-2queues-order2-seg64", "backend"),
    "seg256": ("fe-indirect256", "backend"),
    "guest-not-persistent": ("fe-persistent-off", "backend"),
    "backend-not-persistent": ("be-persistent-off", "backend"),
    "front-blkback": ("default-1vcpu", "frontend"),
}

# Values that are a run's accidents: grant references and ports.
ACCIDENTS = re.compile(r"(^|/)(ring-ref\d*|event-channel)$")

# Why a node differs: folder and node, and what it is that differs (an end that is ours, or any).
EXPLANATIONS = {
    ("backend", "params"): "the image of this run",
    ("backend", "type"): "the toolstack says `file`: the image is a file, not a block device",
    ("backend", "script"): "no hotplug script: the backend opens the image by itself",
    ("backend", "physical-device"): "no hotplug script, and a file has no device number (decision 4)",
    ("backend", "physical-device-path"): "written by the backend; names the image of this run",
    ("backend", "hotplug-status"): "written by the backend, which has opened the image",
    ("backend", "multi-queue-max-queues"): "8 or what `--queues` says; blkback says the number of dom0's CPUs",
    ("backend", "max-ring-page-order"): "what `--ring-pages` says",
    ("backend", "feature-max-indirect-segments"): "what `--indirect-segments` says",
    ("backend", "discard-secure"): "on ext4 and tmpfs sectors are overwritten in place, so that a secure discard can be offered",
    ("backend", "physical-sector-size"): "the block size of the file system that the image lies on",
    ("backend", "online"): "xl detaches the disks of a guest that ends; the recording ends before",
    ("backend", "discard-granularity"): "what the image's file system says",
    ("backend", "state"): "a guest that powers off closes its disks; the recording ends before",
    ("frontend", "backend"): "the kind of the backend's folder is `pvdisk`, so that the kernel's blkback leaves the disk alone",
    ("frontend", "feature-persistent"): "the kernel's grants are kept for as long as their pages exist",
    ("frontend", "state"): "our frontend closes when it is unmounted, and makes its folder ready for the next driver; a guest that "
    "powers off closes its disks; the recording ends before",
}


def recorded(name):
    for line in (RECORDED / f"{name}.txt").read_text().splitlines():
        if line.startswith("# the folders"):
            return
        found = re.match(r"\S+ WRITE (/\S+) ?(.*)", line)
        if found:
            yield found[1], found[2]


def traced(trace, domain):
    """The writes about the guest's first disk, in order; a guest's own paths are relative."""
    kernel = re.compile(rf"backend/\w+/{domain}/51712/\S+")  # dom0's kernel writes relative paths
    whole = re.compile(rf"/local/domain/(?:{domain}/device/vbd|0/backend/\w+/{domain})/51712/\S+")
    introduced, guests = None, {}
    for line in trace:
        found = re.match(r"CREATE connection (0x\w+)", line)
        if found:
            # A guest's connection is made when its toolstack introduces it.
            guests[found[1]], introduced = introduced, None
            continue
        found = re.match(r"IN (0x\w+) \d+ [\d:]+ (INTRODUCE|WRITE) \((\S+) ?(.*)\)$", line)
        if not found:
            continue
        connection, operation, path, value = found.groups()
        if operation == "INTRODUCE":
            introduced = path
        elif whole.fullmatch(path):
            yield path, value.strip()
        elif kernel.fullmatch(path):
            yield f"/local/domain/0/{path}", value.strip()
        elif path.startswith("device/vbd/51712/") and guests.get(connection) == domain:
            yield f"/local/domain/{domain}/{path}", value.strip()


def nodes(writes):
    """Folder and node: the values written, one behind the other."""
    out = {}
    for path, value in writes:
        place = re.search(r"(device/vbd|backend/\w+/\d+)/51712/(\S+)$", path)
        if not place:
            continue
        folder = "frontend" if place[1].startswith("device") else "backend"
        if ACCIDENTS.search(place[2]):
            value = "a number"
        value = re.sub(r"/local/domain/\d+/(device|backend)", r"/local/domain/N/\1", value)
        value = re.sub(r"(backend/\w+)/\d+/", r"\1/N/", value)
        if place[2] == "frontend-id":
            value = "N"
        values = out.setdefault((folder, place[2]), [])
        # A state that is written again without a change says nothing, but for a resize.
        if not values or values[-1] != value:
            values.append(value)
    return out


def order(found, folder, common):
    return [name for where, name in found if where == folder and (where, name) in common and name != "state"]


def main():
    out = pathlib.Path(sys.argv[1])
    trace = (out / "xenstored-trace.log").read_text(errors="replace").splitlines()
    domains = dict(line.split() for line in (out / "domains.txt").read_text().splitlines())
    unexplained = 0
    rows = {}
    for ours, (theirs, end) in SCENARIOS.items():
        if ours not in domains:
            continue
        a, b = nodes(recorded(theirs)), nodes(traced(trace, domains[ours]))
        if not b:
            print(f"conversation: the trace has nothing of {ours}", file=sys.stderr)
            return 5
        for key in sorted(set(a) | set(b)):
            left, right = (", ".join(x.get(key, ["-"])) for x in (a, b))
            if left != right:
                rows.setdefault((key, left, right), []).append(ours)
        for folder in ("frontend", "backend"):
            common = set(a) & set(b)
            left, right = order(a, folder, common), order(b, folder, common)
            if left != right:
                moved = [name for name, other in zip(left, right) if name != other]
                rows.setdefault(((folder, "(order)"), " ".join(moved), " ".join(
                    name for name, other in zip(right, left) if name != other)), []).append(ours)
    print("| node | between Linux's drivers | with ours | where | why |\n|---|---|---|---|---|")
    for ((folder, name), left, right), where in sorted(rows.items()):
        why = EXPLANATIONS.get((folder, name))
        if name == "state" and not right.startswith(left):
            why = None
        if why is None:
            unexplained += 1
            why = "NOT EXPLAINED"
        print(f"| {folder} `{name}` | {left} | {right} | {', '.join(where)} | {why} |")
    if unexplained:
        print(f"conversation: {unexplained} differences have no explanation", file=sys.stderr)
        return 5
    return 0


sys.exit(main())
