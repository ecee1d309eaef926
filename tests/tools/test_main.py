# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frame of the command: help, version, and what it refuses."""
import pathlib
import re
import subprocess

import pytest

import tooling


def refused(told, *words):
    """Status 2, nothing on stdout, and a line that names what was wrong."""
    line, hint = told.stderr.splitlines()
    assert told.returncode == 2 and told.stdout == ""
    assert all(word in line for word in words), line
    assert hint.startswith("Try: vchan-vsock ") and hint.endswith("--help")
    return True


def test_help_names_every_command(tool):
    told = tool("--help", text=True)
    assert (told.returncode, told.stderr) == (0, "")
    for command in tooling.COMMANDS:
        assert f"\n  {command} " in told.stdout
    assert tool("help", text=True).stdout == tool("-h", text=True).stdout == told.stdout


def test_without_a_command_the_help_is_an_error(tool):
    told = tool(text=True)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == tool("--help", text=True).stdout


def test_version_is_the_projects(tool):
    version = (tooling.ROOT / "VERSION").read_text().strip()
    told = tool("--version", text=True)
    assert (told.returncode, told.stdout, told.stderr) == (0, f"vchan-vsock {version}\n", "")


def test_unknown_command_and_option_are_refused_by_name(tool):
    assert refused(tool("lisen", text=True), "no such command: lisen")
    assert refused(tool("--verbose", text=True), "no such option: --verbose")


@pytest.mark.parametrize("command", tooling.COMMANDS)
def test_help_of_a_command_ends_with_an_example(tool, command):
    told = tool(command, "--help", text=True)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith(f"usage: vchan-vsock {command}")
    assert max(map(len, told.stdout.splitlines())) <= 100
    last = "\n".join(told.stdout.splitlines()[-8:])
    assert re.search(rf"^ +.*vchan-vsock {command}\b", last, re.M)


@pytest.mark.parametrize("command", tooling.COMMANDS)
def test_unknown_option_of_a_command_is_refused_by_name(tool, command):
    assert refused(tool(command, "--nosuch", text=True), f"vchan-vsock {command}: ", "--nosuch")
    assert refused(tool(command, "-Y", text=True), f"vchan-vsock {command}: ", "-Y")


@pytest.mark.parametrize("arguments, words", [
    (("listen",), ("DOMAIN and PORT",)),
    (("connect", "7"), ("DOMAIN and PORT",)),
    (("connect", "7", "512", "more"), ("more",)),
    (("connect", "hots", "512"), ("DOMAIN", "hots")),
    (("connect", "2147483648", "512"), ("DOMAIN", "2147483648")),
    (("listen", "-1", "512"), ("-1",)),
    (("listen", "7", "65536"), ("PORT", "65536")),
    (("listen", "7", "0x10"), ("PORT", "0x10")),
    (("listen", "7", ""), ("PORT", '""')),
    (("listen", "--read-ring", "1G1", "7", "512"), ("--read-ring", "1G1")),
    (("listen", "--write-ring", "2G", "7", "512"), ("--write-ring", "2G")),
    (("listen", "--read-ring"), ("--read-ring", "value")),
    (("listen", "--keep=yes", "7", "512"), ("--keep", "no value")),
    (("listen", "--timeout", "1", "7", "512"), ("--timeout",)),
    (("connect", "--timeout", "-1", "7", "512"), ("--timeout", "-1")),
    (("connect", "--timeout", "1.5", "7", "512"), ("--timeout", "1.5")),
    (("connect", "--linger", "soon", "7", "512"), ("--linger", "soon")),
    (("connect", "--progress=never", "7", "512"), ("--progress", "never")),
    (("connect", "--size", "K", "7", "512"), ("--size", '"K"')),
    (("connect", "--size", "9999999999T", "7", "512"), ("--size", "9999999999T")),
    (("connect", "--send-only", "--recv-only", "7", "512"), ("--send-only", "--recv-only")),
    (("connect", "--exec", "true", "--send-only", "7", "512"), ("--exec", "--send-only")),
    (("connect", "--exec", "true", "--linger", "1", "7", "512"), ("--exec", "--linger")),
    (("addr", "host", "42"), ("SERVER, CLIENT and PORT",)),
    (("addr", "host", "42", "512", "3"), ("too many", "3")),
    (("addr", "host", "4x", "512"), ("DOMAIN", "4x")),
    (("addr", "host", "42", "99999999999"), ("PORT", "99999999999")),
])
def test_wrong_command_line_is_refused_by_name(tool, arguments, words):
    assert refused(tool(*arguments, text=True), f"vchan-vsock {arguments[0]}: ", *words)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("listen", "--help"),
                                       ("addr", "host", "42", "512"),
                                       ("addr", "--json", "host", "42", "512")])
def test_full_disk_is_a_failure(tool, arguments):
    with open("/dev/full", "wb") as full:
        told = tool(*arguments, stdout=full, stderr=subprocess.PIPE, text=True)
    assert told.returncode == 1
    assert "No space left on device" in told.stderr


def test_files_of_a_private_tree_are_copied_for_other_users(tmp_path):
    tmp_path.chmod(0o700)
    (tmp_path / "file").write_text("content")
    there = tooling.for_others(tmp_path / "file")
    assert there.read_text() == "content"
    assert all(directory.stat().st_mode & 0o001 for directory in there.parents)
    assert tooling.for_others(pathlib.Path("/usr/bin/env")) == pathlib.Path("/usr/bin/env")
