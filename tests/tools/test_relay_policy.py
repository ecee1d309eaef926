# SPDX-License-Identifier: LGPL-2.1-or-later
"""The relay's policy: what a file may say, and where it is said to be wrong."""
import os
import subprocess

import pytest

import relay_guests

pytestmark = pytest.mark.usefixtures("tool_built")


def relay(*words):
    # As in conftest.py: a sanitizer's library need not be the first.
    options = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    return subprocess.run([relay_guests.TOOL, "relay", *words], text=True, timeout=20,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, "ASAN_OPTIONS": options})


def check(path):
    return relay("--check", path)


def checked(tmp_path, text):
    path = tmp_path / "policy"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = check(path)
    assert done.stdout == ""
    return done.returncode, done.stderr.replace(f"vchan-vsock relay: {path}:", "")


GOOD = {
    "allow 42 -> 43 512": 1,
    "allow 3 -> 2147483647 0": 1,
    "allow 32767 -> 3 65535": 1,
    "allow * -> * *": 1,
    "allow 3-9 -> 3,5,7-9 1,2,3-5": 1,
    "allow 7-7 -> 7,7 1-1": 1,
    " \tallow\t42  ->  43\t512  \t": 1,
    "allow 42 -> 43 512 # why": 1,
    "allow 42 -> 43 512#why \u00e9": 1,
    "# allow 42 -> 43 512": 0,
    "": 0,
    "\n\n  \n": 0,
    "allow 42 -> 43 512\n\nallow 43 -> 42 512\n": 2,
    "allow 42 -> 43 512\nallow 42 -> 43 512": 2,
}


@pytest.mark.parametrize("text", GOOD)
def test_accepted(tmp_path, text):
    rules = "1 rule" if GOOD[text] == 1 else f"{GOOD[text]} rules"
    assert checked(tmp_path, text) == (0, f" {rules}, no errors\n")


# What is said, and where in the line.
BAD = {
    "deny 42 -> 43 512": (1, 'a rule begins with "allow"'),
    "  allowed 42 -> 43 512": (3, 'a rule begins with "allow"'),
    "Allow 42 -> 43 512": (1, 'a rule begins with "allow"'),
    "allow": (6, "SOURCE is missing"),
    "allow   # 42 -> 43 512": (6, "SOURCE is missing"),
    "allow 42": (9, '"->" is missing'),
    "allow 42 43 512": (10, '"->" is missing'),
    "allow 42->43 512": (9, '"->" has blanks around it'),
    "allow 42 ->43 512": (10, '"->" is missing'),
    "allow 42 ->": (12, "TARGET is missing"),
    "allow 42 -> 43": (15, "PORTS is missing"),
    "allow 42 -> 43 512 513": (20, "the rule should end here"),
    "allow 42 -> 43 512, 513": (20, "a number is missing here, in PORTS"),
    "allow 42, 43 -> 44 1": (10, "a number is missing here, in SOURCE"),
    "allow x -> 43 512": (7, "a number is missing here, in SOURCE"),
    "allow -5 -> 43 512": (7, "a number is missing here, in SOURCE"),
    "allow 42x -> 43 512": (9, "only a number"),
    "allow 42 -> 43- 512": (16, "a number is missing here, in TARGET"),
    "allow 42 -> 43 1,,2": (18, "a number is missing here, in PORTS"),
    "allow 42 -> 43 1,2-": (20, "a number is missing here, in PORTS"),
    "allow 42 -> ** 1": (13, "a number is missing here, in TARGET"),
    "allow 42 -> *,5 1": (13, "a number is missing here, in TARGET"),
    "allow 9-3 -> 43 512": (7, "from the lower number to the higher one"),
    "allow 042 -> 43 512": (7, "does not begin with 0"),
    "allow 42 -> 43 00": (16, "does not begin with 0"),
    "allow 2 -> 43 512": (7, "a guest's CID is from 3 to 32767"),
    "allow 32768 -> 43 512": (7, "a guest's CID is from 3 to 32767"),
    "allow 42 -> 2 512": (13, "a guest's CID is from 3 to 2147483647"),
    "allow 42 -> 0-9 512": (13, "a guest's CID is from 3 to 2147483647"),
    "allow 42 -> 2147483648 512": (13, "a guest's CID is from 3 to 2147483647"),
    "allow 42 -> 43 65536": (16, "a vchan port is from 0 to 65535"),
    "allow 42 -> 43 9-99999999999999999999999": (18, "a vchan port is from 0 to 65535"),
    "allow 42 -> 43 512\r": (19, "a carriage return"),
    "allow 42 -> 43 512 # \r": (22, "a carriage return"),
    "allow 42 -> 43 51\0": (18, "a control character"),
    "allow 42 \u2192 43 512": (10, '"->" is missing'),
    "\ufeffallow 42 -> 43 512": (1, 'a rule begins with "allow"'),
}


@pytest.mark.parametrize("text", BAD)
def test_refused_with_its_place(tmp_path, text):
    column, why = BAD[text]
    status, said = checked(tmp_path, f"# first\n{text}\nallow 42 -> 43 1\n")
    assert status == 1
    assert said.startswith(f"2:{column}: ") and why in said
    assert said.count("\n") == 1


def test_every_bad_line_is_shown(tmp_path):
    status, said = checked(tmp_path, "allow\nallow 42 -> 43 512\nnonsense\n\nallow 1 -> 3 3")
    assert status == 1
    assert [line.split(": ")[0] for line in said.splitlines()] == ["1:6", "3:1", "5:7"]


def test_no_more_than_twenty_of_them(tmp_path):
    status, said = checked(tmp_path, "nonsense\n" * 100)
    assert status == 1
    assert said.count("\n") == 21 and said.endswith(" 80 more bad lines\n")


def test_thousands_of_rules(tmp_path):
    text = "".join(f"allow {n % 30000 + 3} -> 43 {n}\n" for n in range(20000))
    assert checked(tmp_path, text) == (0, " 20000 rules, no errors\n")


def test_a_file_that_is_too_large(tmp_path):
    status, said = checked(tmp_path, "#" * (1 << 20) + "\n")
    assert (status, said) == (1, " File too large\n")


def test_no_such_file(tmp_path):
    done = check(tmp_path / "none")
    assert done.returncode == 1 and done.stderr.endswith("none: No such file or directory\n")


def test_a_directory(tmp_path):
    done = check(tmp_path)
    assert done.returncode == 1 and done.stderr.endswith(": Is a directory\n")


@pytest.mark.parametrize("words, said", [
    (["--max-channels", "0"], '--max-channels: "0" is not a number from 1 to 1022'),
    (["--max-total", "1023"], '--max-total: "1023" is not a number from 1 to 1022'),
    (["--rate", "x"], '--rate: "x" is not a number'),
    (["--drain"], "option --drain wants a value"),
    (["--port", "0"], '--port: "0" is not a number'),
    (["--json=yes"], "option --json takes no value"),
    (["--nonsense"], "no such option: --nonsense"),
    (["relay.policy"], 'what is "relay.policy"? It takes options only'),
])
def test_usage(words, said):
    done = relay(*words)
    assert done.returncode == 2 and said in done.stderr and done.stdout == ""


def test_help_explains_every_option():
    done = relay("--help")
    assert done.returncode == 0 and done.stderr == ""
    for word in ("--policy", "--check", "--port", "--max-channels", "--max-total", "--rate",
                 "--drain", "--json", "SIGHUP", "SIGTERM", "Example"):
        assert word in done.stdout
