# SPDX-License-Identifier: LGPL-2.1-or-later
"""vchan-vsock doctor: what it says of machines that the test makes up.

Each runs in a mount namespace whose modules and devices are the test's; what the kernel
says otherwise is tests/programs/kernel.c, and vsock is tests/fake.  The real thing is in
tests/command/test_state.py.
"""
import fcntl
import json
import os
import pty
import stat
import struct
import subprocess
import termios
import threading

import pytest

import programs
import tooling

RELEASE = "6.1.0-9-test"
NULL_DEVICE = os.makedev(1, 3)
NAMES = ("vsock", "vmw_vsock_virtio_transport", "vhost_vsock", "vsock_loopback", "vsock_diag")
HOST = ("vsock", "vhost_vsock", "vsock_loopback", "vsock_diag")
GUEST = ("vsock", "vmw_vsock_virtio_transport", "vsock_loopback", "vsock_diag")

# The machine's own are out of sight.  Some kernels have no /proc/modules.
ENTER = ["unshare", "--mount", "sh", "-ec", """
tree=$1; shift
if test -e /proc/modules; then mount --bind "$tree/modules" /proc/modules; fi
mount --bind "$tree/sys" /sys/module
mount --bind "$tree/lib" /lib/modules
mount --bind "$tree/dev" /dev
exec "$@"
""", "sh"]


class Machine:
    """A tree of what doctor looks at."""

    def __init__(self, tree):
        self.tree = tree
        for name in ("sys", "lib", "dev"):
            (tree / name).mkdir()
        (tree / "modules").touch()
        self.index = tree / "lib" / RELEASE
        self.index.mkdir()
        self.has("modules.builtin")
        self.has("modules.dep")

    def has(self, index, *names):
        (self.index / index).write_text("".join(
            f"kernel/net/vmw_vsock/{name}.ko{':' if index == 'modules.dep' else ''}\n"
            for name in ("other_" + NAMES[0], *names, NAMES[0] + "_other")))

    def load(self, *names):
        for name in names:
            (self.tree / "sys" / name).mkdir()
            (self.tree / "sys" / name / "initstate").write_text("live\n")

    def device(self, name, mode=0o666):
        path = self.tree / "dev" / name
        os.mknod(path, stat.S_IFCHR, NULL_DEVICE)
        path.chmod(mode)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def host(machine):
    """A host on which all is well."""
    machine.load(*HOST)
    machine.device("vsock")
    machine.device("vhost-vsock")
    return machine


@pytest.fixture
def examined(tool_built, surroundings, tmp_path):
    """examined(word, ..., name=value): doctor on the machine, a CompletedProcess."""
    def run(*words, wrapper=(), **env):
        kernel, fake, tool = map(tooling.for_others,
                                 (programs.program("kernel.so"), tooling.FAKE, tool_built))
        env = {"VCHAN_VSOCK_LOOPBACK": None, "VCHAN_VSOCK_LINGER_MS": None,
               "FAKE_RELEASE": RELEASE, "LD_PRELOAD": f"{kernel}:{fake}", **env}
        return subprocess.run(
            [*ENTER, str(tmp_path), *wrapper, str(tool), "doctor", *map(str, words)],
            env=surroundings(**env), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=40)
    return run


@pytest.fixture
def findings(examined):
    """The same with --json: {name: finding}, and that the status is right."""
    def run(*words, **env):
        done = examined("--json", *words, **env)
        found = json.loads(done.stdout)
        assert done.stderr == ""
        assert done.returncode == any(each["state"] == "bad" for each in found), found
        assert all(each.keys() == {"name", "state", "text", "advice"} for each in found)
        by_name = {each["name"]: each for each in found}
        assert len(by_name) == len(found), "two of one name"
        return by_name
    return run


def states(found, *names):
    return [found[name]["state"] for name in names]


# --- machines -----------------------------------------------------------------------

def test_host_on_which_all_is_well(host, findings):
    found = findings()
    assert {name for name in found if found[name]["state"] != "ok"} == {
        "vmw_vsock_virtio_transport"}
    assert found["role"]["text"] == "a host"
    assert found["domain"]["text"].startswith("channels take this machine for domain 0 (the host)")


def test_guest_on_which_all_is_well(machine, findings):
    machine.load(*GUEST)
    machine.device("vsock")
    found = findings(FAKE_CID="42")
    assert {name for name in found if found[name]["state"] != "ok"} == {"vhost_vsock"}
    assert found["role"]["text"] == "a guest, CID 42"
    assert "domain 42, as the kernel says" in found["domain"]["text"]


