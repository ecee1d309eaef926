# SPDX-License-Identifier: LGPL-2.1-or-later
"""Channels between this machine, as the host, and its guests.

Here domains are real: no loopback mode.  The guest's end is a GuestPuppet; the
host's end is a `Vchan` of the test's own process.
"""
import random

import pytest

from guest_puppet import GuestPuppet


@pytest.fixture(autouse=True)
def real_domains(clean_environment, monkeypatch):
    """This machine is the host, whatever else it may be."""
    monkeypatch.delenv("VCHAN_VSOCK_LOOPBACK")
    monkeypatch.setenv("VCHAN_DOMAIN", "0")


@pytest.fixture
def port():
    """A vchan port that no other test uses."""
    return random.randint(1, 65535)


@pytest.fixture
def in_guest(guest):
    """Starts puppets in the session's guest."""
    return lambda **variables: GuestPuppet(guest, **variables)
