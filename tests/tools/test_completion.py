# SPDX-License-Identifier: LGPL-2.1-or-later
"""tools/completion.bash, asked as bash asks it."""
import re
import subprocess

import pytest

import tooling

SCRIPT = tooling.ROOT / "tools" / "completion.bash"
ASK = """
. "$1" || exit 1
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_vchan_vsock
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(tool_built, surroundings):
    """complete("listen", "--ke"): what bash would offer for the last word."""
    def ask(*words, command=tool_built, cwd=None):
        told = subprocess.run(["bash", "-c", ASK, "bash", SCRIPT, command, *words], cwd=cwd,
                              env=surroundings(), capture_output=True, text=True,
                              timeout=tooling.LATE)
        assert (told.returncode, told.stderr) == (0, "")
        return told.stdout.split()
    return ask


def test_subcommands_are_offered(complete):
    assert complete("") == [*tooling.COMMANDS, "--help", "--version"]
    assert complete("li") == ["listen", "list"]
    assert complete("--v") == ["--version"]
    assert complete("no") == []


@pytest.mark.parametrize("command", tooling.COMMANDS)
def test_options_are_those_of_the_help(complete, tool, command):
    lines = re.findall(r"^ {1,8}(-.*)$", tool(command, "--help", text=True).stdout, re.M)
    options = [option for line in lines
               for option in re.findall(r"--[a-z0-9-]+", line.split("  ")[0])]
    assert complete(command, "--") == options


def test_options_are_completed(complete):
    assert complete("listen", "--ke") == ["--keep"]
    assert complete("connect", "--ke") == []
    assert complete("connect", "--keep", "--send-only", "--ti") == ["--timeout"]
    assert complete("addr", "--j") == ["--json"]


def test_every_option_that_is_offered_is_one(complete, tool):
    """What the parser does not know it refuses by this name."""
    for command in ("listen", "connect", "addr"):
        for option in complete(command, "--"):
            assert "no such option" not in tool(command, option, text=True).stderr


def test_a_value_is_no_option(complete):
    assert complete("listen", "--linger", "") == []
    assert "date" in complete("listen", "--exec", "dat")


def test_files_where_an_option_takes_one(complete, tmp_path):
    """With a command whose help says FILE and DIR."""
    (tmp_path / "policy").touch()
    (tmp_path / "places").mkdir()
    fake = tmp_path / "tool"
    fake.write_text("#!/bin/sh\nprintf '  -p, --policy FILE  rules\\n      --at DIR  there\\n'\n")
    fake.chmod(0o755)
    assert sorted(complete("x", "--policy", "p", command="./tool", cwd=tmp_path)) == [
        "places", "policy"]
    assert complete("x", "--at", "p", command="./tool", cwd=tmp_path) == ["places"]
    assert complete("x", "--", command="./tool", cwd=tmp_path) == ["--policy", "--at"]


def test_host_is_a_domain(complete):
    assert complete("connect", "") == ["host"]
    assert complete("listen", "--keep", "h") == ["host"]


def test_a_command_that_is_not_there_completes_to_nothing(complete, tmp_path):
    assert complete("li", command=tmp_path / "nowhere") == []
    assert complete("listen", "--", command=tmp_path / "nowhere") == []


def test_an_unknown_subcommand_has_no_options(complete):
    assert complete("nosuch", "--") == []
