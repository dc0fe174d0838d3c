#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Ends a mounted disk while 64 calls wait for it, again and again, in each way in which a FUSE file system can end.

  kill     the daemon is killed: with SIGSTOP first, so that all 64 calls are certain to wait
  abort    the connection is aborted through the fusectl file system, the daemon being stopped; then it goes on, and must end
           (over io_uring it goes on at once: what the kernel has put into a stopped process's ring waits for that process)
  lazy     umount -l: what is open goes on working, and the daemon ends when the last file is closed
  client   the process that makes the 64 calls is killed; the disk serves the next one, and is unmounted in peace

Every second time some of the calls are fsync(2), which the kernel lets nobody pass: then fewer requests than calls are in flight.

After each: every caller was let go (with an error, or by its own death), the daemon is gone, no mount and no connection is left.
How long the slowest caller took is printed; a caller that is not let go within a minute is a failure.

exit status: 0 all of it held, 2 something that is needed is missing, 5 something did not
"""
import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

PATIENCE = 60
KINDS = ["kill", "abort", "lazy", "client"]
SWITCH = "/sys/module/fuse/parameters/enable_uring"


def client(path, count, syncs):
    """The calls: threads that read, write and perhaps sync until the disk is gone, or until standard input ends."""
    disk = os.open(path, os.O_RDWR)
    stop = threading.Event()
    errors = []

    def work(seed):
        chance = random.Random(seed)
        try:
            while not stop.is_set():
                place = chance.randrange(1024) * 4096
                kind = chance.random()
                if syncs and kind < 0.1:
                    os.fsync(disk)
                elif kind < 0.5:
                    os.pread(disk, 4096, place)
                else:
                    os.pwrite(disk, bytes(4096), place)
        except OSError as error:
            errors.append(error.errno)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)

    def listen():
        sys.stdin.read()
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    for thread in threads:
        thread.join()
    print(len(errors), flush=True)
    os._exit(0)


class Failure(Exception):
    pass


class Harness:
    def __init__(self, options):
        self.options, self.random = options, random.Random(options.seed)
        self.folder = tempfile.mkdtemp(prefix="pvdisk-death-", dir=options.folder)
        self.image, self.point = os.path.join(self.folder, "disk.img"), os.path.join(self.folder, "point")
        self.control = os.path.join(self.folder, "control")
        os.mkdir(self.point)
        os.mkdir(self.control)
        with open(self.image, "wb") as image:
            image.truncate(4 << 20)
        self.slowest = dict.fromkeys(KINDS, 0.0)
        self.done = dict.fromkeys(KINDS, 0)
        self.least_waiting, self.syncs = None, False
        self.transport, self.transports = "dev", ["dev"]
        if os.path.exists(SWITCH):
            with open(SWITCH) as switch:
                self.transports += ["uring"] if switch.read().startswith("Y") else []

    def mount_line(self):
        with open("/proc/self/mountinfo") as mounts:
            return next((line.split() for line in mounts if line.split()[4] == self.point), None)

    def connection(self):
        line = self.mount_line()
        return os.path.join(self.control, line[2].split(":")[1])

    def wait(self, what, condition):
        limit = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > limit:
                raise Failure(f"{what}: not within {PATIENCE} s")
            time.sleep(0.002)

    def options_of_mount(self):
        pick = self.random.choice
        self.transport = pick(self.transports)
        return ["--fuse-transport", self.transport, "--queues", pick(["1", "2"])] + pick([[], ["--placement", "threads"]]) + pick([[], ["--no-persistent"]])

    def waiting(self, connection):
        with open(os.path.join(connection, "waiting")) as waiting:
            return int(waiting.read())

    def hold(self, daemon, connection):
        """Stops the daemon, and returns when all calls wait for it."""
        os.kill(daemon.pid, signal.SIGSTOP)
        if self.syncs:
            self.wait("some calls wait", lambda: self.waiting(connection) > 0)
            time.sleep(0.05)
            return
        self.wait("all calls wait", lambda: self.waiting(connection) >= self.options.calls)
        waiting = self.waiting(connection)
        self.least_waiting = waiting if self.least_waiting is None else min(self.least_waiting, waiting)

    def ended(self, kind, process, since):
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure(f"{kind}: a caller still waits after {PATIENCE} s") from None
        self.slowest[kind] = max(self.slowest[kind], time.monotonic() - since)

    def round(self, kind):
        daemon = subprocess.Popen([self.options.pvdisk, "mount", self.image, self.point, *self.options_of_mount()],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        path = os.path.join(self.point, "xvda")
        self.wait("the disk is there", lambda: os.path.exists(path) or daemon.poll() is not None)
        if daemon.poll() is not None:
            raise Failure(f"{kind}: the disk did not start: {daemon.stderr.read().decode().strip()}")
        connection = self.connection()
        self.syncs = self.done[kind] % 2 == 1
        callers = subprocess.Popen([sys.executable, __file__, "--client", path, "--calls", str(self.options.calls),
                                    *(["--syncs"] if self.syncs else [])],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        callers.stdout.readline()
        time.sleep(self.random.uniform(0, 0.1))
        try:
            getattr(self, kind)(daemon, callers, connection, path)
        finally:
            # The daemon first: whoever waits for a stopped one cannot be killed.
            for process in (daemon, callers):
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                    process.wait(PATIENCE)
        if self.mount_line():
            subprocess.run([self.options.pvdisk, "umount", self.point], capture_output=True, timeout=PATIENCE, check=False)
        if self.mount_line():
            raise Failure(f"{kind}: a mount is left")
        self.wait(f"{kind}: the connection goes", lambda: not os.path.exists(connection))
        self.done[kind] += 1

    def expect_errors(self, kind, callers):
        failed = int(callers.stdout.read())
        if failed != self.options.calls:
            raise Failure(f"{kind}: {failed} of {self.options.calls} callers had an error")

    def kill(self, daemon, callers, connection, _):
        self.hold(daemon, connection)
        since = time.monotonic()
        daemon.kill()
        self.ended("kill", callers, since)
        self.expect_errors("kill", callers)
        daemon.wait(PATIENCE)

    def abort(self, daemon, callers, connection, _):
        self.hold(daemon, connection)
        since = time.monotonic()
        with open(os.path.join(connection, "abort"), "w") as abort:
            abort.write("1")
        if self.transport == "uring":
            os.kill(daemon.pid, signal.SIGCONT)
        self.ended("abort", callers, since)
        self.expect_errors("abort", callers)
        os.kill(daemon.pid, signal.SIGCONT)
        daemon.wait(PATIENCE)

    def lazy(self, daemon, callers, connection, _):
        subprocess.run(["umount", "-l", self.point], check=True)
        time.sleep(self.random.uniform(0, 0.05))
        since = time.monotonic()
        callers.stdin.close()
        self.ended("lazy", callers, since)
        if callers.stdout.read().strip() != "0":
            raise Failure("lazy: what was open stopped working")
        if daemon.wait(PATIENCE) != 0:
            raise Failure(f"lazy: the daemon ended with status {daemon.returncode}")

    def client(self, daemon, callers, connection, path):
        since = time.monotonic()
        callers.kill()
        self.ended("client", callers, since)
        disk = os.open(path, os.O_RDWR)
        try:
            if len(os.pread(disk, 4096, 0)) != 4096:
                raise Failure("client: the disk does not serve the next caller")
        finally:
            os.close(disk)
        ending = subprocess.run([self.options.pvdisk, "umount", self.point], capture_output=True, text=True, timeout=PATIENCE,
                                check=False)
        if ending.returncode != 0 or daemon.wait(PATIENCE) != 0:
            raise Failure(f"client: umount {ending.returncode}, mount {daemon.returncode}: {ending.stderr.strip()}")

    def run(self):
        start = time.monotonic()
        subprocess.run(["mount", "-t", "fusectl", "none", self.control], check=True)
        try:
            for number in range(self.options.cycles):
                self.round(KINDS[number % len(KINDS)])
        except Failure as failure:
            print(f"death: seed {self.options.seed}, cycle {sum(self.done.values()) + 1}: {failure}", file=sys.stderr)
            return 5
        finally:
            if self.mount_line():
                subprocess.run(["umount", "-l", self.point], check=False)
            subprocess.run(["umount", self.control], check=False)
            shutil.rmtree(self.folder, ignore_errors=True)
        slowest = ", ".join(f"{kind} {self.done[kind]} (slowest caller {self.slowest[kind] * 1000:.0f} ms)" for kind in KINDS)
        print(f"death: {sum(self.done.values())} cycles with {self.options.calls} calls: {slowest}; at least {self.least_waiting} "
              f"requests were waiting at a kill or abort; nothing left behind; {time.monotonic() - start:.0f} s")
        return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pvdisk", default=".build/release/pvdisk")
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--calls", type=int, default=64)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("PVDISK_SEED", "1")))
    parser.add_argument("--folder", default=None)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--syncs", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        return client(options.client, options.calls, options.syncs)
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid() != 0:
        print("death: needs /dev/fuse, and root for the fusectl file system", file=sys.stderr)
        return 2
    return Harness(options).run()


sys.exit(main())