def test_guest_that_is_a_host_is_told_of_its_two_domains(machine, findings):
    machine.load(*GUEST, "vhost_vsock")
    machine.device("vsock")
    found = findings(FAKE_CID="42")
    assert states(found, "role") == ["note"] and "VCHAN_DOMAIN=0" in found["role"]["advice"]
    assert states(findings(FAKE_CID="42", VCHAN_DOMAIN="0"), "role", "domain") == ["ok", "ok"]


def test_machine_without_anything(machine, findings):
    found = findings()
    assert states(found, "device", "cid", "role", "domain") == ["bad"] * 4
    assert states(found, *NAMES) == ["note"] * 5, "the fake has sockets, so none is needed"
    assert "CONFIG_VHOST_VSOCK" in found["vhost_vsock"]["advice"]


def test_driver_without_a_device(machine, findings):
    machine.load(*GUEST)
    machine.device("vsock")
    found = findings(FAKE_CID="4294967295")
    assert states(found, "cid", "role") == ["bad", "bad"]
    assert "guest-cid=N" in found["role"]["advice"]


def test_another_hypervisor_is_a_note(machine, findings):
    machine.load("vsock", "hv_sock")
    machine.device("vsock")
    assert states(findings(FAKE_CID="1"), "role") == ["note"]


@pytest.mark.parametrize("how, state, text", [
    ("loaded", "ok", "loaded"), ("proc", "ok", "loaded"), ("sys", "ok", "built in"),
    ("builtin", "ok", "built in"), ("available", "note", "not loaded"),
    ("packed", "note", "not loaded"), ("dash", "note", "not loaded"),
    ("missing", "note", "not among"), ("hidden", "note", "not in /lib/modules")])
@pytest.mark.parametrize("name", NAMES)
def test_modules_are_found_where_they_are(machine, findings, how, state, text, name):
    if how == "proc":
        if not os.path.exists("/proc/modules"):
            machine.load(name)
        (machine.tree / "modules").write_text(f"{name} 1 2 - Live 0x0\n")
    elif how == "loaded":
        machine.load(name)
    elif how == "sys":
        (machine.tree / "sys" / name).mkdir()
    elif how == "builtin":
        machine.has("modules.builtin", name)
    elif how == "available":
        machine.has("modules.dep", name)
    elif how == "packed":
        (machine.index / "modules.dep").write_text(f"kernel/{name}.ko.xz: kernel/other.ko.xz\n")
    elif how == "dash":
        (machine.index / "modules.dep").write_text(f"{name.replace('_', '-')}.ko:\n")
    elif how == "hidden":
        (machine.index / "modules.dep").unlink()
    found = findings()[name]
    assert found["state"] == state and text in found["text"]
    assert (found["advice"] is None) == (state == "ok")
    if text == "not loaded":
        assert found["advice"].endswith(f"modprobe {name}")


def test_loopback_needs_its_module(host, findings):
    assert states(findings(VCHAN_VSOCK_LOOPBACK="1"), "vsock_loopback", "loopback") == [
        "ok", "note"]
    (host.tree / "sys" / "vsock_loopback" / "initstate").unlink()
    (host.tree / "sys" / "vsock_loopback").rmdir()
    assert states(findings(VCHAN_VSOCK_LOOPBACK="1"), "vsock_loopback") == ["bad"]


@pytest.mark.parametrize("what, words", [("afnosupport", "modprobe vsock"), ("acces", "policy")])
def test_no_vsock_sockets(host, findings, what, words):
    found = findings(LD_PRELOAD=None, wrapper=(programs.program("no-vsock"), what))
    assert states(found, "socket") == ["bad"] and words in found["socket"]["advice"]


# --- devices --------------------------------------------------------------------------

AS_USER = ("setpriv", "--reuid=64321", "--regid=64321", "--clear-groups")


@pytest.mark.parametrize("mode, state", [(0o600, "bad"), (0o660, "bad"), (0o666, "ok")])
def test_device_that_this_user_may_not_open(machine, findings, mode, state):
    machine.load(*HOST)
    machine.device("vsock", mode)
    found = findings(wrapper=AS_USER)
    assert states(found, "device", "cid") == [state, state]
    found = findings(wrapper=AS_USER, VCHAN_DOMAIN="0")
    assert states(found, "device", "domain") == ["note" if state == "bad" else "ok", "ok"]


