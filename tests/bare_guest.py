# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest with nothing in it but a puppet, which can be reset, saved and restored.

The lab's own guests see the file system of their host through virtiofs, which
keeps QEMU from saving them.  This one has all it needs in its initramfs, and its
puppet listens on a virtio-serial port: from the first boot to the last, and across a
restore, over the same socket, or another one after a restore.
"""
import re
import socket
import subprocess
import time

import labkit
import programs
import puppet
import vchan
from labkit import initramfs, kernels
from labkit.machine import CMDLINE
from labkit.qemu import Qemu

PORT = "puppet"
MODULES = ("virtio_pci", "virtio_console", "vsock", "vmw_vsock_virtio_transport")

INIT = """#!/bin/busybox sh
export PATH=/bin LD_LIBRARY_PATH=/lib
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for m in /modules/*; do insmod $m; done
while ! exec 3<>/dev/vport0p1; do busybox sleep 0.01; done
/bin/puppet <&3 >&3 2>/dev/console
poweroff -f
"""


def libraries(program):
    """The files that it is linked with, and the one that links it."""
    said = subprocess.run(["ldd", program], env=programs.surroundings(), check=True,
                          text=True, stdout=subprocess.PIPE).stdout
    return re.findall(r"(?:^|\s)(/\S+)", said)


def image(kernel):
    archive = initramfs.skeleton(INIT)
    for directory in ("lib", "lib64"):
        archive.directory(directory)
    program = programs.program("puppet")
    archive.file("bin/puppet", program.read_bytes(), 0o755)
    for path in libraries(program):
        where = "lib64/" if "ld-linux" in path else "lib/"
        with open(path, "rb") as file:
            archive.file(where + path.rsplit("/", 1)[1], file.read(), 0o755)
    for number, path in enumerate(kernel.closure(MODULES)):
        archive.file(f"modules/{number:02}-{kernels.module_name(path)}",
                     kernels.read_module(path))
    return archive.finish()


class BareGuest(labkit.Guest):
    """`puppet` is its program, once it is up."""

    def __init__(self, **kwargs):
        super().__init__(memory="128M", timeout=150, **kwargs)
        self.puppet = None
        self.in_order = True
        self.incoming = ()
        self._nobody = None

    def _launch(self):
        kernel = kernels.choose(self.kernel)
        accel = self.accelerator()
        cmdline = CMDLINE.format(role=self.role, accel=accel[0].split(",")[0])
        qemu = Qemu(kernel.image, image(kernel), cmdline, accel, self.memory, self.smp,
                    PORT, devices=self.devices(), extra=self.incoming)
        # The puppet's, and not an agent's.
        self.puppet = puppet.Puppet(qemu.control)
        puppet.living.remove(self.puppet)  # it may live longer than a test
        qemu.control, self._nobody = socket.socketpair()
        return qemu

    def _await_agent(self, seconds):
        self.channel.ready = True
        if not self.incoming:
            self.await_puppet(seconds)

    def await_puppet(self, seconds=150):
        try:
            self.puppet("pid", seconds=seconds)
        except (OSError, EOFError) as error:
            raise labkit.BootError(f"{self.name}: {error}\n{self.report()}") from error

    def restart(self):
        """As its reset button does: the CID stays, all else is gone."""
        self.qemu.qmp("system_reset")

    def may_reboot(self):
        """By default QEMU ends where a machine would start again."""
        self.qemu.qmp("set-action", reboot="reset")

    def save(self, path):
        """To a file; it stands still then."""
        self.qemu.qmp("migrate", uri=f"exec:cat > {path}")
        deadline = time.monotonic() + vchan.SOON * 2
        while (state := self.qemu.qmp("query-migrate"))["status"] not in (
                "completed", "failed", "cancelled"):
            assert time.monotonic() < deadline, state
            time.sleep(0.05)
        assert state["status"] == "completed", (state, self.qemu.errors())

    def restored(self, path):
        """Another of the same CID, which goes on where this one was saved."""
        other = BareGuest(cid=self.cid, kernel=self.kernel)
        other.incoming = ("-incoming", f"exec:cat {path}")
        other.start()
        vchan.until(lambda: other.qemu.qmp("query-status")["status"] == "running", 60)
        return other
