# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program in a machine on our own terminal."""
import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import threading
import tty

from .errors import MachineGone


def size():
    columns, rows = shutil.get_terminal_size()
    return [rows, columns]


@contextlib.contextmanager
def raw(fd):
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)   # keeps what was typed already
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def run(machine, command, env):
    """Returns its exit status."""
    process = machine.popen(command, env, tty=size())
    output = threading.Thread(target=_copy_output, args=[process], daemon=True)
    output.start()
    signal.signal(signal.SIGWINCH, lambda *_: process.resize(*size()))
    with raw(sys.stdin.fileno()):
        _copy_input(process)
        status = process.wait(None)
        process.end_output()
        output.join(5)
    return status


def _copy_output(process):
    with contextlib.suppress(MachineGone, OSError):
        while data := process.stdout.read_some():
            os.write(1, data)


def _copy_input(process):
    """Until the program ends, or our input does."""
    while process.poll() is None and not process.channel.gone:
        if not select.select([0], [], [], 0.1)[0]:
            continue
        data = os.read(0, 4096)
        if not data:
            process.stdin.write(b"\x04")
            return
        process.stdin.write(data)
