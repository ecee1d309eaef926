# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs volume/volume.c, one end or both, and tells what the ends said."""
import random
import subprocess

import programs
import vchan

TRIPS = vchan.scaled(200_000)
GIB = vchan.scaled(1 << 30)
SECONDS = vchan.scaled(60)


def trips(trip_count=TRIPS, size=GIB):
    """The arguments of a plan: round trips, then the rest of `size` bytes."""
    return ["trips", random.getrandbits(32), trip_count, size]


def duplex(seconds=SECONDS):
    """The arguments of a plan: both directions at once, two threads an end."""
    return ["duplex", random.getrandbits(32), seconds]


def words(role, domain, port, plan):
    return [str(word) for word in
            [programs.program("volume"), role, domain, port, *plan]]


def start(role, domain, port, plan, **variables):
    """Start one end here."""
    return subprocess.Popen(words(role, domain, port, plan),
                            env=programs.surroundings(**variables),
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)


def bytes_moved(report):
    """The two numbers of an end's last line: bytes out, bytes in."""
    fields = report.split(": ")[1].split()
    return int(fields[0]), int(fields[3])


def collect(process, seconds):
    """What an end that runs here moved, once it has ended well."""
    try:
        said = process.communicate(timeout=seconds)[0]
    finally:
        process.kill()
    assert process.returncode == 0, said
    return bytes_moved(said)
