#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PyXS, a client from the Python package index, against the store at a socket: usage: stock.py SOCKET

Exit status 0 when it gets what xenstored would give it; the first difference is an AssertionError.
"""
import errno
import sys

import pyxs


def refused(code, call, *words):
    try:
        call(*words)
    except pyxs.PyXSError as error:
        assert error.args[0] == code, error
    else:
        raise AssertionError(f"{call.__name__}{words} was not refused")


with pyxs.Client(unix_socket_path=sys.argv[1]) as client:
    client.write(b"/py/a", b"one")
    assert client.read(b"/py/a") == b"one"
    client[b"/py/b"] = b"two"
    assert client[b"/py/b"] == b"two"
    client.mkdir(b"/py/c")
    assert client.list(b"/py") == [b"a", b"b", b"c"]
    assert client.exists(b"/py/c") and not client.exists(b"/py/d")
    client.delete(b"/py/c")
    refused(errno.ENOENT, client.read, b"/py/c")
    client.set_perms(b"/py/a", [b"n0", b"r7"])
    assert client.get_perms(b"/py/a") == [b"n0", b"r7"]
    client.transaction()
    client.write(b"/py/t", b"1")
    assert client.commit()
    client.transaction()
    client.write(b"/py/t", b"2")
    client.rollback()
    assert client.read(b"/py/t") == b"1"
    monitor = client.monitor()
    monitor.watch(b"/py", b"token")
    events = monitor.wait()
    assert next(events) == (b"/py", b"token")
    client.write(b"/py/w", b"x")
    assert next(events) == (b"/py/w", b"token")
    monitor.unwatch(b"/py", b"token")
    assert client.is_domain_introduced(9) is False
    client.introduce_domain(9, 1, 2)
    assert client.is_domain_introduced(9) is True
    assert client.get_domain_path(9) == b"/local/domain/9"
    client.resume_domain(9)
    client.release_domain(9)
    refused(errno.ENOENT, client.release_domain, 9)
print("PyXS: as with xenstored")
