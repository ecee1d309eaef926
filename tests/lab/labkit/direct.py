# SPDX-License-Identifier: LGPL-2.1-or-later
"""Running a command on this machine, with nothing of it left afterwards."""
import os
import signal
import subprocess
import time

from . import processes

GIVE_UP = 10


def run(command, env, timeout):
    """Its exit status as Popen's; TimeoutExpired, OSError."""
    # What loses its parent becomes our child, whatever session it is in.
    processes.libc.prctl(processes.PR_SET_CHILD_SUBREAPER, 1)
    process = processes.spawn(command, env=env, stdin=subprocess.DEVNULL,
                              start_new_session=True)
    try:
        return process.wait(timeout)
    finally:
        end_all()


def end_all():
    """Kill all children; their children become ours, and are next."""
    deadline = time.monotonic() + GIVE_UP
    while time.monotonic() < deadline:
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        except ChildProcessError:
            return


def children():
    found = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children") as f:
            found += map(int, f.read().split())
    return found
