# SPDX-License-Identifier: LGPL-2.1-or-later
"""One running QEMU, with the virtiofsd processes that serve it directories.

Everything is handed over as an open file: the initramfs and the console are
memfds, the channels socket pairs.  So nothing is left behind in any directory.
"""
import contextlib
import os
import shutil
import signal
import socket
import subprocess

from . import processes
from .errors import LabError
from .qmp import Qmp

VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd",
             "/usr/lib/virtiofsd")


WRONG = 1                               # QEMU's status when it cannot do as it is told


def find_qemu():
    path = shutil.which("qemu-system-x86_64")
    if not path:
        raise LabError("qemu-system-x86_64 is missing: "
                       "install qemu-system-x86")
    return path


def find_virtiofsd():
    for path in (*VIRTIOFSD, shutil.which("virtiofsd")):
        if path and os.access(path, os.X_OK):
            return path
    raise LabError("virtiofsd is missing: install virtiofsd "
                   "(on Debian 12 it is in qemu-system-common)")


def check_root():
    if os.geteuid() != 0:
        raise LabError("virtiofsd serves the whole file system only as root: "
                       "be root (sudo)")


def _virtiofsd(fd, directory, read_only):
    """The command line, for QEMU's own virtiofsd or the one that followed."""
    path = find_virtiofsd()
    known = subprocess.run([path, "--help"], text=True, check=False,
                           stdout=subprocess.PIPE).stdout
    argv = [path, f"--fd={fd}"]
    if "--shared-dir" not in known:
        return argv + ["-o", f"source={directory}", "-o", "cache=always",
                       "-o", "sandbox=chroot", "-o", "log_level=err"]
    argv += [f"--shared-dir={directory}", "--cache=always", "--sandbox=chroot",
             "--log-level=error"]
    # An overlay refuses what may be a file system of its own.
    argv += [option for option in ["--no-announce-submounts"]
             if option in known]
    if read_only and "--readonly" in known:
        argv.append("--readonly")
    return argv


def _environment():
    """Ours without the sanitizer that a test may have preloaded."""
    return {name: value for name, value in os.environ.items()
            if name != "LD_PRELOAD"}


class Qemu:
    """Starts QEMU; its agent's socket is .control.

    accel: the arguments of -accel and -cpu.  shares: (tag, directory,
    read_only) of the virtiofs file systems.  extra: more arguments.
    """

    def __init__(self, kernel, initrd, cmdline, accel, memory, smp=1,
                 port=None, shares=(), devices=(), extra=()):
        self._fds = []                  # QEMU's
        self._ours = contextlib.ExitStack()
        self._virtiofsds = []
        self.process = None
        self._memory = None
        try:
            with contextlib.ExitStack() as self._handed_over:
                self._start(kernel, initrd, cmdline, accel, memory, smp, port,
                            shares, devices, extra)
        except BaseException:
            self.kill()
            self.close()
            raise

    def _start(self, kernel, initrd, cmdline, accel, memory, smp, port,
               shares, devices, extra):
        self._console = self._memfd("console")
        self._errors = self._memfd("errors")
        self._memory = self._memfd("memory")
        qmp = self._socketpair()
        argv = [
            find_qemu(), "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-accel", accel[0], "-cpu", accel[1],
            "-smp", str(smp), "-m", memory,
            # virtiofsd shares the machine's memory, and it must be aligned
            # to come in big pages (a memory-backend-memfd cannot be).
            "-object", f"memory-backend-file,id=mem,size={memory},share=on,"
                       f"align=2M,mem-path={self._path(self._memory)}",
            # q35 has more PCI to look at, which takes a guest a second.
            "-machine", "pc,memory-backend=mem",
            "-kernel", kernel, "-append", cmdline,
            "-initrd", self._path(self._memfd("initrd", initrd)),
            "-chardev", "file,id=console,path=" + self._path(self._console),
            "-serial", "chardev:console",
            "-chardev", f"socket,id=qmp,fd={qmp[1]}",
            "-mon", "chardev=qmp,mode=control",
        ]
        if port:
            argv += self._port(port)
        for number, share in enumerate(shares):
            argv += self._share(number, *share)
        for device in devices:
            argv += ["-device", device]
        argv += extra
        self.process = processes.spawn(
            argv, pass_fds=self._fds, env=_environment(),
            stdin=subprocess.DEVNULL, stdout=self._errors,
            stderr=self._errors, start_new_session=True)
        self._qmp = Qmp(qmp[0])

    def _memfd(self, name, data=b""):
        fd = processes.memfd(name, data)
        self._ours.callback(os.close, fd)
        self._fds.append(fd)
        return fd

    @staticmethod
    def _path(fd):
        return f"/proc/self/fd/{fd}"

    def _give(self, sock):
        """A socket for QEMU; ours is closed once it runs."""
        self._handed_over.enter_context(sock)
        self._fds.append(sock.fileno())
        return sock.fileno()

    def _socketpair(self):
        ours, theirs = socket.socketpair()
        self._ours.enter_context(ours)
        return ours, self._give(theirs)

    def _port(self, name):
        self.control, fd = self._socketpair()
        return ["-device", "virtio-serial-pci",
                "-chardev", f"socket,id=agent,fd={fd}",
                "-device", f"virtserialport,chardev=agent,name={name}"]

    def _share(self, number, tag, directory, read_only):
        check_root()
        listener, client = processes.connected_listener()
        with listener:
            self._virtiofsds.append(processes.spawn(
                _virtiofsd(listener.fileno(), directory, read_only),
                read_only=read_only, pass_fds=[listener.fileno()],
                env=_environment(), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=self._errors,
                start_new_session=True))
        return ["-chardev", f"socket,id=fs{number},fd={self._give(client)}",
                "-device", f"vhost-user-fs-pci,chardev=fs{number},tag={tag}"]

    def qmp(self, command, **arguments):
        return self._qmp.command(command, **arguments)

    def console(self):
        """All that the machine's kernel said."""
        text = processes.read_all(self._console).decode(errors="replace")
        return text.replace("\r\n", "\n")

    def errors(self):
        """What QEMU and virtiofsd had to say."""
        return processes.read_all(self._errors).decode(errors="replace")

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def ended_by_itself(self):
        """Without a kill(), and not for want of anything: its machine was reset, or it crashed."""
        return self.process is not None and self.process.poll() not in (
            None, WRONG, -signal.SIGKILL)

    def wait(self, timeout):
        self.process.wait(timeout)

    def kill(self):
        processes.end(self.process)
        for process in self._virtiofsds:
            processes.end(process)
        if self._memory is not None and not self.alive():
            os.ftruncate(self._memory, 0)

    def close(self):
        """Give up the console and all."""
        self._memory = None
        self._ours.close()