def test_device_that_is_none(host, findings):
    (host.tree / "dev" / "vsock").unlink()
    (host.tree / "dev" / "vsock").touch()
    assert "is no device" in findings()["device"]["text"]


def test_device_for_guests_that_this_user_may_not_open(machine, findings):
    machine.load(*HOST)
    machine.device("vsock")
    assert states(findings(), "host-device") == ["note"]
    machine.device("vhost-vsock", 0o600)
    assert states(findings(), "host-device") == ["ok"]
    found = findings(wrapper=AS_USER)
    assert states(found, "host-device") == ["note"]
    assert "Permission denied" in found["host-device"]["text"]


# --- the kernel -----------------------------------------------------------------------

@pytest.mark.parametrize("release, words", [
    ("6.12.95", "resets"), ("6.12.100+deb12-cloud-amd64", "resets"), ("6.12.96", "may reset"),
    ("6.12.116-1", "may reset"), ("6.12.117+deb12-cloud-amd64", ""), ("6.12.94", ""),
    ("6.1.0-56-cloud-amd64", ""), ("6.18.44-fc", ""), ("6.1.100", ""), ("5.12.100", ""),
    ("strange", ""), ("6.12", "")])
def test_kernels_that_count_packets_are_known(host, findings, release, words):
    """docs/kernels.md, In what kernels differ."""
    found = findings(FAKE_RELEASE=release)
    assert states(found, "kernel") == ["note" if words else "ok"]
    assert f"Linux {release} {words}".strip() in found["kernel"]["text"]


def test_few_files(host, findings):
    found = findings(wrapper=("prlimit", "--nofile=40"))
    assert states(found, "open-files") == ["note"] and "40 files" in found["open-files"]["text"]


# --- the environment --------------------------------------------------------------------

def test_empty_environment(host, findings):
    assert states(findings(), "environment") == ["ok"]


@pytest.mark.parametrize("log", [None, "none", "debug", "loud"])
def test_every_wrong_variable_is_named(host, findings, log):
    wrong = {"VCHAN_DOMAIN": "-1", "VCHAN_VSOCK_WIRE": "both", "VCHAN_VSOCK_LINGER_MS": "1s",
             "VCHAN_VSOCK_PORT_BASE": "a=VCHAN_b\n", **({"VCHAN_VSOCK_LOG": log} if log else {})}
    found = findings(**wrong)
    for name, value in wrong.items():
        good = value in ("none", "debug")
        assert states(found, name) == ["ok" if good else "bad"]
        assert found[name]["text"].startswith(name + "=")


def test_good_variables_are_shown(host, findings):
    found = findings(VCHAN_VSOCK_WIRE="framed", VCHAN_VSOCK_BOOT_WAIT_MS="7")
    assert found["VCHAN_VSOCK_WIRE"]["text"] == "VCHAN_VSOCK_WIRE=framed"
    assert states(found, "VCHAN_VSOCK_BOOT_WAIT_MS") == ["ok"]
    assert "environment" not in found


@pytest.mark.parametrize("name, meant", [
    ("VCHAN_DOMIAN", "VCHAN_DOMAIN"), ("VCHAN_VSOCK_BOOTWAIT", "VCHAN_VSOCK_BOOT_WAIT_MS"),
    ("VCHAN_LOOPBACK", "VCHAN_VSOCK_LOOPBACK"), ("VCHAN_VSOCK_WIRES", "VCHAN_VSOCK_WIRE"),
    ("VCHAN_LIB", None), ("VCHAN_" + 200 * "X", None)])
def test_unknown_variables_are_pointed_out(host, findings, name, meant):
    found = findings(**{name: "1"})[name[:63]]
    assert found["state"] == "note"
    assert found["advice"] == (f"perhaps {meant} is meant" if meant else None)


@pytest.mark.parametrize("domain, loopback, cid, state", [
    ("0", None, "2", "ok"), ("2", None, "2", "ok"), ("42", None, "42", "ok"),
    ("41", None, "42", "bad"), ("0", None, "42", "ok"), ("42", None, "2", "bad"),
    ("42", None, "1", "ok"), ("32767", None, "32767", "ok"), ("32768", None, "32768", "bad"),
    ("255", "1", "2", "ok"), ("256", "1", "2", "bad"), ("512", "1", "2", "bad"),
    (None, None, "40000", "bad")])
def test_domain(host, findings, domain, loopback, cid, state):
    found = findings(VCHAN_DOMAIN=domain, VCHAN_VSOCK_LOOPBACK=loopback, FAKE_CID=cid)
    assert states(found, "domain") == [state]


