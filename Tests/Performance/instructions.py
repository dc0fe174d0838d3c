#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Counts the instructions of one request's way through ring, grants and events and back, with callgrind, and compares them
with a ceiling. Unlike time, this is the same on a busy machine.

Two runs of different length are compared, so that what starting costs falls out.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

#: Instructions for one 4 KiB read of a null device in inline placement, queue depths 1 and 32 in equal times: what was
#: measured (1718 on 2026-11-29), and some more, as the mix of the two varies. Lower it when you have made the way shorter.
CEILING = 2000


def collect(program, milliseconds):
    """Instructions and requests of a run."""
    result = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, "bench", "--json", "--repeats", "1",
         "--placement", "inline", "--milliseconds", str(milliseconds)],
        capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", result.stderr)
    if result.returncode != 0 or not found:
        sys.exit(f"instructions: valgrind failed: {result.stderr[-600:]}")
    return int(found.group(1)), sum(row["requests"] for row in json.loads(result.stdout))


def main():
    """The command: exit status 5 when the ceiling is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pvdisk", required=True, metavar="PROGRAM", help="a release build")
    parser.add_argument("--ceiling", type=float, default=CEILING)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        # Valgrind 3.19 cannot read the debugging information of a Swift 6.3 program.
        program = os.path.join(scratch, "pvdisk")
        subprocess.run(["strip", "-o", program, arguments.pvdisk], check=True)
        short, long = collect(program, 300), collect(program, 1500)
    each = (long[0] - short[0]) / (long[1] - short[1])
    print(f"{each:.0f} instructions for a request ({long[1] - short[1]} requests); ceiling {arguments.ceiling:.0f}")
    return 0 if each <= arguments.ceiling else 5


if __name__ == "__main__":
    sys.exit(main())
