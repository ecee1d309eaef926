# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frame of the command: help, version, and what it refuses."""
import pytest

COMMANDS = ("listen", "connect", "proxy", "relay", "addr", "list", "doctor", "bench")


def test_help_names_every_command(tool):
    told = tool("--help", text=True)
    assert (told.returncode, told.stderr) == (0, "")
    for command in COMMANDS:
        assert f"\n  {command} " in told.stdout
