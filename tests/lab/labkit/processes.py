# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starting programs that end with us, whatever happens to us.

Programs get PR_SET_PDEATHSIG.  The kernel sends that signal when the *thread*
that started them ends, so one thread that never ends starts them all.  They
are handed open files (sockets, memfds) rather than paths, so there is no name
in any file system to clean up.
"""
import ctypes
import os
import queue
import signal
import socket
import subprocess
import tempfile
import threading

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
SYS_mount_setattr = 442
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY = 1

libc = ctypes.CDLL(None, use_errno=True)


class MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64)
                for name in ("set", "clear", "propagation", "userns")]


READ_ONLY = MountAttr(set=MOUNT_ATTR_RDONLY)

_requests = queue.Queue()
_lock = threading.Lock()
_spawner = None


def _serve():
    while True:
        answer, args, kwargs = _requests.get()
        try:
            answer.put(subprocess.Popen(*args, **kwargs))
        except BaseException as e:
            answer.put(e)


def _freeze_mounts():
    """In the child: see every file system read-only, whoever we are.

    Without the right to do so (not root, an old kernel) the machine's own
    read-only mount has to do.
    """
    if libc.unshare(CLONE_NEWNS) == 0:
        libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)
        libc.syscall(SYS_mount_setattr, AT_FDCWD, b"/", AT_RECURSIVE,
                     ctypes.byref(READ_ONLY), ctypes.sizeof(READ_ONLY))


def spawn(argv, read_only=False, **kwargs):
    """subprocess.Popen, ended by SIGKILL when this process ends."""
    global _spawner
    with _lock:
        if _spawner is None or not _spawner.is_alive():    # e.g. after a fork
            _spawner = threading.Thread(target=_serve, daemon=True)
            _spawner.start()
    us = os.getpid()

    def prepare():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != us:
            os._exit(1)
        if read_only:
            _freeze_mounts()

    answer = queue.Queue()
    _requests.put((answer, (argv,),
                   dict(kwargs, preexec_fn=prepare)))
    result = answer.get()
    if isinstance(result, BaseException):
        raise result
    return result


# Seconds.  An emulated processor may never leave a guest's code (klog.py), and then
# that guest's QEMU cannot be killed: it goes with the machine that it runs on.
BURIAL = 20
_unburied = set()


def end(process):
    """Kill a process of ours and bury it."""
    if not process or process in _unburied:
        return
    if process.poll() is None:
        process.kill()
    try:
        process.wait(BURIAL)
    except subprocess.TimeoutExpired:
        _unburied.add(process)


def memfd(name, data=b""):
    fd = os.memfd_create(name)
    with open(fd, "wb", closefd=False) as f:
        f.write(data)
    return fd


def read_all(fd):
    return os.pread(fd, os.fstat(fd).st_size, 0)


def connected_listener():
    """A listening socket that has one connection waiting, and that one.

    virtiofsd wants to accept; nobody else can ever connect, since the name
    is gone again before anyone is told.
    """
    with tempfile.TemporaryDirectory(prefix="lab-") as private:
        path = os.path.join(private, "s")
        listener = socket.socket(socket.AF_UNIX)
        client = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        client.connect(path)
    return listener, client
