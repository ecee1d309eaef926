# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which kernels /boot offers, and which files a set of modules needs."""
import glob
import gzip
import os
import re
import subprocess
from dataclasses import dataclass

from .errors import LabError

MODULE_DIRS = ("/lib/modules", "/usr/lib/modules")

# What every machine needs to find its root file system and its agent.
BASE = ("virtio_pci", "virtio_console", "virtiofs", "overlay")
HOST = ("vsock_loopback", "vhost_vsock")
GUEST = ("vsock", "vmw_vsock_virtio_transport")
# One of them fits the processor.
HOST_OPTIONAL = ("kvm_amd", "kvm_intel")


@dataclass(frozen=True)
class Kernel:
    version: str
    image: str
    modules: str                        # directory

    def closure(self, names):
        """Files of the modules NAMES and all they need, in loading order."""
        known, builtin = self._index()
        files = []
        for name in names:
            name = name.replace("-", "_")
            if name in builtin:
                continue
            if name not in known:
                raise LabError(f"kernel {self.version} has no module {name}")
            path, needs = known[name]
            # modules.dep lists the most basic module last.
            for file in (*reversed(needs), path):
                if file not in files:
                    files.append(file)
        return [os.path.join(self.modules, file) for file in files]

    def missing(self, names):
        known, builtin = self._index()
        return [n for n in names
                if n.replace("-", "_") not in builtin | known.keys()]

    def _index(self):
        known = {}
        for line in self._lines("modules.dep"):
            path, _, needs = line.partition(":")
            known[module_name(path)] = (path, needs.split())
        builtin = {module_name(p) for p in self._lines("modules.builtin")}
        return known, builtin

    def _lines(self, name):
        try:
            with open(os.path.join(self.modules, name)) as f:
                return f.read().splitlines()
        except OSError:
            return []


def module_name(path):
    return os.path.basename(path).split(".ko")[0].replace("-", "_")


def read_module(path):
    """A module's bytes, unpacked: the insmod of the initramfs cannot."""
    with open(path, "rb") as f:
        data = f.read()
    if path.endswith(".gz"):
        return gzip.decompress(data)
    if path.endswith((".xz", ".zst")):
        tool = "xz" if path.endswith(".xz") else "zstd"
        try:
            return subprocess.run([tool, "-dc"], input=data, check=True,
                                  stdout=subprocess.PIPE).stdout
        except (OSError, subprocess.CalledProcessError) as e:
            raise LabError(f"cannot unpack {path} with {tool}: {e}")
    return data


def installed():
    """All kernels with a readable image and modules, best first."""
    found = []
    for image in glob.glob("/boot/vmlinuz-*"):
        version = os.path.basename(image)[len("vmlinuz-"):]
        for base in MODULE_DIRS:
            modules = os.path.join(base, version)
            if (os.path.exists(os.path.join(modules, "modules.dep"))
                    and os.access(image, os.R_OK)):
                found.append(Kernel(version, image, modules))
                break
    return sorted(found, key=_preference, reverse=True)


def _preference(kernel):
    # 6.1 is the one that the emulated machine runs most reliably; after it
    # the newest.  The cloud flavour boots fastest.
    number = [int(n) for n in re.findall(r"\d+", kernel.version)]
    return ("-cloud-" in kernel.version, number[:2] == [6, 1], number)


def choose(wanted=None):
    """The kernel to boot; WANTED (or LAB_KERNEL) is a prefix such as 6.12."""
    wanted = wanted or os.environ.get("LAB_KERNEL")
    kernels = installed()
    if wanted:
        kernels = [k for k in kernels
                   if re.match(re.escape(wanted) + r"(?![0-9])", k.version)]
    usable = [k for k in kernels if not k.missing(BASE + HOST + GUEST)]
    if usable:
        return usable[0]
    which = f"kernel {wanted}" if wanted else "kernel"
    raise LabError(
        f"no {which} with virtiofs, overlay and vsock modules in /boot: "
        "install linux-image-cloud-amd64 (tests/setup does)")
