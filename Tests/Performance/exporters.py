# SPDX-License-Identifier: MIT
"""The programs that show an image file as a block file, each started, waited for and stopped in its own way."""

import json
import os
import shutil
import signal
import subprocess
import time


class ExporterError(Exception):
    """An exporter that did not start, or did not stop, and what it said."""


def process_tree(pid):
    """The process and its descendants."""
    members = [pid]
    for member in members:
        try:
            for task in os.listdir(f"/proc/{member}/task"):
                with open(f"/proc/{member}/task/{task}/children") as children:
                    members += [int(child) for child in children.read().split()]
        except OSError:
            pass
    return members


def cpu_seconds(pid):
    """User and system time that the process and its descendants have used so far."""
    ticks = 0
    for member in process_tree(pid):
        try:
            with open(f"/proc/{member}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def is_mounted(path):
    """Whether something is mounted at exactly this path."""
    with open("/proc/self/mountinfo") as table:
        return any(line.split()[4] == os.path.realpath(path) for line in table)


class Exporter:
    """One way to reach the image. Subclasses say how to start it, where the file is, and how to stop it."""

    name = ""
    needs = []
    #: The file is reached with O_DIRECT, which on a FUSE file means: no page cache of the client's own.
    direct = 1

    def __init__(self, image, scratch, placement):
        self.image = image
        self.directory = os.path.join(scratch, self.name.lower() + ".mnt")
        self.log = os.path.join(scratch, self.name.lower() + ".log")
        self.placement = placement
        self.process = None

    def missing(self):
        """The first program that is needed and not there, or None."""
        return next((tool for tool in self.needs if shutil.which(tool) is None), None)

    def command(self):
        """The server's command line."""
        raise NotImplementedError

    def file(self):
        """The block file."""
        return os.path.join(self.directory, "disk")

    def mount_point(self):
        """What is mounted."""
        return self.directory

    def prepare(self):
        """Makes what is mounted over."""
        os.makedirs(self.directory, exist_ok=True)

    def start(self, pause=0.01):
        """Starts the server and waits until the file has its size."""
        self.prepare()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=self.placement.pin_server)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ExporterError(f"{self.name} ended with {self.process.returncode}: {self.said()}")
            if is_mounted(self.mount_point()) and self.has_size():
                return
            time.sleep(pause)
        raise ExporterError(f"{self.name} did not show its file within 20 s: {self.said()}")

    def has_size(self):
        """Whether the file is there and as long as the image."""
        try:
            return os.stat(self.file()).st_size == os.stat(self.image).st_size
        except OSError:
            return False

    def said(self):
        """The end of what the server wrote."""
        with open(self.log) as log:
            return log.read()[-400:].strip()

    def request_stop(self):
        """Asks the server to end."""
        subprocess.run(["fusermount3", "-u", self.mount_point()], stderr=subprocess.DEVNULL, check=False)

    def stop(self):
        """Ends the server and waits for it; afterwards nothing is mounted, whatever had to be done for it."""
        if self.process is None:
            return
        self.request_stop()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if is_mounted(self.mount_point()):
            subprocess.run(["fusermount3", "-uz", self.mount_point()], check=False)
        self.process = None


def offers_ring():
    """Whether the kernel offers fuse-over-io_uring now."""
    try:
        with open("/sys/module/fuse/parameters/enable_uring") as switch:
            return switch.read().startswith(("Y", "1"))
    except OSError:
        return False


RING_REMEDY = "fuse-over-io_uring (echo Y | sudo tee /sys/module/fuse/parameters/enable_uring)"


class PVDisk(Exporter):
    """The disk under test, over /dev/fuse."""

    name = "pvdisk-dev"
    transport = "dev"

    def __init__(self, image, scratch, placement, program, options):
        super().__init__(image, scratch, placement)
        self.program = program
        self.options = options
        self.fixed_options = list(options)
        #: What it counted, as it said at its end.
        self.statistics = None

    def missing(self):
        if self.transport == "uring" and not offers_ring():
            return RING_REMEDY
        return None if shutil.which(self.program) else self.program

    def command(self):
        return [
            self.program, "mount", "--statistics", f"--fuse-transport={self.transport}", *self.options, self.image,
            self.directory]

    def stop(self):
        was_running = self.process is not None
        super().stop()
        if was_running:
            with open(self.log) as log:
                text = log.read()
            if "{" in text:
                self.statistics = json.loads(text[text.index("{"):])

    def file(self):
        return os.path.join(self.directory, "xvda")

    def request_stop(self):
        if subprocess.run([self.program, "umount", self.directory], stderr=subprocess.DEVNULL).returncode != 0:
            super().request_stop()


class PVDiskRing(PVDisk):
    """The disk under test, over io_uring."""

    name = "pvdisk-uring"
    transport = "uring"


class BareExport(PVDisk):
    """pvdisk's FUSE code on the image itself: what the PV stack costs is the difference."""

    name = "bare-dev"

    def command(self):
        return [self.program, self.image, self.directory, self.transport]

    def file(self):
        return os.path.join(self.directory, "disk")

    def request_stop(self):
        Exporter.request_stop(self)


class BareExportRing(BareExport):
    """The same over io_uring."""

    name = "bare-uring"
    transport = "uring"


class Passthrough(Exporter):
    """passthrough.c: what a FUSE file costs when nothing stands behind it but pread and pwrite."""

    name = "PT"
    flags = []

    def __init__(self, image, scratch, placement, program):
        super().__init__(image, scratch, placement)
        self.program = program

    def command(self):
        return [self.program, *self.flags, self.image, self.directory]


class NullPassthrough(Passthrough):
    """passthrough.c without data: the price of the crossing alone."""

    name = "PT-null"
    flags = ["--null"]


class StorageDaemon(Exporter):
    """qemu-storage-daemon's FUSE export, which is mounted over a regular file."""

    name = "QSD"
    needs = ["qemu-storage-daemon"]

    def file(self):
        return os.path.join(self.directory, "disk")

    def mount_point(self):
        return self.file()

    def prepare(self):
        super().prepare()
        with open(self.file(), "w"):
            pass

    def command(self):
        return [
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=image,filename={self.image},aio=io_uring,discard=unmap",
            "--export", f"type=fuse,id=export,node-name=image,mountpoint={self.file()},writable=on,growable=off",
        ]

    def request_stop(self):
        self.process.terminate()


class NetworkBlock(Exporter):
    """nbdfuse in front of nbdkit's file plugin, joined by a socket."""

    name = "NBD"
    needs = ["nbdfuse", "nbdkit"]

    def command(self):
        return ["nbdfuse", self.file(), "[", "nbdkit", "file", self.image, "]"]


class Raw(Exporter):
    """The image file itself, through the page cache: no server at all."""

    name = "RAW"
    direct = 0

    def file(self):
        return self.image

    def start(self, pause=0):
        pass
