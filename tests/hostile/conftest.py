# SPDX-License-Identifier: LGPL-2.1-or-later
"""Peers, neighbours and strangers that are broken or mean it.

The library's end under attack is mostly a puppet, a program of its own, so that what
the process holds and costs is the library's.  Each test runs over the wires that it
names, and the suite with either flavour of the library.
"""
import random

import pytest


@pytest.fixture
def port():
    """A vchan port that no other test uses."""
    return random.randint(1, 65535)


@pytest.fixture
def real_domains(monkeypatch):
    """This machine is the host, and loopback is not its guest."""
    monkeypatch.delenv("VCHAN_VSOCK_LOOPBACK")
    monkeypatch.setenv("VCHAN_DOMAIN", "0")
