# SPDX-License-Identifier: LGPL-2.1-or-later
"""vchan-vsock addr: the numbers are the library's, and the lines work."""
import json
import random
import re
import subprocess

import pytest

import tooling

HOST = 2


def asked(tool, *arguments, base=None):
    told = tool("addr", "--json", *arguments, env={"VCHAN_VSOCK_PORT_BASE": base})
    assert told.stderr == b""
    return told.returncode, json.loads(told.stdout)


def machines(server, client, port, base):
    """The mapping as the README has it; None: out of range."""
    plain = base + client * 65536 + port
    if client >= 32768 or port >= 65536 or plain >= 2**31:
        return None
    return {"cid": server, "plain": plain, "framed": plain + 2**31}


def loopback(server, client, port, base):
    plain = base + server * 2**23 + client * 2**14 + port
    if server >= 256 or client >= 512 or port >= 16384 or plain >= 2**31:
        return None
    return {"cid": 1, "plain": plain, "framed": plain + 2**31}


def around(*borders):
    """A number near one of the borders, or anywhere between them."""
    border = random.choice(borders)
    return random.choice([border - 1, border, border + 1, random.randint(3, max(borders))])


@pytest.mark.parametrize("_", range(40))
def test_ports_are_those_of_the_mapping(tool, _):
    server, client = around(256, 40000), around(512, 32768, 40000)
    port, base = around(16384, 65536), random.choice([0, 0, 7, 2**30, 2**31 - 1])
    status, told = asked(tool, server, client, port, base=base)
    expected = (machines(server, client, port, base), loopback(server, client, port, base))
    for name, value in zip(("machines", "loopback"), expected):
        if value:
            assert told[name] == value
        else:
            assert re.search("must be below|is not below", told[name]["error"])
    assert status == (0 if any(expected) else 1)
    assert (told["server"], told["client"], told["port"], told["port_base"]) == (
        server, client, port, base)


def test_readme_example(tool):
    told = tool("addr", "host", 42, 512, text=True)
    assert (told.returncode, told.stderr) == (0, "")
    for line in ("ncat --vsock 2 2753024", "socat - VSOCK-CONNECT:2:2753024",
                 "vsock port 2753024", "vsock port 2150236672"):
        assert line in told.stdout
    told = tool("addr", 42, "host", 512, text=True)
    assert "ncat --vsock 42 131584" in told.stdout


def test_host_is_domain_0_is_cid_2(tool):
    assert asked(tool, "host", 42, 5) == asked(tool, 0, 42, 5) == asked(tool, 2, 42, 5)


@pytest.mark.parametrize("address, mode, why", [
    ((3, 32768, 5), "machines", "the client's domain must be below 32768"),
    ((3, 4, 65536), "machines", "the port must be below 65536"),
    ((256, 4, 5), "loopback", "the server's domain must be below 256"),
    ((3, 512, 5), "loopback", "the client's domain must be below 512"),
    ((3, 4, 16384), "loopback", "the port must be below 16384"),
])
def test_what_is_out_of_range_says_why(tool, address, mode, why):
    _, told = asked(tool, *address)
    assert told[mode]["error"].endswith(why)
    assert why in tool("addr", *address, text=True).stdout


def test_port_base_that_is_too_large_says_so(tool):
    status, told = asked(tool, 3, 4, 5, base=2**31 - 1)
    assert status == 1
    assert "VCHAN_VSOCK_PORT_BASE" in told["machines"]["error"]


def test_environment_that_does_not_parse_is_named(tool):
    told = tool("addr", 3, 4, 5, env={"VCHAN_VSOCK_PORT_BASE": "many"}, text=True)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.count("\n") == 1 and "VCHAN_VSOCK_PORT_BASE='many'" in told.stderr


def test_python_line_reaches_a_server(tool, start_tool, start_python, address):
    told = tool("addr", address.server, address.client, address.port, text=True).stdout
    line = re.findall(r"^  Python +(.*)$", told, re.M)[1]
    server = start_tool("listen", address.client, address.port, domain=address.server,
                        stdin=subprocess.DEVNULL)
    plain_peer = start_python("import sys, time\n"
                              "def connect():\n"
                              f"    {line}\n"
                              "    return peer\n"
                              "while True:\n"
                              "    try:\n"
                              "        peer = connect()\n"
                              "        break\n"
                              "    except ConnectionResetError:\n"
                              "        time.sleep(0.01)\n"
                              "peer.sendall(b'Hello host\\n')\n")
    out, err = server.communicate(timeout=tooling.LATE)
    assert (server.returncode, out, err) == (0, b"Hello host\n", b"")
    assert plain_peer.wait(tooling.LATE) == 0
