# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stalled readers, on whatever kernel there is: run with both that the lab has."""
import pathlib

import programs
import pytest
import vchan

programs.PROGRAMS.setdefault("stall", vchan.ROOT / "tests" / "programs" / "stall.c")


@pytest.fixture(autouse=True, scope="session")
def this_machine_talks_to_itself():
    """Elsewhere /dev/vsock may lead to somebody else's hypervisor."""
    if not pathlib.Path("/sys/module/vsock_loopback").exists():
        pytest.skip("no vsock loopback here (modprobe vsock_loopback, or run in the lab)")
