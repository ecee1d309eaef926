# SPDX-License-Identifier: LGPL-2.1-or-later
"""README's examples of the command, as printed."""
import os
import re
import subprocess

import pytest

import tooling

README = (tooling.ROOT / "README.md").read_text()
EXAMPLES = [re.sub(r"^    ", "", block, flags=re.M) for block in
            re.findall(r"<!-- run -->\n\n((?:    .*\n)+)", README)]


@pytest.fixture
def shell(tool_built, surroundings, tmp_path):
    """Runs a script in an empty directory, with the command on its PATH: what it says."""
    def shell(script):
        variables = {name: value for name, value in surroundings().items()
                     if not name.startswith("VCHAN_")}
        variables["PATH"] = f"{tool_built.parent}:{variables['PATH']}"
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=variables,
                              timeout=tooling.LATE, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True)
        assert done.returncode == 0
        return done.stdout
    return shell


def test_there_are_examples():
    assert len(EXAMPLES) == 2


def test_question_and_answer(shell):
    assert shell(EXAMPLES[0]) == "Hello guest\n"


def test_directory_is_copied(shell, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "data").write_bytes(os.urandom(300_000))
    shell(EXAMPLES[1])
    copy = tmp_path / "copy" / "src" / "data"
    assert copy.read_bytes() == (tmp_path / "src" / "data").read_bytes()


def test_policy_of_the_example_is_right(shell):
    lines = re.search(r"^    (echo 'allow.*)\n    (vchan-vsock relay --check .*)$", README, re.M)
    shell("\n".join(lines.groups()))
