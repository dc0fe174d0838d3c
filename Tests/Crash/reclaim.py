#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""ext4 on a loop device on a mounted disk, all of it in a memory cgroup that is too small: nothing stalls, nothing is lost.

The daemon, the loop device's user and the writer share the group's limit, so that every page the writer dirties is reclaimed by way of
the daemon. The writer knows what each block must hold and looks again after the file system was mounted anew.

Without CAP_SYS_RESOURCE the daemon cannot have the mark of an I/O flusher, by which its own allocations wait for no page of the disk. In
the group it then locks up within seconds: it waits for memory, that for a page to be written, and that for the daemon. So it stays
outside of the group there, where only the users of the disk are short of memory, and what is printed says so.

usage: reclaim.py --pvdisk COMMAND [--seconds 60] [--limit 96] [--stall 5] [--seed 1]    root, with a memory controller (v1 or v2)
exit status: 0 all is well, 2 cannot run here, 5 something was lost or stalled
"""
import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

BLOCK = 64 << 10
BLOCKS = 4096  # 256 MiB


class Group:
    """A memory cgroup of its own, of either version."""

    def __init__(self, limit):
        v1, v2 = pathlib.Path("/sys/fs/cgroup/memory"), pathlib.Path("/sys/fs/cgroup")
        self.is_v1 = v1.is_dir()
        if not self.is_v1 and "memory" not in (v2 / "cgroup.controllers").read_text().split():
            raise OSError("no memory controller")
        self.path = (v1 if self.is_v1 else v2) / f"pvdisk-reclaim-{os.getpid()}"
        self.path.mkdir()
        self.write("memory.limit_in_bytes" if self.is_v1 else "memory.max", limit)

    def write(self, name, value):
        (self.path / name).write_text(str(value))

    def enter(self):
        (self.path / "cgroup.procs").write_text("0")

    def pressure(self):
        """How often the limit was met, and the most that was used."""
        if self.is_v1:
            return int((self.path / "memory.failcnt").read_text()), int((self.path / "memory.max_usage_in_bytes").read_text())
        events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
        return int(events["max"]), int((self.path / "memory.peak").read_text())

    def remove(self):
        for _ in range(100):
            try:
                return self.path.rmdir()
            except OSError:
                time.sleep(0.1)


def run(*words, group=None, seconds=300):
    """Runs a command to its end, in the group if there is one."""
    done = subprocess.run([str(word) for word in words], preexec_fn=group.enter if group else None, timeout=seconds,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{words}: {done.stderr.strip()}")
    return done.stdout.strip()


def content(block, version):
    return (b"%8d %8d\n" % (block, version)) * (BLOCK // 18) + bytes(BLOCK % 18)


def work(path, seconds, seed):
    """What the writer does, in a process of its own: prints its slowest call in seconds, its writes and its syncs."""
    chance, versions, slowest, writes, syncs = random.Random(seed), [0] * BLOCKS, 0.0, 0, 0
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    end = time.monotonic() + seconds
    while time.monotonic() < end or 0 in versions[:8]:
        block = chance.randrange(BLOCKS)
        begun = time.monotonic()
        if chance.random() < 0.02:
            os.fdatasync(file)
            syncs += 1
        elif chance.random() < 0.2 and versions[block]:
            assert os.pread(file, BLOCK, block * BLOCK) == content(block, versions[block]), f"block {block} is wrong"
        else:
            versions[block] += 1
            assert os.pwrite(file, content(block, versions[block]), block * BLOCK) == BLOCK
            writes += 1
        slowest = max(slowest, time.monotonic() - begun)
        if time.monotonic() > end + 60:
            break
    os.fsync(file)
    print(slowest, writes, syncs, *versions)


def may_be_marked():
    """Whether this process has CAP_SYS_RESOURCE."""
    status = pathlib.Path("/proc/self/status").read_text()
    return bool(int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")), 16) >> 24 & 1)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--pvdisk", required=True)
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--limit", type=int, default=96, help="MiB")
    options.add_argument("--stall", type=float, default=5, help="seconds that no call may take")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--work", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.work:
        return work(given.work, given.seconds, given.seed)
    if os.geteuid() != 0:
        print("reclaim: needs root, for loop devices and cgroups", file=sys.stderr)
        return 2
    try:
        group = Group(given.limit << 20)
    except OSError as error:
        print(f"reclaim: cannot make a memory cgroup here: {error}", file=sys.stderr)
        return 2
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pvdisk-reclaim-"))
    point, image, loop, status = folder / "m", folder / "d.img", None, 5
    (folder / "fs").mkdir()
    point.mkdir()
    try:
        run(given.pvdisk, "create", image, "512M")
        run(given.pvdisk, "mount", "--daemonize", image, point, group=group if may_be_marked() else None)
        loop = run("losetup", "--find", "--show", point / "xvda", group=group)
        run("mkfs.ext4", "-q", "-F", loop, group=group)
        run("mount", loop, folder / "fs", group=group)
        answer = run(sys.executable, __file__, "--pvdisk", given.pvdisk, "--work", folder / "fs" / "file", "--seconds",
                     given.seconds, "--seed", given.seed, group=group, seconds=given.seconds + 300).split()
        slowest, writes, syncs, versions = float(answer[0]), int(answer[1]), int(answer[2]), list(map(int, answer[3:]))
        run("umount", folder / "fs")
        run("mount", loop, folder / "fs")
        with open(folder / "fs" / "file", "rb") as file:
            wrong = [block for block, version in enumerate(versions)
                     if version and os.pread(file.fileno(), BLOCK, block * BLOCK) != content(block, version)]
        met, peak = group.pressure()
        print(f"reclaim: {given.seconds} s, seed {given.seed}: {writes} writes of 64 KiB, {syncs} syncs, limit of {given.limit} MiB met "
              f"{met} times, peak {peak >> 20} MiB, slowest call {slowest:.2f} s, {len(wrong)} blocks wrong"
              + ("" if may_be_marked() else "; the daemon was outside of the group, for it could not be marked as an I/O flusher"))
        if not met:
            print("reclaim: the limit was never met: nothing was shown", file=sys.stderr)
        elif not wrong and slowest <= given.stall:
            status = 0
    finally:
        for words in (["umount", folder / "fs"], ["losetup", "-d", loop], [given.pvdisk, "umount", point]):
            try:
                run(*words, seconds=60)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"reclaim: {error}", file=sys.stderr)
        group.remove()
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False)
    return status


if __name__ == "__main__":
    sys.exit(main())
