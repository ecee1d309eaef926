# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs programs/mortal.c: channels whose ends die and are born again."""
import json
import random
import subprocess

import programs
import vchan

# What an allocator may keep, in KiB.
TOLERANCE_KIB = 1024


def words(**options):
    options.setdefault("seed", random.getrandbits(31))
    return [str(programs.program("mortal")),
            *(f"{name.replace('_', '-')}={value}" for name, value in options.items())]


def begin(**options):
    """Start it here; its output is a pipe, as text."""
    return subprocess.Popen(words(**options), env=programs.surroundings(), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def report_in(said):
    """Its last line, where all ends have had their say."""
    lines = [line for line in said.splitlines() if line.startswith("{")]
    assert lines, said
    return json.loads(lines[-1])


def run(patience, **options):
    """Run it to its end; the report."""
    process = begin(**options)
    try:
        said, _ = process.communicate(timeout=patience)
    finally:
        process.kill()
    report = report_in(said)
    assert report["failures"] == 0 and process.returncode == 0, said
    return report


def leaks(report):
    """What survivors hold in the end and did not in the beginning."""
    found = []
    for survivor in report["survivors"]:
        for what in ("fds", "threads", "rings", "kib"):
            before, after = survivor[what]
            if after > before + (TOLERANCE_KIB if what == "kib" else 0):
                found.append(f"channel {survivor['channel']}: {what} {before} -> {after}")
    return found


def pretended():
    """Two domains and the first of some ports, in loopback mode."""
    address = vchan.Address.fresh()
    return {"server": address.server, "client": address.client,
            "port": min(address.port, 16000)}
