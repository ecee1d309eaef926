# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every promise of the contract, over both wires.

By default two ends of ours agree on the framed wire, and a plain socket is
served on the plain one.  So a test whose peer is a plain socket runs once, and
all others once more with nothing but the plain wire.
"""
import inspect
import os

import pytest


def wires_of(metafunc):
    if metafunc.definition.get_closest_marker("own_wires"):
        return ["auto"]
    if "settled" in metafunc.fixturenames:
        return ["auto", "ours"]  # test_events.py: either kind of peer
    source = inspect.getsource(metafunc.function)
    if "raw" in source or any("raw" in name for name in metafunc.fixturenames):
        return ["auto"]
    return ["auto"] if os.environ.get("VCHAN_TEST_WIRES") == "default" else ["auto", "plain"]


def pytest_generate_tests(metafunc):
    if "wire" in metafunc.fixturenames:
        metafunc.parametrize("wire", wires_of(metafunc), indirect=True)


@pytest.fixture(autouse=True)
def wire(request, clean_environment, monkeypatch):
    """Which wire the library's ends use in this test."""
    if request.param == "plain":
        monkeypatch.setenv("VCHAN_VSOCK_WIRE", "plain")
    return request.param