# --- other machines -----------------------------------------------------------------------

def test_machine_that_does_not_exist(host, findings):
    found = findings("99")
    assert states(found, "machine") == ["bad"] and "no such machine" in found["machine"]["text"]


def test_machine_that_answers(host, findings):
    assert states(findings("host"), "machine") == ["ok"]


def test_without_a_domain_nothing_is_connected_to(host, examined, tmp_path):
    """Nor bound nor listened on."""
    trace = tmp_path / "trace"
    done = examined("--json", wrapper=("strace", "-f", "-o", trace, "-e",
                                       "trace=bind,listen,connect"),
                    ASAN_OPTIONS="verify_asan_link_order=0:detect_leaks=0")
    assert done.returncode == 0
    assert [line for line in trace.read_text().splitlines() if "(" in line] == []


def serve(start_python, source, *words, domain):
    process = start_python(source, *words, domain=domain)
    assert process.stdout.readline() == b"ready\n"
    return process


SERVER = """
import ctypes, sys
vchan = ctypes.CDLL(sys.argv[1])
vchan.libvchan_server_init.restype = ctypes.c_void_p
vchan.libvchan_is_open.argtypes = [ctypes.c_void_p]
vchan.libvchan_wait.argtypes = [ctypes.c_void_p]
page = ctypes.c_size_t(4096)
server = vchan.libvchan_server_init(8, int(sys.argv[2]), page, page)
assert server
print("ready", flush=True)
for line in sys.stdin:
    if line == "wait\\n":
        while vchan.libvchan_is_open(server) == 2:
            vchan.libvchan_wait(server)
    print(vchan.libvchan_is_open(server), flush=True)
"""
CLIENT = """
import ctypes, sys
vchan = ctypes.CDLL(sys.argv[1])
vchan.libvchan_client_init.restype = ctypes.c_void_p
assert vchan.libvchan_client_init(7, int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.read()
"""
LIBRARY = programs.vchan.ROOT / "build" / "libvchan-vsock.so.1"
LOOPBACK = {"VCHAN_VSOCK_LOOPBACK": "1", "VCHAN_DOMAIN": "8"}


