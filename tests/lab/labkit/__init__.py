# SPDX-License-Identifier: LGPL-2.1-or-later
"""Virtual machines for tests: see README.md beside this package."""
from .capabilities import (Answer, can_run_directly, have_guests,
                           have_loopback, have_vhost, is_emulated, kvm_works,
                           machine_role, missing_things, nested_kvm)
from .channel import Process, Stream
from .errors import BootError, LabError, MachineGone
from .klog import OwnLog, is_broken_by_emulation, problems
from .machine import Guest, Host, Machine, environment, started

__all__ = [name for name in dir() if not name.startswith("_")]
