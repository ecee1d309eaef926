# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many channels, mixed traffic, death and rebirth, for a long time (soak/run).

programs/mortal.c does it, and checks each byte.  Here the machine as a whole is looked at:
what it holds in the end and did not in the beginning.
"""
import contextlib
import dataclasses
import os
import pathlib
import random
import subprocess
import threading
import time

import labkit
import mortal
import programs
import vchan

CHANNELS = 50
GUEST_CHANNELS = 6
# The longest life of an end, in ms.
LIFE_MS = 20_000
# A hundred programs share two emulated processors: seconds until one is seen to be gone.
# The summary has those of the worst case.
LATE = 60
# Until a channel is held to be stuck: in a guest one large request may take minutes.
STUCK = 300
# A closed vsock may stay for 8 s, until the kernel has given up on its peer.
SETTLED = 20
KIB = 1024
# What a kernel may keep for other reasons, roughly.
MOST_SLAB_KIB = 64 * KIB
MOST_SHMEM_KIB = 8 * KIB


def objects(cache):
    """How many there are of a kind, by the kernel's own allocator.

    That counts what each processor keeps to be used again, until it is told to give it
    back; and /proc/sys/fs/file-nr, which would tell of files, is off by 64.
    """
    with contextlib.suppress(OSError):
        pathlib.Path("/sys/kernel/slab", cache, "shrink").write_text("1")
    for line in pathlib.Path("/proc/slabinfo").read_text().splitlines():
        if line.startswith(cache + " "):
            return int(line.split()[1])
    return 0


def memory_of(guest):
    """KiB of the guest's memory that it has touched: the machine's shared memory, too."""
    return vchan.number_in(f"/proc/{guest.qemu.process.pid}/status",
                           "RssShmem:") if guest else 0


def fds_of(name):
    """How many the processes of this name have open."""
    count = 0
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text() == name + "\n":
                count += len(os.listdir(process / "fd"))
    return count


@dataclasses.dataclass
class Machine:
    """What all of it holds."""
    files: int
    threads: int
    vsocks: int
    slab_kib: int
    shmem_kib: int
    free_kib: int

    @classmethod
    def now(cls, guest):
        number = vchan.number_in
        # virtiofsd opens what the guest has ever looked at.
        return cls(objects("filp") - fds_of("virtiofsd"),
                   int(pathlib.Path("/proc/loadavg").read_text().split()[3].split("/")[1]),
                   objects("AF_VSOCK"), number("/proc/meminfo", "Slab:"),
                   number("/proc/meminfo", "Shmem:") - memory_of(guest),
                   number("/proc/meminfo", "MemAvailable:"))

    @classmethod
    def settled(cls, before, guest):
        """Now, or as soon as nothing is left of what is known to take its time."""
        deadline = time.monotonic() + SETTLED
        while (found := cls.now(guest)).beyond(before) and time.monotonic() < deadline:
            time.sleep(0.5)
        return found

    def beyond(self, before):
        """What is more than it should be."""
        slack = {"files": 64, "threads": 8, "vsocks": 16, "slab_kib": MOST_SLAB_KIB,
                 "shmem_kib": MOST_SHMEM_KIB}
        return [f"{name}: {getattr(before, name)} -> {getattr(self, name)}"
                for name, more in slack.items()
                if getattr(self, name) > getattr(before, name) + more]


class Relay(threading.Thread):
    """Passes on what a mortal says, as it comes, and keeps it."""

    def __init__(self, name, lines, say):
        super().__init__(daemon=True)
        self.name, self.lines, self.say = name, lines, say
        self.said = []
        self.start()

    def run(self):
        for line in self.lines:
            self.said.append(line)
            self.say(f"{self.name}: {line.rstrip()}")

    def report(self):
        self.join(vchan.SOON)
        return mortal.report_in("".join(self.said))


class End:
    """One mortal, here or in a guest."""

    def __init__(self, name, process, lines, say):
        self.process = process
        self.relay = Relay(name, lines, say)

    def finish(self, patience):
        status = self.process.wait(patience)
        report = self.relay.report()
        return [report], [] if status == 0 and not report["failures"] else [
            f"{self.relay.name}: status {status}, {report['failures']} failures"]


def lines_of(process):
    """What a program in a guest says, line by line, as long as there is a guest."""
    with contextlib.suppress(labkit.MachineGone):
        while line := process.stdout.readline(None):
            yield line.decode(errors="replace")


def begin_here(name, say, **options):
    process = mortal.begin(calm=1, life_ms=LIFE_MS, late=LATE, stuck=STUCK, **options)
    return End(name, process, process.stdout, say)


class Clients(threading.Thread):
    """Mortals of a guest, for so many seconds.

    Emulated machines are lost, now and then.  Then another takes its place, which
    its servers here notice as they would notice any death; how many is in `lost`.
    """

    def __init__(self, guest, seconds, say, **options):
        super().__init__(daemon=True)
        self.guest, self.say, self.options = guest, say, options
        self.until = time.monotonic() + seconds
        self.lost = 0
        self.reports, self.wrong = [], []
        self.start()

    def run(self):
        try:
            while not self.live():
                self.lost += 1
                self.say("a guest is lost:\n" + self.guest.report())
                self.guest.start()
        except (labkit.LabError, subprocess.TimeoutExpired, AssertionError) as e:
            self.wrong.append(f"in the guest: {e!r}")

    def live(self):
        """Until the time is over; False: the guest was lost before."""
        seconds = int(self.until - time.monotonic())
        if seconds <= 0:
            return True
        try:
            reports, wrong = self.begin(seconds).finish(seconds + STUCK + 120)
        except labkit.MachineGone:
            return False
        self.reports += reports
        self.wrong += wrong
        return True

    def begin(self, seconds):
        process = self.guest.popen(
            ["sh", "-c", 'unset VCHAN_VSOCK_LOOPBACK; exec "$@" 2>&1', "sh",
             *mortal.words(calm=1, life_ms=LIFE_MS, late=LATE, stuck=STUCK, side="client",
                           seconds=seconds, **self.options)],
            env={"LD_LIBRARY_PATH": str(vchan.LIBRARY.parent)})
        return End("in the guest", process, lines_of(process), self.say)

    def finish(self, patience):
        self.join(patience)
        if self.is_alive():
            self.wrong.append("in the guest: does not end")
        return self.reports, self.wrong


def begin_with_guest(guest, seconds, say):
    """(servers here, their clients there)"""
    options = dict(channels=GUEST_CHANNELS, server=0, client=guest.cid,
                   port=random.randint(1, 60_000))
    with vchan.environment(VCHAN_VSOCK_LOOPBACK=None):
        here = begin_here("for the guest", say, side="server", seconds=seconds, **options)
    return here, Clients(guest, seconds, say, **options)


def begin_over_loopback(seconds, say):
    """(all of it,)"""
    return (begin_here("loopback", say, channels=CHANNELS, survivors="some", seconds=seconds,
                       **mortal.pretended()),)


def soak(seconds, guest=None, say=print):
    """Over loopback, or with the guest: (reports, what went wrong)."""
    programs.program("mortal")
    before = Machine.now(guest)
    ends = begin_with_guest(guest, seconds, say) if guest else begin_over_loopback(seconds, say)
    try:
        found = [end.finish(seconds + STUCK + 120) for end in ends]
    finally:
        ends[0].process.kill()
    after = Machine.settled(before, guest)
    if guest:
        say(f"guests that were lost: {ends[1].lost}")
    say(f"the machine before: {before}")
    say(f"the machine after:  {after}")
    reports = [report for some, _ in found for report in some]
    wrong = [what for _, failures in found for what in failures]
    return reports, wrong + mortal.leaks(reports[0]) + after.beyond(before)


def summary(reports):
    """A line with the figures."""
    total = {what: sum(report[what] for report in reports)
             for what in ("connections", "compared", "bytes", "failures")}
    deaths = sum(sum(report["deaths"].values()) for report in reports)
    worst = max(report["worst_notice_ms"] for report in reports)
    return (f"{reports[0]['seconds']} s: {total['connections']} connections' ends, {deaths} deaths, "
            f"{total['compared']} compared, {total['bytes'] / (1 << 30):.2f} GiB, "
            f"latest notice after {worst} ms, {total['failures']} failures")


LONG = os.environ.get("VCHAN_TEST_LONG") == "1"