def ask(server, word):
    server.stdin.write(word + b"\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def test_server_that_waits_is_found_and_waits_on(host, findings, start_python):
    server = serve(start_python, SERVER, LIBRARY, 600, domain=7)
    for _ in range(3):
        found = findings("7", "600", **LOOPBACK)
        assert states(found, "machine", "server") == ["ok", "ok"]
    assert ask(server, b"state") == 2
    serve(start_python, CLIENT, LIBRARY, 600, domain=8)
    assert ask(server, b"wait") == 1


def test_server_for_another_domain_is_none_for_us(host, findings, start_python):
    serve(start_python, SERVER, LIBRARY, 601, domain=7)
    found = findings("7", "601", **{**LOOPBACK, "VCHAN_DOMAIN": "9"})
    assert states(found, "machine", "server") == ["ok", "bad"]


PLAIN = """
import socket, sys
listener = socket.socket(socket.AF_VSOCK)
listener.bind((1, 7 * 2**23 + 8 * 2**14 + int(sys.argv[1])))
listener.listen()
listener.settimeout(1)
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(len(listener.accept()), flush=True)
    except TimeoutError:
        print(0, flush=True)
"""


def test_plain_port_is_touched_only_when_told_to(host, findings, start_python):
    server = serve(start_python, PLAIN, 602, domain=7)
    found = findings("7", "602", **LOOPBACK)
    assert states(found, "server") == ["bad"] and "--plain" in found["server"]["advice"]
    assert ask(server, b"accept") == 0
    found = findings("--plain", "7", "602", **LOOPBACK)
    assert states(found, "server") == ["note"]
    assert ask(server, b"accept") == 2


def test_plain_port_is_not_touched_when_the_framed_one_answers(host, findings, start_python):
    server = serve(start_python, SERVER, LIBRARY, 603, domain=7)
    assert states(findings("--plain", "7", "603", **LOOPBACK), "server") == ["ok"]
    assert ask(server, b"state") == 2


@pytest.mark.parametrize("wire, state", [("auto", "ok"), ("framed", "ok"), ("plain", "note")])
def test_wire_of_this_environment_is_minded(host, findings, start_python, wire, state):
    serve(start_python, SERVER, LIBRARY, 604, domain=7)
    assert states(findings("7", "604", VCHAN_VSOCK_WIRE=wire, **LOOPBACK), "server") == [state]


def test_port_that_has_no_vsock_port(host, findings):
    found = findings("7", "20000", **LOOPBACK)
    assert states(found, "server") == ["bad"] and "below 16384" in found["server"]["text"]


# --- another guest ------------------------------------------------------------------------

RELAY = """
import socket, sys
listener = socket.socket(socket.AF_VSOCK)
listener.bind((2, 768))
listener.listen()
print("ready", flush=True)
while True:
    peer, _ = listener.accept()
    request = peer.recv(24)
    if request:
        print(request.hex(), flush=True)
        peer.sendall(b"vch1rely\\1\\0" + bytes([int(sys.argv[1]), 0, 0, 0, 0, 0]))
    peer.close()
"""


@pytest.fixture
def guest(machine):
    machine.load(*GUEST)
    machine.device("vsock")


def test_guest_without_a_relay_reaches_no_other_guest(guest, findings):
    found = findings("43", "5", FAKE_CID="42", FAKE_VSOCK="no relay")
    assert states(found, "relay") == ["bad"] and "vchan-vsock relay" in found["relay"]["advice"]
    assert "server" not in found


@pytest.mark.parametrize("status, state, words", [
    (0, "ok", "waits"), (1, "bad", "no server"), (2, "bad", "no such machine"),
    (3, "bad", "policy"), (4, "bad", "too many"), (5, "bad", "booting"), (6, "bad", "Protocol")])
def test_relay_is_asked_for_another_guest(guest, findings, start_python, status, state, words):
    place = f"relay-{os.getpid()}-{status}"
    relay = start_python(RELAY, status, env={"FAKE_VSOCK": place})
    assert relay.stdout.readline() == b"ready\n"
    found = findings("43", "5", FAKE_CID="42", FAKE_VSOCK=place)
    assert states(found, "relay", "server") == ["ok", state]
    assert words in found["server"]["text"]
    request = bytes.fromhex(relay.stdout.readline().decode())
    assert request == b"vch1rely" + struct.pack("<HHIII", 1, 1, 43, 5, 0)


# --- for people -----------------------------------------------------------------------------

def test_lines_begin_with_the_state_and_end_with_advice(host, examined):
    done = examined(VCHAN_DOMIAN="1\033")
    lines = done.stdout.splitlines()
    assert all(line.split()[0] in ("ok", "note", "bad") for line in lines)
    assert "note  VCHAN_DOMIAN: the library knows no such variable -> perhaps VCHAN_DOMAIN is " \
        "meant" in lines
    assert "\033" not in done.stdout


def in_terminal(words, env):
    """What a command writes to a terminal."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    text = bytearray()

    def read():
        try:
            while piece := os.read(leader, 4096):
                text.extend(piece)
        except OSError:  # EIO: nobody has the other end any more
            pass

    reader = threading.Thread(target=read)
    reader.start()
    subprocess.run(words, env=env, stdin=subprocess.DEVNULL, stdout=follower, check=False,
                   timeout=40)
    os.close(follower)
    reader.join(40)
    os.close(leader)
    return bytes(text)


@pytest.mark.parametrize("variables, options, coloured", [
    ({}, [], True), ({"NO_COLOR": "1"}, [], False), ({"TERM": "dumb"}, [], False),
    ({}, ["--json"], False)])
def test_colours_are_for_terminals(host, tool_built, surroundings, tmp_path, variables, options,
                                   coloured):
    text = in_terminal([*ENTER, str(tmp_path), str(tool_built), "doctor", *options],
                       surroundings(**{"TERM": "xterm", "NO_COLOR": None, **variables}))
    assert (b"\033[32mok" in text) == coloured
    assert (b"\033" in text) == coloured


@pytest.mark.parametrize("words", [["x"], ["1", "65536"], ["1", "2", "3"], ["--plain"],
                                   ["--plain", "1"], ["--bad"], ["2147483648"], ["-1"]])
def test_wrong_command_lines_are_usage(tool, words):
    done = tool("doctor", *words, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--help" in done.stderr


def test_help_ends_with_an_example(tool):
    done = tool("doctor", "--help", text=True)
    assert done.returncode == 0 and done.stdout.endswith("  vchan-vsock doctor 42 512\n")


def test_disk_that_is_full_is_a_failure(tool):
    with open("/dev/full", "wb") as full:
        done = tool("doctor", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and b"No space left" in done.stderr
