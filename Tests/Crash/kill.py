#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Kills a mounted disk, again and again, under a load that syncs, and looks into the image.

Every write has a number of its own, and a sector is that number, 64 times. An oracle that knows nothing of pvdisk notes what was
asked and what was acknowledged. A process that is killed leaves the page cache, so after each kill each sector must hold the last
write that was acknowledged for it, or the one that was under way; and all 64 numbers of a sector must be the same.

A third of the kills come at a system call: nothing outside the process changes between two of them, so killing it at each kind of
call, the n-th time it is made, is killing it at every step that anybody else could tell apart. Every pair of a call and an n has its
turn before any comes again. The others come at any time. Some come while the disk is being unmounted.

Three calls are made once in the life of a disk: that which mounts, that which unmounts, and the last sync of the image, for all syncs
before it travel through io_uring. The last two need an end in peace to be met at all. `pvdisk create` is killed at its calls as well.

Also checked: every caller of the dead disk gets an error, `pvdisk umount` takes the dead mount away, and the image can be mounted
again at once, which shows that its lock went with the process.

exit status: 0 nothing was lost, 2 something that is needed is missing, 5 something was lost
"""
import argparse
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

SECTOR = 512
PATIENCE = 60  # seconds; far beyond what anything here takes
STEPS = [  # the calls by which the process changes or learns anything outside of itself
    "pwritev2", "preadv2", "io_uring_enter", "writev", "readv", "read", "write", "fallocate",
    "epoll_wait", "poll", "futex", "mmap", "munmap", "openat", "ioctl", "close", "lseek", "eventfd2",
]
TIMES = [1, 2, 3, 5, 10, 30, 100, 300]  # the n-th of them
ONCE = ["mount", "umount2", "fdatasync"]  # each as often as a call of the list above that is made half as often as it is offered
AT_END = ["umount2", "fdatasync"]
CREATING = ["openat", "ftruncate", "fsync"]  # the last of them is the image's own


class Oracle:
    """What each sector may hold."""

    def __init__(self, sectors):
        self.certain = [0] * sectors
        self.under_way = [None] * sectors
        self.next = 1
        self.writes = 0
        self.lock = threading.Lock()

    def begin(self, start, count):
        with self.lock:
            first = self.next
            self.next += count
            for index in range(count):
                self.under_way[start + index] = first + index
            return first

    def end(self, start, count):
        with self.lock:
            self.writes += 1
            for index in range(count):
                self.certain[start + index] = self.under_way[start + index]
                self.under_way[start + index] = None

    def check(self, image):
        """Compares with the image, and goes on from what is there; answers sentences about what is wrong."""
        wrong = []
        for sector in range(len(self.certain)):
            words = struct.unpack_from("<64Q", image, sector * SECTOR)
            allowed = {self.certain[sector], self.under_way[sector]}
            if len(set(words)) != 1:
                wrong.append(f"sector {sector} is torn: {sorted(set(words))}")
            elif words[0] not in allowed:
                wrong.append(f"sector {sector} holds {words[0]}, not one of {allowed}")
            self.certain[sector] = words[0]
            self.under_way[sector] = None
        return wrong


class Worker(threading.Thread):
    """Writes into sectors of its own until the disk is gone, and syncs now and then."""

    def __init__(self, path, oracle, sectors, seed):
        super().__init__(daemon=True)
        self.path, self.oracle, self.sectors, self.random = path, oracle, sectors, random.Random(seed)
        self.error, self.flushes, self.ended = None, 0, None

    def run(self):
        try:
            disk = os.open(self.path, os.O_RDWR)
        except OSError as error:
            self.error, self.ended = error, time.monotonic()
            return
        try:
            while True:
                if self.random.random() < 0.1:
                    os.fsync(disk)
                    self.flushes += 1
                    continue
                self.write(disk)
        except OSError as error:
            self.error, self.ended = error, time.monotonic()
        finally:
            try:
                os.close(disk)
            except OSError:
                pass

    def write(self, disk):
        low, high = self.sectors
        count = min(self.random.choice([1, 1, 2, 8, 8, 16, 64, 128]), high - low)
        start = self.random.randrange(low, high - count + 1)
        first = self.oracle.begin(start, count)
        data = b"".join(struct.pack("<Q", first + index) * 64 for index in range(count))
        written = os.pwrite(disk, data, start * SECTOR)
        if written != len(data):
            raise OSError(0, f"a write of {len(data)} bytes took {written}")
        self.oracle.end(start, count)


class Harness:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.folder = tempfile.mkdtemp(prefix="pvdisk-kill-", dir=options.folder)
        self.image = os.path.join(self.folder, "disk.img")
        self.point = os.path.join(self.folder, "point")
        os.mkdir(self.point)
        with open(self.image, "wb") as image:
            image.truncate(options.sectors * SECTOR)
        self.oracle = Oracle(options.sectors)
        self.can_trace = shutil.which("strace") is not None
        self.turns = []
        self.hit = dict.fromkeys(STEPS + ONCE + [f"create's {call}" for call in CREATING], 0)
        self.numbers = dict(kills=0, at_steps=0, while_unmounting=0, before_ready=0, flushes=0, slowest_release=0.0)

    def variant(self):
        pick = self.random.choice
        options = ["--queues", pick(["1", "1", "2"]), "--ring-pages", pick(["1", "4"])]
        options += pick([[], [], ["--placement", "threads"]])
        options += pick([[], [], ["--no-persistent"]])
        options += pick([[], [], ["--indirect-segments", "0"]])
        return options

    def start(self, step):
        command = [self.options.pvdisk, "mount", self.image, self.point, *self.variant()]
        if step:
            # The call is made known by what strace does to it; a kind that this process never makes ends by time instead.
            command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={step[0]}:signal=KILL:when={step[1]}",
                       *command]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=open(os.path.join(self.folder, "errors"), "wb"), start_new_session=True)

    def signal(self, process, is_traced, number):
        """Sends the process that holds the disk a signal."""
        victims = [process.pid]
        if is_traced:
            # strace ends when what it runs has ended; killed itself, it would leave that behind, half dead.
            try:
                with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
                    victims = [int(word) for word in children.read().split()] or victims
            except OSError:
                pass
        for pid in victims:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def step(self):
        """The next pair of a call and which of them to die at; nothing for a kill at any time."""
        if not self.can_trace or self.random.random() >= self.options.steps:
            return None
        if not self.turns:
            self.turns = [(call, number) for call in STEPS for number in TIMES] + 4 * [(call, 1) for call in ONCE]
            self.random.shuffle(self.turns)
        return self.turns.pop()

    def errors(self):
        with open(os.path.join(self.folder, "errors"), errors="replace") as errors:
            return errors.read()[-2000:].strip()

    def round(self):
        step = self.step()
        process = self.start(step)
        path = os.path.join(self.point, "xvda")
        workers = self.begin_load(process, path)
        deadline = time.monotonic() + self.random.uniform(0, self.options.time) + (1.0 if step else 0)
        unmounting, is_unmounting, is_ending = None, self.random.random() < 0.15, bool(step and step[0] in AT_END)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        if is_ending and process.poll() is None:
            unmounting = self.end_in_peace(process, step[0])
        elif process.poll() is None and is_unmounting:
            unmounting = subprocess.Popen([self.options.pvdisk, "umount", "--force", self.point], stdin=subprocess.DEVNULL,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(self.random.uniform(0, 0.05))
            self.numbers["while_unmounting"] += 1
        if step and process.poll() == -signal.SIGKILL:
            self.numbers["at_steps"] += 1
            self.hit[step[0]] += 1
        elif process.poll() is not None and not unmounting and not is_ending:
            return [f"the disk ended by itself with status {process.poll()} before it was killed: {self.errors()}"]
        killed = time.monotonic()
        self.signal(process, step is not None, signal.SIGKILL)
        process.wait(PATIENCE)
        for worker in workers:
            worker.join(PATIENCE)
            if worker.is_alive():
                return [f"a caller still waits {PATIENCE} s after the kill"]
            self.numbers["flushes"] += worker.flushes
            if worker.ended:
                self.numbers["slowest_release"] = max(self.numbers["slowest_release"], worker.ended - killed)
        if unmounting:
            unmounting.wait(PATIENCE)
        self.numbers["kills"] += 1
        if not workers:
            self.numbers["before_ready"] += 1
        return self.clean_up() + self.oracle.check(self.contents())

    def end_in_peace(self, process, call):
        """Has the disk end by itself, and returns when it has, most likely at that call; answers who waits for its end."""
        self.numbers["while_unmounting"] += 1
        # A disk that is told to end by a signal serves those who have it open until they close it.
        if call == "umount2" and self.random.random() < 0.5:
            self.signal(process, True, signal.SIGTERM)
            process.wait(PATIENCE)
            return None
        waiting = subprocess.Popen([self.options.pvdisk, "umount", "--force", self.point], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process.wait(PATIENCE)
        return waiting

    def create(self):
        """Makes another image, and dies at a call of that: what is there then is nothing, an empty file, or a whole image."""
        call = self.random.choice(CREATING)
        image, log = os.path.join(self.folder, "made.img"), os.path.join(self.folder, "calls")
        command = ["strace", "-qq", "-o", log, "-P", image, "-e", f"inject={call}:signal=KILL:when=1", self.options.pvdisk,
                   "create", image, "1M"]
        status = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE).returncode
        if status != -signal.SIGKILL:
            return [f"pvdisk create ended with status {status}, and not at {call}"]
        self.hit[f"create's {call}"] += 1
        size = os.path.getsize(image) if os.path.exists(image) else None
        if size not in {"openat": (None, 0), "ftruncate": (0, 1 << 20), "fsync": (1 << 20,)}[call]:
            return [f"pvdisk create left {size} bytes at {call}"]
        if size:
            used = subprocess.run([self.options.pvdisk, "run", image, "--", "true"], capture_output=True, text=True, timeout=PATIENCE)
            if used.returncode != 0:
                return [f"what pvdisk create left at {call} cannot be used: {used.stderr.strip()}"]
        if size is not None:
            os.unlink(image)
        return []

    def begin_load(self, process, path):
        limit = time.monotonic() + PATIENCE
        while process.poll() is None and not os.path.exists(path):
            if time.monotonic() > limit:
                process.kill()
                raise SystemExit("kill: the disk was not there in time")
            time.sleep(0.002)
        if process.poll() is not None:
            return []
        share = self.options.sectors // self.options.workers
        workers = [Worker(path, self.oracle, (index * share, (index + 1) * share), self.random.random())
                   for index in range(self.options.workers)]
        for worker in workers:
            worker.start()
        return workers

    def clean_up(self):
        """Takes the dead mount away, as a user would."""
        if self.is_mounted():
            result = subprocess.run([self.options.pvdisk, "umount", self.point], capture_output=True, text=True,
                                    timeout=PATIENCE)
            if self.is_mounted():
                return [f"umount left the mount there: status {result.returncode}, {result.stderr.strip()}"]
        return []

    def is_mounted(self):
        with open("/proc/self/mountinfo") as mounts:
            return any(line.split()[4] == self.point for line in mounts)

    def contents(self):
        with open(self.image, "rb") as image:
            return image.read()

    def run(self):
        start = time.monotonic()
        shows = sys.stderr.isatty()
        try:
            for number in range(1, self.options.kills + 1):
                wrong = self.round()
                if not wrong and self.can_trace and number % 20 == 0:
                    wrong = self.create()
                if wrong:
                    print(f"kill: after kill {number} of seed {self.options.seed}: {'; '.join(wrong[:5])}", file=sys.stderr)
                    print(self.errors(), file=sys.stderr)
                    return 5
                if shows:
                    print(f"\r{self.summary(start)}   ", end="", file=sys.stderr)
            # The image is still one that can be mounted and unmounted in peace.
            final = subprocess.run([self.options.pvdisk, "run", self.image, "--", "true"], capture_output=True, text=True,
                                   timeout=PATIENCE)
            if final.returncode != 0:
                print(f"kill: the image cannot be used any more: {final.stderr.strip()}", file=sys.stderr)
                return 5
        finally:
            if shows:
                print(file=sys.stderr)
            if self.is_mounted():
                subprocess.run(["fusermount3", "-u", "-z", self.point], check=False)
            shutil.rmtree(self.folder, ignore_errors=True)
        print(self.summary(start))
        if self.can_trace:
            print("kill: at " + ", ".join(f"{call} {count}" for call, count in self.hit.items() if count))
            print("kill: never at " + (", ".join(call for call, count in self.hit.items() if not count) or "none of the others"))
        return 0

    def summary(self, start):
        n = self.numbers
        return (f"kill: {n['kills']} kills ({n['at_steps']} at a system call, {n['while_unmounting']} while unmounting, "
                f"{n['before_ready']} before the disk was ready), {self.oracle.writes} acknowledged writes, "
                f"{n['flushes']} flushes, slowest release of a caller {n['slowest_release'] * 1000:.0f} ms, "
                f"nothing lost, nothing torn; {time.monotonic() - start:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pvdisk", default=".build/release/pvdisk")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("PVDISK_SEED", "1")))
    parser.add_argument("--sectors", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--time", type=float, default=0.3, help="the most seconds of load before a kill")
    parser.add_argument("--steps", type=float, default=0.33, help="the share of kills that come at a system call")
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        print("kill: there is no /dev/fuse that may be used", file=sys.stderr)
        return 2
    return Harness(options).run()


sys.exit(main())
