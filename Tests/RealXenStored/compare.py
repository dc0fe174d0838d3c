#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The same random requests to Debian's own xenstored and to 'pvdisk xenstored': replies and events must be equal.

usage: compare.py PVDISK [STEPS [SEED]]

Debian's program is fetched with apt-get and run without Xen (fakexen.c). What is known to differ, each with its reason in
docs/xenstore.md, is not asked: paths above 2048 bytes, permissions of special nodes, domain numbers that are none, and transactions
that others disturb.
"""
import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ["xen-utils-4.17", "libxenmisc4.17", "libxengnttab1", "libxenevtchn1", "libxencall1", "libxenforeignmemory1",
            "libxentoollog1", "libxendevicemodel1", "libxenstore4", "libyajl2"]
OK, EVENT = 0, 15


def start_real(work):
    subprocess.run(["apt-get", "-q", "download", *PACKAGES], cwd=work, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, work / "root"], check=True)
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", work / "fakexen.so", HERE / "fakexen.c", "-ldl"], check=True)
    (work / "fake").mkdir()
    (work / "run").mkdir()
    os.mkfifo(work / "fake" / "events")
    libraries = f"{work}/root/usr/lib/x86_64-linux-gnu:{work}/root/usr/lib/xen-4.17/lib/x86_64-linux-gnu"
    environment = dict(os.environ, FAKEXEN=str(work / "fake"), LD_PRELOAD=str(work / "fakexen.so"),
                       XENSTORED_RUNDIR=str(work / "run"), LD_LIBRARY_PATH=libraries)
    program = work / "root/usr/lib/xen-4.17/bin/xenstored"
    return subprocess.Popen([program, "-N"], env=environment, stderr=subprocess.DEVNULL), work / "run" / "socket"


def start_ours(work, pvdisk):
    path = work / "ours"
    return subprocess.Popen([pvdisk, "xenstored", "--socket", path]), path


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(300):
            try:
                self.socket.connect(str(path))
                break
            except OSError:
                time.sleep(0.1)
        self.bytes, self.pending, self.transactions = b"", [], {}

    def message(self):
        while True:
            if len(self.bytes) >= 16:
                kind, _, _, length = struct.unpack("<4I", self.bytes[:16])
                if len(self.bytes) >= 16 + length:
                    payload, self.bytes = self.bytes[16:16 + length], self.bytes[16 + length:]
                    return kind, payload
            self.bytes += self.socket.recv(65536) or sys.exit("a store closed the connection")

    def ask(self, kind, payload, transaction=0):
        self.socket.sendall(struct.pack("<4I", kind, 7, transaction, len(payload)) + payload)
        while True:
            answer, text = self.message()
            if answer != EVENT:
                return answer, text
            self.pending.append(text)

    def events(self):
        self.ask(10, b"0\0")  # GET_DOMAIN_PATH: everything before its answer has come
        events, self.pending = self.pending, []
        return events


PATHS = ["/a", "/a/b", "/a/b/c", "/d", "/d/e", "rel", "rel/x", "/local/domain/5", "/a/", "", "//", "/tool", "@releaseDomain",
         "@introduceDomain", "/d/" + "x" * 40, "/", "/a b", "/" + "y" * 2046, "/" + "y" * 3073, "/z"]
KINDS = {"read": 2, "write": 11, "mkdir": 12, "rm": 13, "directory": 1, "get_perms": 3, "set_perms": 14, "watch": 4,
         "unwatch": 5, "part": 22, "introduce": 8, "is_introduced": 17, "release": 9, "resume": 18, "reset": 21}


def request(chance):
    name = chance.choice(list(KINDS) + ["read", "write", "write", "rm", "directory"])
    path = chance.choice(PATHS + PATHS[:5] * 3).encode()
    if path[:1] == b"@" and name in ("get_perms", "set_perms"):
        path = b"/a/b"
    token = chance.choice([b"t1", b"t2", b""])
    payload = {
        "write": lambda: path + b"\0" + bytes(chance.randrange(256) for _ in range(chance.randrange(5))),
        "set_perms": lambda: path + b"\0" + b"".join(
            chance.choice([b"n0", b"r5", b"b3", b"w7", b"x1"]) + b"\0" for _ in range(chance.randrange(4))),
        "watch": lambda: path + b"\0" + token + b"\0",
        "unwatch": lambda: path + b"\0" + token + b"\0",
        "part": lambda: path + b"\0" + chance.choice([b"0", b"3", b"-1"]) + b"\0",
        "introduce": lambda: chance.choice([b"5\x001\x003\0", b"6\x002\x004\0", b"5\0"]),
        "is_introduced": lambda: chance.choice([b"5\0", b"0\0", b"9\0"]),
        "release": lambda: chance.choice([b"9\0", b"0\0"]),
        "resume": lambda: chance.choice([b"5\0", b"9\0"]),
        "reset": lambda: b"\0",
    }.get(name, lambda: path + b"\0")()
    return name, payload


def main():
    pvdisk = sys.argv[1]
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    chance = random.Random(seed)
    work = pathlib.Path(tempfile.mkdtemp(prefix="pvdisk-xenstored-"))
    processes = []
    try:
        stores = []
        for process, path in (start_real(work), start_ours(work, pvdisk)):
            processes.append(process)
            stores.append([Client(path) for _ in range(3)])
        for step in range(steps):
            who = chance.randrange(3)
            name, payload = request(chance)
            found = []
            for clients in stores:
                answer = clients[who].ask(KINDS[name], payload)
                if name == "part" and answer[0] == 22:
                    answer = (22, answer[1][answer[1].index(b"\0"):])  # generation counts are each store's own
                found.append((answer, [client.events() for client in clients]))
            if found[0] != found[1]:
                print(f"step {step}, seed {seed}: {name} {payload[:80]}\n  xenstored {found[0]}\n  pvdisk    {found[1]}")
                return 5
        print(f"{steps} random requests of three clients, seed {seed}: equal replies and events")
        return 0
    finally:
        for process in processes:
            process.terminate()
        shutil.rmtree(work, ignore_errors=True)


sys.exit(main())
