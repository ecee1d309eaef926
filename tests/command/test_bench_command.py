# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vchan-vsock bench` between a guest and its host; how fast it is decides nothing."""
import json
import os
import subprocess

import pytest

import vchan
from command.conftest import LATE

pytestmark = pytest.mark.deadline(300)
TOOL = vchan.ROOT / "build" / "vchan-vsock"


@pytest.fixture
def host_tool():
    """Starts the command here; killed in the end if it is still there."""
    started = []

    def start(*words):
        process = subprocess.Popen([str(TOOL), "bench", *map(str, words)], text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def in_guest(guest, *words):
    # Real domains; conftest's loopback is for one machine only.
    return guest.popen(["env", "-u", "VCHAN_VSOCK_LOOPBACK", str(TOOL), "bench",
                        *map(str, words)])


def check(text, driver, server):
    found = json.loads(text)
    assert (found["driver"]["cid"], found["server"]["cid"]) == (driver, server)
    assert found["wire"] == "framed" and found["driver"]["kernel"] == os.uname().release
    names = [case["name"] for case in found["cases"]]
    assert len(names) == 20 and names[0] == "trip-1" and names[-1] == "setup"
    for case in found["cases"]:
        assert case["vchan"]["died"] == 0 and case["vchan"]["min"] > 0
        # A kernel may reset a plain socket's connection whose reader lags.
        assert case["plain"]["died"] < found["rounds"] and case["ratio"] > 0


def test_guest_measures_against_its_host(guest, port, host_tool):
    port = min(port, 65535 - 4)
    server = host_tool("--serve", "--once", guest.cid, port)
    driver = in_guest(guest, "--seconds", 1, "--json", "host", port)
    assert driver.wait(LATE) == 0, driver.stderr.read_available()
    check(driver.stdout.read_available(), guest.cid, vchan.CID_HOST)
    assert server.wait(vchan.SOON) == 0


def test_host_measures_against_its_guest(guest, port, host_tool):
    port = min(port, 65535 - 4)
    server = in_guest(guest, "--serve", "--once", "host", port)
    driver = host_tool("--seconds", 1, "--json", guest.cid, port)
    output, _ = driver.communicate(timeout=LATE)
    assert driver.returncode == 0
    check(output, vchan.CID_HOST, guest.cid)
    assert server.wait(vchan.SOON) == 0
