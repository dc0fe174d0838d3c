#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Looks for lost and wrong bytes: fio's verification, then random operations beside an oracle in memory, on every transport
and placement in turn, until the time is over.

The oracle knows what the disk must hold, byte for byte; a failure prints the seed and the operations that led to it.
"""

import argparse
import collections
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

import exporters

PUNCH, ZERO, KEEP = 2, 16, 1


class Placement:
    """Server and client where the kernel likes."""

    def pin_server(self):
        """Nowhere in particular."""


class Oracle:
    """A disk file and what it must hold."""

    def __init__(self, path, seed, byte_count):
        self.random = random.Random(seed)
        self.path = path
        self.buffered = os.open(path, os.O_RDWR)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.bytes = bytearray(os.pread(self.buffered, byte_count, 0))
        self.page = mmap.mmap(-1, 1 << 20)
        self.log = collections.deque(maxlen=12)

    def close(self):
        """Lets go of the file."""
        os.close(self.buffered)
        os.close(self.direct)

    def place(self, alignment, most):
        """A random range."""
        start = self.random.randrange(0, len(self.bytes), alignment)
        length = self.random.randint(1, max(1, most // alignment)) * alignment
        return start, min(length, len(self.bytes) - start)

    def step(self):
        """One operation; raises AssertionError when the disk is not what it must be."""
        kind = self.random.choices(
            ["read", "write", "direct-read", "direct-write", "punch", "zero", "sync", "short"],
            [30, 25, 15, 15, 4, 4, 2, 5])[0]
        start, length = self.place(512 if kind.startswith("direct") else 1, self.random.choice([600, 9000, 300_000]))
        self.log.append((kind, start, length))
        if kind in ("read", "direct-read", "short"):
            self.check(kind, start, length)
        elif kind in ("write", "direct-write"):
            self.write(kind, start, length)
        elif kind == "sync":
            os.fsync(self.buffered)
        else:
            self.clear(kind, start, length)

    def check(self, kind, start, length):
        """Reads, and compares; `short` asks for more than there is."""
        if kind == "direct-read":
            view = memoryview(self.page)[:length]
            count = os.preadv(self.direct, [view], start)
            found = bytes(view[:count])
            view.release()
        else:
            wanted = length if kind == "read" else len(self.bytes) - start + length
            found = os.pread(self.buffered, min(wanted, 1 << 20), start)
            length = min(length if kind == "read" else len(self.bytes) - start, 1 << 20)
        expected = self.bytes[start:start + length]
        if found != expected:
            place = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
            raise AssertionError(f"byte {start + place} is wrong ({len(found)} of {length} bytes came)")

    def write(self, kind, start, length):
        """Writes what no other write has written."""
        data = self.random.randbytes(length)
        if kind == "direct-write":
            self.page[:length] = data
            view = memoryview(self.page)[:length]
            count = os.pwritev(self.direct, [view], start)
            view.release()
        else:
            count = os.pwrite(self.buffered, data, start)
        if count != length:
            raise AssertionError(f"{count} of {length} bytes were written")
        self.bytes[start:start + length] = data

    def clear(self, kind, start, length):
        """Punches a hole, or zeros."""
        mode = KEEP | (PUNCH if kind == "punch" else ZERO)
        subprocess_free_fallocate(self.buffered, mode, start, length)
        self.bytes[start:start + length] = bytes(length)


def subprocess_free_fallocate(descriptor, mode, start, length):
    """fallocate(2), which Python has only without its mode."""
    import ctypes
    library = ctypes.CDLL(None, use_errno=True)
    library.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if library.fallocate(descriptor, mode, start, length) != 0:
        code = ctypes.get_errno()
        raise AssertionError(f"fallocate: {os.strerror(code)}")


def verify_with_fio(path, seconds, seed):
    """fio writes blocks with checksums at random places and reads them back."""
    command = [
        "fio", "--name=verify", f"--filename={path}", "--rw=randrw", "--bsrange=512-256k", "--bs_unaligned=0",
        "--blockalign=512", "--ioengine=libaio", "--iodepth=16", "--direct=1", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
        f"--randseed={seed}", "--size=24m", "--io_size=64m", "--verify_backlog=64", "--invalidate=0",
        f"--runtime={max(1, int(seconds))}", "--allow_file_create=0", "--output-format=terse"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise AssertionError(f"fio: {(result.stderr or result.stdout).strip()[-600:]}")


def configurations(wanted):
    """What is tried, one after the other."""
    transports = [kind for kind in (exporters.PVDisk, exporters.PVDiskRing)
                  if kind.transport != "uring" or exporters.offers_ring()]
    for kind in transports:
        for options in (["--placement=inline"], ["--placement=threads"], ["--sector-size=4096"], ["--cache=none"],
                        ["--no-persistent", "--queues=1"], ["--indirect-segments=11", "--ring-pages=1"]):
            name = f"{kind.transport} {' '.join(options)}"
            if all(word in name for word in wanted):
                yield name, kind, options


# What a server may grow by between the first tenth of its operations and the last, in KiB.
GROWTH = 4096


def resident(exporter):
    """The KiB that the server's processes hold."""
    total = 0
    for pid in exporters.process_tree(exporter.process.pid):
        try:
            with open(f"/proc/{pid}/status", encoding="ascii") as status:
                total += sum(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))
        except OSError:
            pass
    return total


