# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds trouble in what a kernel says."""
import os
import re

PROBLEMS = re.compile("|".join((
    r"\bBUG\b", r"\bWARNING: ", r"\bOops\b", r"\[#\d+\]", r"Call Trace:",
    r"Kernel panic", r"KASAN", r"KCSAN", r"KFENCE", r"UBSAN", r"kmemleak:",
    r"general protection fault, ", r"Unable to handle kernel",
    r"blocked for more than", r"soft lockup", r"hard LOCKUP",
    r"rcu.*(detected stall|self-detected|kthread starved)",
    # lockdep
    r"possible (circular|recursive|irq lock)", r"inconsistent lock state",
    r"bad unlock balance", r"held lock freed", r"lock held when returning",
    r"suspicious RCU usage", r"invalid wait context",
    r"scheduling while atomic", r"sleeping function called",
    r"refcount_t: ", r"list_(add|del) corruption", r"page allocation failure",
    r"Out of memory", r"oom-kill", r"lab: cannot",
)))

# Matches of the above that mean nothing, each with its reason.
HARMLESS = re.compile("|".join((
    # KFENCE announces itself at boot.
    r"kfence: initialized",
    # A boot message about processor bugs, on some models.
    r"Spectre V2 : WARNING: Unprivileged eBPF",
)))


# A processor that is emulated, virtualization and all, now and then never leaves a
# guest's code; the guest is lost then, and its test says so.  Our kernel's part
# would have another program's name.
HELD_BY_A_GUEST = re.compile(r"soft lockup - .* \[(qemu-system|CPU \d+/KVM)")


def problems(text):
    """The lines of TEXT that tell of trouble."""
    found, trace_of_a_guest = [], False
    for line in text.splitlines():
        if HELD_BY_A_GUEST.search(line):
            trace_of_a_guest = True
        elif trace_of_a_guest and "Call Trace:" in line:
            trace_of_a_guest = False
        elif PROBLEMS.search(line) and not HARMLESS.search(line):
            found.append(line.strip())
    return found


# An emulated processor (QEMU 7.2) that is interrupted right behind a guest's code has the
# guest's GS still: its handlers fault, one in the other, until the stack is used up.
BROKEN_BY_EMULATION = re.compile(
    r"stack guard page was hit.*\n(?:.*\n){0,4}?.*\bComm: qemu-system")


def is_broken_by_emulation(text):
    """Is the kernel's trouble none of its own, nor of what ran there?"""
    return bool(BROKEN_BY_EMULATION.search(text))


class OwnLog:
    """What this machine's kernel says from now on."""

    def __init__(self):
        self.reason = ""
        try:
            self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK |
                              os.O_CLOEXEC)
            os.lseek(self.fd, 0, os.SEEK_END)
        except OSError as e:
            self.fd = None
            self.reason = f"the kernel's log cannot be read here: {e}"

    def text(self):
        """The lines since the last call."""
        lines = []
        while self.fd is not None:
            try:
                record = os.read(self.fd, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:     # older records were overwritten
                continue
            except OSError:
                break
            head, _, message = record.decode(errors="replace").partition(";")
            lines.append(message.splitlines()[0] if message else head)
        return "\n".join(lines)
