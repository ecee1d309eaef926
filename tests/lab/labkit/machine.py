# SPDX-License-Identifier: LGPL-2.1-or-later
"""Virtual machines that see the file system of the machine they run on.

Machine is what the two kinds have in common: Host, which has vsock loopback
and vhost-vsock and can have guests, and Guest, which has a CID.
"""
import contextlib
import os
import random
import subprocess
import sys
import time
import weakref

from . import capabilities, initramfs, kernels, klog
from .channel import Channel
from .errors import BootError, LabError, MachineGone
from .qemu import Qemu

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
AGENT = os.path.join(HERE, "agent.py")
PORT = "lab.agent"

BOOT_TIMEOUT = 120
LAST_MOMENTS = 20                       # seconds, of a QEMU that ends
# 0 to 2 have meanings of their own; vchan's port mapping ends at 32768.
CIDS = range(3, 32001)
CID_ATTEMPTS = 20

# loglevel=5 lets warnings through to the console, and nothing chattier.  The
# watchdogs are patient, since a busy builder may starve us for seconds.
CMDLINE = ("console=ttyS0 loglevel=5 panic=-1 mitigations=off nokaslr "
           "watchdog_thresh=30 rcupdate.rcu_cpu_stall_timeout=60 "
           "random.trust_cpu=on lab.role={role} lab.accel={accel}")

# What programs in a machine get from our environment ...
ENVIRONMENT = ("PATH", "HOME", "CI", "LANG", "LC_ALL", "TERM")
ENVIRONMENT_PREFIXES = ("ASAN_", "UBSAN_", "TSAN_", "LSAN_", "MSAN_")
# ... and those of "lab run" besides.
RUN_PREFIXES = ("VCHAN_", "LAB_", "PYTEST_")

# All machines of this process, for reports.
started = weakref.WeakSet()


def environment(prefixes=()):
    prefixes = ENVIRONMENT_PREFIXES + tuple(prefixes)
    env = {name: value for name, value in os.environ.items()
           if name in ENVIRONMENT or name.startswith(prefixes)}
    env.setdefault("PATH", os.defpath)
    env.setdefault("HOME", "/root")
    return env


def agent_python():
    """An interpreter for the agent: any will do."""
    for path in ("/usr/bin/python3", sys.executable):
        if os.access(path, os.X_OK):
            return path
    raise LabError("no python3 found")


