# SPDX-License-Identifier: LGPL-2.1-or-later
class LabError(Exception):
    """Something that the lab needs is missing or failed; says what to do."""


class BootError(LabError):
    """A machine did not come up."""

    def __init__(self, message, console=""):
        super().__init__(message)
        self.console = console


class MachineGone(LabError):
    """The machine that was to answer is dead."""
