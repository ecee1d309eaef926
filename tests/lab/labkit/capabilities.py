# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this machine can do, found out by trying.

Nothing here talks to anyone over vsock: the only thing done with a vsock
socket is to bind it to CID 1, which only works where there is loopback.
"""
import os
import re
import socket
import stat
import time
from typing import NamedTuple

from . import initramfs, kernels
from .errors import LabError
from .qemu import Qemu, check_root, find_qemu, find_virtiofsd

VMADDR_CID_LOCAL = 1
PROBE_TIMEOUT = 6
PROBE_WORD = "lab-kvm-works"


class Answer(NamedTuple):
    """True or False, with the reason."""
    yes: bool
    reason: str = ""

    def __bool__(self):
        return self.yes


def _told(name):
    """What the lab has told this machine when it booted (machine.CMDLINE), else ""."""
    match = re.search(rf"\blab\.{name}=(\w+)", _read("/proc/cmdline"))
    return match.group(1) if match else ""


def machine_role():
    """"host" or "guest" in a machine of the lab, else ""."""
    return _told("role")


def is_emulated():
    """Is this a machine of the lab without a real processor?"""
    return _told("accel") == "tcg"


def have_loopback():
    """May AF_VSOCK be used here, on CID 1?"""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
            sock.bind((VMADDR_CID_LOCAL, socket.VMADDR_PORT_ANY))
    except OSError as e:
        return Answer(False, "no vsock loopback here "
                      f"({e.strerror}; modprobe vsock_loopback)")
    return Answer(True)


def have_vhost():
    if not os.path.exists("/dev/vhost-vsock"):
        return Answer(False, "no /dev/vhost-vsock (modprobe vhost_vsock)")
    if not os.access("/dev/vhost-vsock", os.R_OK | os.W_OK):
        return Answer(False, "no access to /dev/vhost-vsock (be root)")
    return Answer(True)


def have_guests():
    """Can this machine have guests with CIDs of their own?"""
    vhost = have_vhost()
    return kvm_works() if vhost else vhost


def can_run_directly():
    """Does this machine have all that the lab's host machine has?"""
    if machine_role():
        return Answer(True, "this is a lab machine")
    return next((answer for answer in (have_loopback(), have_guests())
                 if not answer), Answer(True))


def nested_kvm():
    """Would a machine on KVM here have KVM itself?"""
    nested = any(
        _read(f"/sys/module/{module}/parameters/nested").strip() in ("1", "Y")
        for module in ("kvm_amd", "kvm_intel"))
    if not nested:
        return Answer(False, "KVM here is not nested")
    return kvm_works()


def kvm_works():
    """Does a machine on KVM come up here?

    That /dev/kvm exists, or answers, proves nothing: some machines that are
    guests themselves have one on which every machine hangs.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Answer(False, "no /dev/kvm, or no access to it")
    if machine_role() == "host":
        return Answer(True)             # known from the lab's making
    known = _recall()
    if known is None:
        try:
            known = _probe()
        except LabError as e:
            return Answer(False, f"it cannot be tried: {e}")
        _remember(known)
    if known == "yes":
        return Answer(True)
    return Answer(False, "/dev/kvm is here, but a machine does not boot on it")


def _probe():
    kernel = kernels.choose()
    qemu = Qemu(kernel.image, initramfs.probe(PROBE_WORD),
                "console=ttyS0 quiet panic=-1", ("kvm", "max"), "128M")
    try:
        deadline = time.monotonic() + PROBE_TIMEOUT
        while time.monotonic() < deadline and qemu.alive():
            if PROBE_WORD in qemu.console():
                break
            time.sleep(0.05)
        return "yes" if PROBE_WORD in qemu.console() else "no"
    finally:
        qemu.kill()
        qemu.close()


# The answer is kept until the machine boots anew, in a file that only we, or
# root, can have written.

def _memory():
    boot = _read("/proc/sys/kernel/random/boot_id").strip()
    name = f"vchan-lab-kvm-{os.geteuid()}-{boot}"
    for directory in (os.environ.get("XDG_RUNTIME_DIR"), "/run", "/tmp"):
        if directory and os.access(directory, os.W_OK | os.X_OK):
            return os.path.join(directory, name)
    return None


def _recall():
    try:
        fd = os.open(_memory() or "", os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with open(fd) as f:
        status = os.fstat(f.fileno())
        mine = status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode)
        text = f.read(16)
    return text if mine and text in ("yes", "no") else None


def _remember(answer):
    try:
        fd = os.open(_memory() or "", os.O_WRONLY | os.O_CREAT | os.O_EXCL |
                     os.O_NOFOLLOW, 0o600)
    except OSError:
        return                          # then it is probed again
    with open(fd, "w") as f:
        f.write(answer)


def _read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def missing_things():
    """What the lab needs and this machine does not have."""
    checks = (kernels.choose, initramfs.busybox, find_qemu, find_virtiofsd,
              check_root)
    missing = []
    for check in checks:
        try:
            check()
        except LabError as e:
            missing.append(str(e))
    return missing
