# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a process holds and costs, as the kernel counts it."""
import dataclasses
import os
import time

import vchan

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """Of all its threads, user and system."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@dataclasses.dataclass
class Burden:
    """Of a process: open fds, threads, and resident memory in KiB."""
    fds: int
    threads: int
    resident: int

    @classmethod
    def of(cls, pid):
        return cls(len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")),
                   vchan.number_in(f"/proc/{pid}/status", "VmRSS:"))

    def is_within(self, before, kib, fds=0):
        """At most so many fds and so much memory more, and no threads."""
        return (self.fds <= before.fds + fds and self.threads <= before.threads and
                self.resident <= before.resident + kib)


def back_to(pid, before, kib=1024):
    """Wait until the process holds no more than before; what it holds."""
    vchan.until(lambda: Burden.of(pid).is_within(before, kib), vchan.A_SECOND)
    return Burden.of(pid)


def is_idle(pid, seconds=2, share=0.2):
    """Has the process hardly anything to do?  Looked at again, as others may have
    something to do that it had to wait for."""
    for _ in range(3):
        before = cpu_seconds(pid)
        time.sleep(seconds)
        spent = cpu_seconds(pid) - before
        if spent <= seconds * share:
            print(f"{spent:.2f} s of processor time in {seconds} quiet seconds")
            return True
    return False
