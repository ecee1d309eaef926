#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The committed inputs, which are text, as the files that libFuzzer reads.

    corpus.py TARGET DIRECTORY    writes corpus/TARGET.hex into DIRECTORY
    corpus.py TARGET < INPUT      prints an input that failed as a line for that
"""
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent


def inputs(target):
    """Name and bytes of each."""
    for line in (HERE / "corpus" / f"{target}.hex").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, digits = line.partition(": ")
            yield name, bytes.fromhex(digits)


def write(target, directory):
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in inputs(target):
        (directory / name).write_bytes(data)
    return directory


if __name__ == "__main__":
    if len(sys.argv) == 3:
        write(*sys.argv[1:])
    else:
        print(f"found: {sys.stdin.buffer.read().hex()}")
