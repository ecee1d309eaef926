# SPDX-License-Identifier: LGPL-2.1-or-later
"""The soak test (soak/run), for a short while; VCHAN_TEST_LONG=1: ten minutes."""
import io
import json

import labkit
import pytest

import soaking
import vchan

SECONDS = 600 if soaking.LONG else max(10, vchan.scaled(20))


@pytest.mark.deadline(SECONDS + soaking.STUCK + 180)
def test_soak():
    """1.3: 50 channels, mixed traffic, deaths and rebirths: nothing is lost, nothing left."""
    reports, wrong = soaking.soak(SECONDS)
    print(soaking.summary(reports))
    assert not wrong
    assert reports[0]["connections"] > 0


class Program:
    """What a guest says it ran: a line, and its end or the guest's."""

    def __init__(self, is_lost):
        self.is_lost = is_lost
        self.stdout = self
        self.lines = io.BytesIO(b"" if is_lost else json.dumps({"failures": 0}).encode() + b"\n")

    def readline(self, _):
        if self.is_lost:
            raise labkit.MachineGone("it was")
        return self.lines.readline()

    def wait(self, _):
        if self.is_lost:
            raise labkit.MachineGone("it was")
        return 0


class Guest:
    """It is lost as often as it is told to be."""

    def __init__(self, losses, starts=99):
        self.losses, self.starts = losses, starts
        self.began = 0

    def popen(self, argv, env):
        self.began += 1
        return Program(self.began <= self.losses)

    def report(self):
        return "its console"

    def start(self):
        if not self.starts:
            raise labkit.BootError("no more of them")
        self.starts -= 1


def test_clients_go_on_in_another_guest():
    said = []
    clients = soaking.Clients(Guest(losses=3), 600, said.append, channels=1)
    reports, wrong = clients.finish(vchan.SOON)
    assert (reports, wrong, clients.lost) == ([{"failures": 0}], [], 3)
    assert sum("its console" in line for line in said) == 3


def test_clients_that_find_no_other_guest_are_a_failure():
    clients = soaking.Clients(Guest(losses=3, starts=1), 600, lambda _: None, channels=1)
    reports, wrong = clients.finish(vchan.SOON)
    assert reports == []
    assert len(wrong) == 1 and "no more of them" in wrong[0]
