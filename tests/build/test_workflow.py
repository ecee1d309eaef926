# SPDX-License-Identifier: LGPL-2.1-or-later
"""The workflow of the public home: it parses, and what it runs is in the tree."""
import os
import re
import shlex

import pytest
import yaml

# Of the container's system.
SYSTEM = {"apt-get", "ldconfig"}


@pytest.fixture(scope="module")
def jobs(root):
    return yaml.safe_load((root / ".github/workflows/ci.yml").read_text())["jobs"]


def variants(job, text):
    """The text for each value of the matrix."""
    texts = [text]
    for name, values in job.get("strategy", {}).get("matrix", {}).items():
        place = re.compile(r"\$\{\{ *matrix\." + name + r" *\}\}")
        texts = [place.sub(value, text) for text in texts for value in values]
    return texts


def commands(job):
    """Each line of each script, in words."""
    for step in job["steps"]:
        for text in variants(job, step.get("run", "")):
            yield from filter(None, map(shlex.split, text.splitlines()))


@pytest.fixture
def is_there(root, run, tmp_path):
    """Could it be run?  What is in the tree is not, but for make, which only looks."""
    def is_there(words):
        if words[0] == "make":
            return run("make", "-n", f"BUILD={tmp_path}", *words[1:], check=False).returncode == 0
        if "/" in words[0]:
            path = root / words[0]
            return path.is_file() and os.access(path, os.X_OK)
        return words[0] in SYSTEM
    return is_there


def test_every_command_is_there(jobs, is_there):
    found = [words for job in jobs.values() for words in commands(job)]
    assert ["./run-tests"] in found and ["make", "CC=clang"] in found
    assert not [words for words in found if not is_there(words)]


@pytest.mark.parametrize("words", [("make", "no-such-target"), ("make", "-C", "no-such-place"),
                                   ("./run-nothing",), ("tests/contract",), ("git", "gc")])
def test_command_that_is_not_there_is_noticed(words, is_there):
    assert not is_there(words)


def test_setup_knows_what_it_is_asked_for(jobs, root):
    known = set(re.findall(r"^need_for_(\w+)\(\)", (root / "tests/setup").read_text(), re.M))
    asked = [words[1:] for job in jobs.values() for words in commands(job)
             if words[0] == "tests/setup"]
    assert asked and all(set(words) <= known for words in asked)


def test_every_job_has_a_limit_and_runs_in_debian(jobs):
    for name, job in jobs.items():
        container = job["container"]
        assert job["timeout-minutes"] <= 360, name
        assert (container if isinstance(container, str) else container["image"]) == "debian:12"


def test_only_the_runners_own_actions_are_used(jobs):
    """Whoever can change another's action can change what is built."""
    used = {step["uses"].partition("@")[0] for job in jobs.values() for step in job["steps"]
            if "uses" in step}
    assert used <= {"actions/checkout", "actions/upload-artifact"}
