# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command, asked for its --help.  Nothing here opens a vsock."""
import subprocess

import pytest

import tooling


@pytest.fixture(scope="session")
def tool():
    """tool("relay", "--help"): a CompletedProcess with text."""
    tooling.make(tooling.TOOL)

    def run(*arguments):
        return subprocess.run([str(tooling.TOOL), *arguments], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=tooling.LATE)
    return run
