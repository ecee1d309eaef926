# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs that die at random points of checked traffic (programs/mortal.c).

By SIGKILL, _exit, exit, exec, SIGSEGV and abort; as server or as client; as who reads, who
writes, or both; over both wires; while they connect, too.  The survivor is told
soon, has lost nothing that it was promised, holds no more than before, and serves or
connects again at once: mortal.c checks each.

VCHAN_TEST_SCALE=10 makes them more than a thousand deaths.
"""
import pytest

import mortal
import vchan

WAYS = {"SIGKILL", "_exit", "exit", "exec", "SIGSEGV", "abort"}
# Shares of each test in the deaths.  Of fewer there is nothing to compare.
SURVIVED, BOTH = max(45, vchan.scaled(45)), max(40, vchan.scaled(40))
# The longest for a death in an emulated machine, with what is between.
PATIENCE = 60 + SURVIVED * 3


def check(report, deaths):
    counted = {way: count for way, count in report["deaths"].items() if count}
    assert sum(counted.values()) >= deaths
    assert set(counted) <= WAYS
    if deaths >= 200:  # fewer may leave one out by chance
        assert set(counted) == WAYS
    # Of the rest one of the two had not yet said who it was.
    assert report["compared"] >= deaths // 10
    print(report)


@pytest.mark.deadline(PATIENCE + 30)
@pytest.mark.parametrize("survivors", ["server", "client"])
def test_survivor_of_many_deaths(survivors):
    """1.3: noticed within a second, nothing lost, the address free, nothing leaked."""
    report = mortal.run(PATIENCE, survivors=survivors, deaths=SURVIVED,
                        seconds=PATIENCE - 40, **mortal.pretended())
    check(report, SURVIVED)
    assert not mortal.leaks(report)
    assert report["survivors"]


@pytest.mark.deadline(PATIENCE + 30)
def test_both_ends_die():
    """1.3: the same for whoever lives a little longer; the address is free at once."""
    report = mortal.run(PATIENCE, deaths=BOTH, seconds=PATIENCE - 40, life_ms=1000,
                        **mortal.pretended())
    check(report, BOTH)
