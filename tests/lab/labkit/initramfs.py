# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds the initramfs of a lab machine, in memory.

It holds a static busybox, the modules needed and a script.  The script mounts
the root file system of the machine outside (virtiofs, read-only) under an
overlay on tmpfs and goes on there with the agent: the same paths and programs,
and nothing that is done to them is seen outside.
"""
import os
import shlex
import shutil
import stat

from . import kernels
from .errors import LabError

APPLETS = ("chmod", "cp", "hostname", "insmod", "ip", "ln", "mkdir", "mount",
           "poweroff", "switch_root")

INIT = """#!/bin/busybox sh
export PATH=/bin
fail() {{ echo "lab: $*" >/dev/console; poweroff -f; }}
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for m in /modules/*; do insmod $m || echo "lab: cannot load $m" >/dev/console; done
for m in /optional/*; do insmod $m 2>/dev/null; done
mount -t virtiofs -o ro lab-root /lower || fail "cannot mount the root"
mount -t tmpfs -o mode=755,size=80% tmpfs /rw
mkdir /rw/up /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/up,workdir=/rw/work overlay /new ||
    fail "cannot mount the overlay"
mount --move /dev /new/dev
mount --move /proc /new/proc
mount --move /sys /new/sys
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /new/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /new/dev/shm
mount -t tmpfs -o mode=755 tmpfs /new/run
ln -s /proc/self/fd /new/dev/fd
ln -s /proc/self/fd/0 /new/dev/stdin
ln -s /proc/self/fd/1 /new/dev/stdout
ln -s /proc/self/fd/2 /new/dev/stderr
[ -e /new/dev/ptmx ] || ln -s pts/ptmx /new/dev/ptmx
{shares}
chmod 666 /new/dev/vsock /new/dev/vhost-vsock /new/dev/kvm 2>/dev/null
# Guests whose memory comes in big pages fault, and leave the processor, less:
# emulated, they boot in half the time.
echo always >/new/sys/kernel/mm/transparent_hugepage/shmem_enabled
hostname {hostname}
ip link set lo up
mkdir /new/run/lab /new/run/lock
cp /bin/busybox /init2 /new/run/lab/
exec switch_root /new /run/lab/busybox sh /run/lab/init2
"""

SHARE = """mkdir -p {path} && mount -t virtiofs {tag} {path} || fail "cannot mount {tag}"
"""

# The shell stays process 1 and buries what has no parent; when the agent ends,
# so does the machine.
INIT2 = """export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
{python} -I -S -B {agent} {port} </dev/null >/dev/console 2>&1
b=/run/lab/busybox
$b kill -TERM -1
$b sleep 0.3
$b kill -KILL -1
$b sync
$b poweroff -f
"""

PROBE_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
echo {word} >/dev/console
/bin/busybox poweroff -f
"""


class Cpio:
    """An archive in the one format that the kernel unpacks."""

    def __init__(self):
        self.parts = []
        self.inode = 0

    def add(self, name, mode, data=b"", device=(0, 0)):
        self.inode += 1
        path = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device,
                  len(path), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self.parts += (pad(header + path), pad(data))

    def directory(self, name):
        self.add(name, stat.S_IFDIR | 0o755)

    def link(self, name, target):
        self.add(name, stat.S_IFLNK | 0o777, target.encode())

    def file(self, name, data, mode=0o644):
        self.add(name, stat.S_IFREG | mode, data)

    def finish(self):
        self.add("TRAILER!!!", 0)
        return b"".join(self.parts)


def pad(data):
    return data + b"\0" * (-len(data) % 4)


def busybox():
    path = shutil.which("busybox", path=os.environ.get("PATH", "") +
                        ":/bin:/usr/bin:/sbin:/usr/sbin")
    if not path:
        raise LabError("busybox is missing: install busybox-static")
    with open(path, "rb") as f:
        data = f.read()
    if b"/ld-linux" in data[:4096]:     # asks for a dynamic linker
        raise LabError(f"{path} is not static: install busybox-static")
    return data


def skeleton(init):
    archive = Cpio()
    for name in ("bin", "dev", "proc", "sys", "lower", "rw", "new",
                 "modules", "optional"):
        archive.directory(name)
    # What writes before /dev is mounted writes here.
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.file("bin/busybox", busybox(), 0o755)
    for name in APPLETS:
        archive.link("bin/" + name, "busybox")
    archive.file("init", init.encode(), 0o755)
    return archive


def probe(word):
    """One that says WORD and powers off."""
    return skeleton(PROBE_INIT.format(word=word)).finish()


def build(kernel, modules, optional, shares, hostname, python, agent, port):
    """SHARES: pairs of a virtiofs tag and the path where it is mounted."""
    mounts = "".join(
        SHARE.format(tag=tag, path=shlex.quote("/new" + path))
        for tag, path in shares)
    archive = skeleton(INIT.format(shares=mounts, hostname=hostname))
    archive.file("init2", INIT2.format(python=shlex.quote(python),
                                       agent=shlex.quote(agent),
                                       port=port).encode())
    needed = kernel.closure(modules)
    maybe = [name for name in optional if not kernel.missing([name])]
    extra = [f for f in kernel.closure(maybe) if f not in needed]
    for directory, files in (("modules", needed), ("optional", extra)):
        for number, path in enumerate(files):
            archive.file(f"{directory}/{number:02}-{kernels.module_name(path)}",
                         kernels.read_module(path))
    return archive.finish()