class Machine:
    """A virtual machine: a context manager, or start() and kill() it.

    modules: more kernel modules to load.  shares: directories that the machine
    may write to, at the same path; all others it sees as they are now, and
    keeps what it writes there to itself.
    """
    role = ""
    own_modules = ()
    optional_modules = ()

    def __init__(self, memory, smp, timeout=BOOT_TIMEOUT, kernel=None,
                 modules=(), shares=()):
        self.memory = memory
        self.smp = smp
        self.timeout = timeout
        self.kernel = kernel
        self.modules = tuple(modules)
        self.shares = [os.path.realpath(path) for path in shares]
        self.qemu = None
        self.channel = None
        self._earlier = ""              # consoles of machines that died
        self.asked_to_end = False       # by a program in it: it is not lost()

    # -- what the kinds differ in -----------------------------------------

    @property
    def name(self):
        return f"lab-{self.role}"

    def accelerator(self):
        """The arguments of QEMU's -accel and -cpu."""
        raise NotImplementedError

    def devices(self):
        return ()

    def worth_a_retry(self):
        """Would the boot that failed go better a second time?"""
        return True

    # -- life -------------------------------------------------------------

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.kill()

    def start(self, deadline=float("inf")):
        """Boot, and wait until programs can be run; one retry is silent.

        DEADLINE, of time.monotonic(), is for both attempts together.
        """
        try:
            self._boot(deadline)
        except BootError:
            if time.monotonic() >= deadline or not self.worth_a_retry():
                raise
            self._boot(deadline)
        return self

    def _boot(self, deadline):
        self.kill()
        if self.qemu:
            if self.channel.ready:      # a failed boot is nobody's business
                self._earlier += self.qemu.console()
            self.qemu.close()
        started.add(self)
        self.asked_to_end = False
        self.qemu = self._launch()
        self.channel = Channel(self.qemu.control, self.name)
        try:
            self._await_agent(min(self.timeout,
                                  deadline - time.monotonic()))
        except BaseException:
            self.kill()
            raise

    def _launch(self):
        kernel = kernels.choose(self.kernel)
        accel = self.accelerator()
        shares = [(f"lab-share{number}", path, False)
                  for number, path in enumerate(self.shares)]
        image = initramfs.build(
            kernel, (*kernels.BASE, *self.own_modules, *self.modules),
            self.optional_modules, [share[:2] for share in shares],
            self.name, agent_python(), AGENT, PORT)
        cmdline = CMDLINE.format(role=self.role, accel=accel[0].split(",")[0])
        return Qemu(kernel.image, image, cmdline, accel, self.memory,
                    self.smp, PORT, [("lab-root", "/", True), *shares],
                    self.devices())

    def _await_agent(self, seconds):
        try:
            ready = self.channel.wait(lambda: self.channel.ready, seconds)
            what = f"did not boot within {seconds:.0f} s"
        except MachineGone:
            ready = False
            what = "ended while booting"
        if not ready:
            self.kill()
            raise BootError(f"{self.name} {what}\n{self.report()}")
        # An emulated clock starts late; make would not like it.
        self.channel.send(op="settime", time=time.time())

    def alive(self):
        return self.qemu is not None and self.qemu.alive()

    def lost(self):
        """Did it end by itself, and without a word?

        So ends what an emulated processor breaks (a triple fault); a kernel that dies
        of its own doing says so.
        """
        self._let_end()
        return (not self.asked_to_end and self.qemu is not None and
                self.qemu.ended_by_itself() and not self.kernel_log_problems())

    def _let_end(self):
        """QEMU hangs up before it ends, and is not to be killed in between."""
        if self.qemu and self.channel and self.channel.gone:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.qemu.wait(LAST_MOMENTS)

    def kill(self):
        """SIGKILL the machine, at once, if it is not ending."""
        self._let_end()
        if self.qemu:
            self.qemu.kill()

    def poweroff(self, timeout=60):
        """End it cleanly: its programs are told, its drivers shut down."""
        self.asked_to_end = True
        self.channel.send(op="poweroff")
        self.qemu.wait(timeout)
        self.kill()

    def pause(self):
        """Stop its processors; its connections stay."""
        self.qemu.qmp("stop")

    def resume(self):
        self.qemu.qmp("cont")

    # -- programs ---------------------------------------------------------

    def popen(self, argv, env=None, cwd=None, tty=None):
        """Start a program as root; ENV adds to environment().

        It runs in our working directory.  See channel.Process.
        """
        if not self.channel:
            raise LabError(f"{self.name} was not started")
        return self.channel.start(argv, {**environment(), **(env or {})},
                                  cwd or os.getcwd(), tty)

    def run(self, argv, env=None, timeout=60, input=None, check=False,
            text=False, cwd=None):
        """Run a program to its end, like subprocess.run with its output."""
        process = self.popen(argv, env, cwd)
        if input:
            process.stdin.write(input.encode() if text else input)
        process.stdin.close()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired as e:
            process.kill_all()
            e.stdout = process.stdout.read_available()
            e.stderr = process.stderr.read_available()
            raise
        result = subprocess.CompletedProcess(
            argv, process.returncode, process.stdout.read_available(),
            process.stderr.read_available())
        if text:
            result.stdout = result.stdout.decode(errors="replace")
            result.stderr = result.stderr.decode(errors="replace")
        if check:
            result.check_returncode()
        return result

    # -- what went wrong --------------------------------------------------

    def console(self):
        """All that its kernel said, as far as the console shows it."""
        return self._earlier + (self.qemu.console() if self.qemu else "")

    def kernel_log_problems(self):
        return klog.problems(self.console())

    def report(self, lines=40):
        """The end of the console, and what QEMU said."""
        tail = "\n".join(self.console().splitlines()[-lines:])
        errors = self.qemu.errors() if self.qemu else ""
        return f"console of {self.name}:\n{tail}\n{errors}".rstrip()


class Host(Machine):
    """A machine with vsock loopback, vhost-vsock and KVM for its guests."""
    role = "host"
    own_modules = kernels.HOST
    optional_modules = kernels.HOST_OPTIONAL

    def __init__(self, memory="3G", smp=2, **kwargs):
        super().__init__(memory, smp, **kwargs)

    def accelerator(self):
        if capabilities.nested_kvm():
            return "kvm", "max"
        # Two threads find the races that one hides.  QEMU 7.2's emulated
        # 16-byte compare-and-exchange corrupts some kernels.
        return "tcg,thread=multi", "max,la57=off,cx16=off"


class Guest(Machine):
    """A machine with a CID, a guest of the machine this runs on.

    Without a CID a random one that is free is taken.
    """
    role = "guest"
    own_modules = kernels.GUEST

    def __init__(self, cid=None, memory="320M", smp=1, **kwargs):
        super().__init__(memory, smp, **kwargs)
        self._wanted = cid
        self.cid = cid or random.choice(CIDS)

    @property
    def name(self):
        return f"lab-guest-{self.cid}"

    def accelerator(self):
        if capabilities.machine_role() == "host":
            # The emulated processor's XSAVE makes the guest's kernel warn.
            return "kvm", "max,cx16=off,xsave=off"
        return "kvm", "max"

    def devices(self):
        return (f"vhost-vsock-pci,guest-cid={self.cid}",)

    def start(self, deadline=float("inf")):
        for _ in range(CID_ATTEMPTS):
            try:
                return super().start(deadline)
            except BootError:
                if not self._cid_taken():
                    raise
            if self._wanted:
                break
            self.cid = random.choice(CIDS)
        raise LabError(f"CID {self.cid} is in use by another machine")

    def worth_a_retry(self):
        return not self._cid_taken()

    def _cid_taken(self):
        return ("guest cid: Address already in use"
                in (self.qemu.errors() if self.qemu else ""))
