# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests of one host, on the vsock of tests/fake: programs of their own (puppets), each in
a machine of its own; the test's process is the host."""
import random

import pytest

import vchan
from puppet import Puppet
from relay_stub import Relay


@pytest.fixture(autouse=True)
def real_domains(clean_environment, monkeypatch):
    monkeypatch.delenv("VCHAN_VSOCK_LOOPBACK")


@pytest.fixture
def cids():
    """Two guests that no other test uses."""
    return tuple(random.sample(range(3, 32768), 2))


@pytest.fixture
def port():
    return random.randint(1, 65535)


@pytest.fixture
def in_guest():
    """Starts a puppet in the guest with this CID."""
    return lambda cid, **variables: Puppet.start(FAKE_VSOCK_CID=cid, **variables)


@pytest.fixture
def relay_port():
    """Unprivileged, and nobody else's."""
    return random.randint(1 << 20, 1 << 30)


@pytest.fixture
def relay(relay_port):
    """Begins one, with its behaviour; it ends with the test."""
    running = []

    def begin(behave=None, port=relay_port):
        running.append(Relay(port, behave))
        return running[-1]

    yield begin
    for one in running:
        one.close()


@pytest.fixture(autouse=True)
def only_the_fake():
    assert vchan.is_fake(), "these tests are for the fake vsock: LD_PRELOAD=build/fake/vsock.so"