def soak_one(kind, options, program, scratch, seconds, seed):
    """One configuration for some seconds; the number of operations, and the KiB that the server grew by meanwhile."""
    image = os.path.join(scratch, "image.raw")
    with open(image, "wb") as file:
        file.write(random.Random(seed).randbytes(24 << 20))
    exporter = kind(image, scratch, Placement(), program, options)
    exporter.start()
    oracle = None
    try:
        verify_with_fio(exporter.file(), seconds / 3, seed)
        oracle = Oracle(exporter.file(), seed, 24 << 20)
        end, operations = time.monotonic() + seconds * 2 / 3, 0
        settled, before = time.monotonic() + seconds / 15, None
        while time.monotonic() < end or operations < 50:
            try:
                oracle.step()
            except (AssertionError, OSError) as error:
                history = "\n  ".join(map(str, oracle.log))
                raise AssertionError(f"{error}, after {operations} operations, the last:\n  {history}") from error
            operations += 1
            if before is None and time.monotonic() > settled:
                before = resident(exporter)
        os.fsync(oracle.buffered)
        growth = resident(exporter) - before if before is not None else 0
        # A sanitizer's own memory grows with what it watches.
        if growth > GROWTH and "PVDISK_SANITIZER" not in os.environ:
            raise AssertionError(f"the server grew by {growth} KiB in {operations} operations")
        expected = oracle.bytes
    finally:
        if oracle:
            oracle.close()
        exporter.stop()
    with open(image, "rb") as file:
        if file.read() != expected:
            raise AssertionError("the image does not hold what the disk held")
    return operations, growth


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pvdisk", required=True, metavar="PROGRAM")
    parser.add_argument("--seconds", type=float, default=120, help="for each configuration (120)")
    parser.add_argument("--hours", type=float, help="for all configurations together, instead")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", default="", metavar="WORDS", help="configurations with all these words in their names")
    arguments = parser.parse_args()
    if arguments.hours:
        arguments.seconds = arguments.hours * 3600 / len(list(configurations(arguments.only.split())))
    scratch = tempfile.mkdtemp(prefix="pvdisk-soak-", dir="/var/tmp")
    failures = 0
    try:
        for number, (name, kind, options) in enumerate(configurations(arguments.only.split())):
            seed = arguments.seed + number
            try:
                operations, growth = soak_one(
                    kind, options, os.path.abspath(arguments.pvdisk), scratch, arguments.seconds, seed)
                print(f"ok      {name}: {operations} operations, {growth:+} KiB, seed {seed}", flush=True)
            except (AssertionError, exporters.ExporterError) as error:
                failures += 1
                print(f"FAILED  {name}: {error}\n        again: --seed {seed} --only='{name}'", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 5 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
