# SPDX-License-Identifier: LGPL-2.1-or-later
"""vchan-vsock list and doctor, on a host and in its guest, as the kernel has it."""
import json
import os
import pathlib
import subprocess

import pytest

import tooling
import vchan
from guest_puppet import serve
from puppet import Puppet
from vchan import CONNECTED, PAGE, WAITING, Vchan, until

TOOL = vchan.ROOT / "build" / "vchan-vsock"
MODPROBE = ["modprobe", "vsock_diag"]
AS_USER = ["setpriv", "--reuid=64321", "--regid=64321", "--clear-groups"]


@pytest.fixture(autouse=True)
def diag(request):
    """Distributions' kernels load it when it is asked for; not every initramfs can."""
    subprocess.run(MODPROBE, check=False, stderr=subprocess.DEVNULL)
    if "guest" in request.fixturenames:
        request.getfixturevalue("guest").run(MODPROBE)


def here(*words, wrapper=()):
    return subprocess.run([*wrapper, tooling.for_others(TOOL), *map(str, words)], text=True,
                          timeout=60, stdin=subprocess.DEVNULL, capture_output=True,
                          check=False)


def there(guest, *words):
    return guest.run(["env", "-u", "VCHAN_VSOCK_LOOPBACK", str(TOOL), *map(str, words)],
                     text=True, timeout=60)


def rows_of(done, port):
    assert (done.returncode, done.stderr) == (0, ""), done
    return [row for row in json.loads(done.stdout) if row["port"] == port]


def brief(row):
    return [row[key] for key in ("role", "state", "server", "client", "wire", "relayed")]


def findings(done):
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert done.returncode == any(each["state"] == "bad" for each in found.values()), done
    return found


# --- list ------------------------------------------------------------------------------

def test_server_is_listed_while_it_waits(guest, port):
    server = Vchan.server(guest.cid, port)
    row, = rows_of(here("list", "--json"), port)
    assert brief(row) == ["server", "waiting", 0, guest.cid, "auto", False]
    assert (row["pid"], row["processes"]) == (os.getpid(), 1)
    assert row["command"] == pathlib.Path("/proc/self/comm").read_text().strip()
    server.close()
    assert rows_of(here("list", "--all", "--json"), port) == []


def test_both_ends_of_a_guests_channel_are_listed(guest, port):
    server, client = serve(guest, port)
    row, = rows_of(here("list", "--json"), port)
    assert brief(row) == ["server", "connected", 0, guest.cid, "framed", False]
    assert row["pid"] == os.getpid()
    row, = rows_of(there(guest, "list", "--json"), port)
    assert brief(row) == ["client", "connected", 0, guest.cid, "framed", False]
    assert row["command"] == "puppet"
    client.write(b"undisturbed")
    assert server.recv(11) == b"undisturbed"
    server.close()
    client("close")
    assert rows_of(here("list", "--json"), port) == []
    assert rows_of(there(guest, "list", "--json"), port) == []


def test_both_ends_of_a_hosts_channel_are_listed(guest, in_guest, port):
    in_guest()("server", 0, port, PAGE, PAGE)
    row, = rows_of(there(guest, "list", "--json"), port)
    assert brief(row) == ["server", "waiting", guest.cid, 0, "auto", False]
    client = Vchan.client(guest.cid, port)
    row, = rows_of(here("list", "--json"), port)
    assert brief(row) == ["client", "connected", guest.cid, 0, "framed", False]
    assert row["pid"] == os.getpid()
    row, = rows_of(there(guest, "list", "--json"), port)
    assert brief(row) == ["server", "connected", guest.cid, 0, "framed", False]
    assert row["command"] == "puppet"
    client.close()


def test_both_ends_within_a_machine_are_listed(monkeypatch):
    monkeypatch.delenv("VCHAN_DOMAIN")
    monkeypatch.setenv("VCHAN_VSOCK_LOOPBACK", "1")
    address = vchan.Address.fresh()
    server = Puppet.serving(address)
    row, = rows_of(here("list", "--json"), address.port)
    assert brief(row) == ["server", "waiting", address.server, address.client, "auto", False]
    assert row["pid"] == server.process.pid
    client = Puppet.client_of(address)
    until(lambda: server("open") == CONNECTED)
    rows = rows_of(here("list", "--json"), address.port)
    assert [row["role"] for row in rows] == ["server", "client"]
    assert [row["pid"] for row in rows] == [server.process.pid, client.process.pid]
    assert all(brief(row)[1:] == ["connected", address.server, address.client, "framed", False]
               for row in rows)
    for puppet in (server, client):
        puppet.kill()
    until(lambda: rows_of(here("list", "--json"), address.port) == [])


