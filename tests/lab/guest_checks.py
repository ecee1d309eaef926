# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks of labkit.Guest; test_lab.py has them run in a lab machine."""
import hashlib
import os
import random
import signal
import socket
import subprocess
import threading
import time

import pytest

import labkit

# A guest boots beside others, and twice if the first time it does not.
pytestmark = pytest.mark.deadline(200)

PYTHON = "/usr/bin/python3"
# Says the CID of its machine, then serves one vsock connection.
SERVER = """
import fcntl, socket, struct
with open("/dev/vsock", "rb") as f:
    print(struct.unpack("I", fcntl.ioctl(f, 0x7b9, bytes(4)))[0], flush=True)
s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
s.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
s.listen()
print(s.getsockname()[1], flush=True)
c, peer = s.accept()
c.sendall(b"hello " + str(peer[0]).encode())
"""


def test_program_gets_its_arguments_and_gives_its_status(guest):
    done = guest.run(["sh", "-c", 'echo "$1"; echo $V >&2; exit 7', "x", "a b"],
                     env={"V": "w"}, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, "a b\n", "w\n")


def test_program_runs_in_our_directory_on_our_files(guest):
    assert guest.run(["pwd"], text=True).stdout.strip() == os.getcwd()
    with open(__file__, "rb") as f:
        assert guest.run(["cat", __file__]).stdout == f.read()


def test_variables_of_the_library_stay_here(guest, monkeypatch):
    monkeypatch.setenv("VCHAN_X", "1")
    assert b"VCHAN_" not in guest.run(["env"]).stdout


def test_large_input_and_output_stay_intact(guest):
    data = os.urandom(1 << 20)
    done = guest.run(["tee", "/dev/stderr"], input=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    assert done.stderr == data


def test_input_can_end_early(guest):
    assert guest.run(["true"], input=b"x" * (1 << 20)).returncode == 0


def test_lines_come_as_they_are_written(guest):
    process = guest.popen(["sh", "-c", "while read x; do echo got $x; done"])
    for word in (b"one", b"two"):
        process.stdin.write(word + b"\n")
        assert process.stdout.readline(timeout=20) == b"got " + word + b"\n"
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(20) == 0
    assert process.stdout.readline() == b""


def test_several_programs_run_at_once(guest):
    readers = [guest.popen(["cat"]) for _ in range(5)]
    for number, reader in enumerate(readers):
        reader.stdin.write(b"%d" % number)
    for number, reader in reversed(list(enumerate(readers))):
        assert reader.stdout.read(1, timeout=20) == b"%d" % number
        reader.stdin.close()
        assert reader.wait(20) == 0


def test_signal_reaches_the_program(guest):
    process = guest.popen(["sleep", "1000"])
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.kill(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM


def test_late_program_is_ended(guest):
    with pytest.raises(subprocess.TimeoutExpired) as late:
        guest.run(["sh", "-c", "echo begun; sleep 4242"], timeout=15)
    assert late.value.stdout == b"begun\n"
    assert guest.run(["pgrep", "-f", "[s]leep 4242"]).returncode == 1


def test_program_ends_although_a_child_of_it_lives(guest):
    done = guest.run(["sh", "-c", "echo done; sleep 1000 &"], timeout=20)
    assert done.stdout == b"done\n"


def test_missing_program_is_said_so(guest):
    with pytest.raises(FileNotFoundError):
        guest.run(["/no/such/program"])


def test_guest_answers_on_its_cid(guest):
    server = guest.popen([PYTHON, "-c", SERVER])
    assert int(server.stdout.readline()) == guest.cid
    port = int(server.stdout.readline())
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        sock.settimeout(20)
        sock.connect((guest.cid, port))
        assert sock.recv(100) == b"hello 2"
    assert server.wait(20) == 0


def test_guest_has_no_loopback_unasked(guest):
    loaded = guest.run(["cat", "/proc/modules"], text=True).stdout
    assert "vmw_vsock_virtio_transport " in loaded
    assert "vsock_loopback " not in loaded


def test_cid_in_use_is_said_so(guest):
    with pytest.raises(labkit.LabError, match=f"{guest.cid} is in use"):
        labkit.Guest(guest.cid).start()


def test_paused_guest_waits_until_it_is_resumed(guest):
    guest.pause()
    process = []
    task = threading.Thread(target=lambda: process.append(
        guest.popen(["echo", "awake"])))
    task.start()
    try:
        task.join(2)
        assert task.is_alive()
    finally:
        guest.resume()
    task.join(20)
    assert process[0].stdout.readline() == b"awake\n"


def test_killed_guest_is_gone_at_once(guest):
    process = guest.popen(["sleep", "1000"])
    begun = time.monotonic()
    guest.kill()
    with pytest.raises(labkit.MachineGone):
        process.wait(20)
    assert time.monotonic() - begun < 5
    assert not guest.alive() and not guest.lost()
    with pytest.raises(labkit.MachineGone):
        guest.run(["true"])


def test_next_test_has_a_guest_again(guest):
    assert guest.run(["true"]).returncode == 0


def test_another_guest_has_another_cid_and_what_it_asked_for(
        guest, tmp_path, monkeypatch):
    choices = [guest.cid, guest.cid, random.choice([5, 31999])]
    monkeypatch.setattr(random, "choice", lambda cids: choices.pop(0))
    # Not by the fixture, which would hold the trouble against us.
    with labkit.Guest(modules=["vsock_loopback"], shares=[tmp_path]) as guest:
        assert guest.cid in (5, 31999) and not choices
        assert not guest.kernel_log_problems()
        loaded = guest.run(["cat", "/proc/modules"], text=True).stdout
        assert "vsock_loopback " in loaded
        guest.run(["sh", "-c", f"echo seen >{tmp_path}/file"], check=True)
        assert (tmp_path / "file").read_text() == "seen\n"
        guest.run(["sh", "-c", "echo 'BUG: a fake' >/dev/kmsg"], check=True)
        guest.poweroff()
        assert [line.split("] ")[-1] for line in guest.kernel_log_problems()] \
            == ["BUG: a fake"]
        assert not guest.alive()


def test_guest_that_ends_without_a_word_is_lost(guest):
    assert not guest.lost()
    guest.popen(["sh", "-c", "echo b >/proc/sysrq-trigger"])
    guest.qemu.wait(30)
    guest.kill()
    assert guest.lost()