def test_queues_are_what_the_kernel_tells(guest, port):
    """Older kernels nothing, newer ones what is not sent, and what is not read."""
    serve(guest, port)
    row, = rows_of(here("list", "--queues", "--json"), port)
    assert row["unsent"] in (None, 0) and row["unread"] in (None, 0)


def test_user_sees_no_others_processes(guest, port):
    Vchan.server(guest.cid, port)
    done = here("list", "--json", wrapper=AS_USER)
    row, = [row for row in json.loads(done.stdout) if row["port"] == port]
    assert (row["pid"], row["state"]) == (None, "waiting")
    assert "try as root" in done.stderr


def test_both_legs_of_a_relay_are_told_from_others(guest, in_guest, port):
    """vchan/relay.h: from a privileged port, to that of a client which is not the host."""
    peer = in_guest()
    peer("raw-listen", 9 * 65536 + port)
    sock = vchan.raw_connect(9 * 65536 + port, guest.cid, source=300)
    peer("raw-accept")
    row, = rows_of(here("list", "--json"), port)
    assert brief(row) == ["client", "connected", guest.cid, 9, "plain", True]
    row, = [row for row in rows_of(there(guest, "list", "--json"), port)
            if row["state"] == "connected"]
    assert brief(row) == ["server", "connected", guest.cid, 9, "plain", True]
    sock.close()


# --- doctor ------------------------------------------------------------------------------

def test_host_is_well(guest):
    done = here("doctor", "--json", guest.cid)
    found = findings(done)
    assert done.returncode == 0, found
    for name in ("vsock", "vhost_vsock", "vsock_diag", "socket", "device", "host-device", "cid",
                 "role", "domain", "machine"):
        assert found[name]["state"] == "ok", found[name]


def test_guest_is_well(guest):
    done = there(guest, "doctor", "--json", "host")
    found = findings(done)
    assert done.returncode == 0, found
    assert found["role"]["text"] == f"a guest, CID {guest.cid}"
    assert found["vmw_vsock_virtio_transport"]["state"] == "ok"
    assert found["machine"]["state"] == "ok"


def test_machine_that_does_not_exist_is_bad(guest):
    done = here("doctor", "--json", 32000 if guest.cid != 32000 else 32001)
    found = findings(done)
    assert done.returncode == 1
    assert (found["machine"]["state"], found["role"]["state"]) == ("bad", "ok")
    assert "no such machine" in found["machine"]["text"]


def test_machine_that_does_not_answer_is_bad(guest):
    guest.pause()
    try:
        found = findings(here("doctor", "--json", guest.cid))
    finally:
        guest.resume()
    assert found["machine"]["state"] == "bad" and "does not answer" in found["machine"]["text"]


def test_another_guest_needs_a_relay(guest):
    found = findings(there(guest, "doctor", "--json", guest.cid + 1, 5))
    assert found["relay"]["state"] == "bad"
    assert "server" not in found


def test_server_on_the_host_is_found_and_waits_on(guest, in_guest, port):
    server = Vchan.server(guest.cid, port)
    for _ in range(3):
        found = findings(there(guest, "doctor", "--json", "host", port))
        assert found["server"]["state"] == "ok", found
    assert server.is_open == WAITING
    client = in_guest()
    client("client", 0, port)
    until(lambda: server.is_open == CONNECTED)
    client.write(b"hello")
    assert server.recv(5) == b"hello"
    # It is nobody else's any more.
    found = findings(there(guest, "doctor", "--json", "--plain", "host", port))
    assert found["server"]["state"] == "bad"


def test_server_in_the_guest_is_found_and_waits_on(guest, in_guest, port):
    server = in_guest()
    server("server", 0, port, PAGE, PAGE)
    for _ in range(3):
        found = findings(here("doctor", "--json", guest.cid, port))
        assert found["server"]["state"] == "ok", found
    assert server("open") == WAITING
    client = Vchan.client(guest.cid, port)
    client.write(b"hello")
    assert server.recv(5) == b"hello"


def test_server_for_another_guest_is_none_for_this_one(guest, port):
    Vchan.server(guest.cid + 1, port)
    found = findings(there(guest, "doctor", "--json", "host", port))
    assert found["server"]["state"] == "bad"


@pytest.mark.parametrize("wire", ["framed", "plain"])
def test_server_of_one_wire_is_found(guest, in_guest, port, monkeypatch, wire):
    """The plain one is told of only when wanted, since it takes this for its client."""
    monkeypatch.setenv("VCHAN_VSOCK_WIRE", wire)
    server = Vchan.server(guest.cid, port)
    found = findings(there(guest, "doctor", "--json", "host", port))
    assert found["server"]["state"] == ("ok" if wire == "framed" else "bad")
    assert server.is_open == WAITING
    if wire == "plain":
        found = findings(there(guest, "doctor", "--json", "--plain", "host", port))
        assert found["server"]["state"] == "note"
