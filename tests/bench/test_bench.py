# SPDX-License-Identifier: LGPL-2.1-or-later
"""The benchmark measures, whatever it finds: each case over each way, in miniature."""
import sys

import pytest

import vchan

sys.path.insert(0, str(vchan.ROOT / "bench"))
import measure  # noqa: E402
import report   # noqa: E402

pytestmark = pytest.mark.deadline(120)


@pytest.fixture
def pair():
    if not measure.PROGRAM.exists():
        pytest.fail(f"{measure.PROGRAM} is not built: make bench-program")
    with measure.Pair(measure.Loopback()) as both:
        yield both


@pytest.mark.parametrize("way", measure.WAYS)
def test_each_case_is_measured(pair, way):
    cpu = []
    for case in measure.cases([False, True], ""):
        answer = pair.measure(case, way, 3)
        assert (answer.error, answer.error_there) == (0, 0), case
        assert answer.ns > 0, case
        cpu.append((answer.cpu, answer.cpu_there))
    # An emulated machine may not see the time that so few messages take.
    assert all(map(sum, zip(*cpu)))


@pytest.mark.parametrize("way", measure.WAYS)
def test_many_channels_are_measured(pair, way):
    # So long that on a busy machine, too, each of them has its turn.
    answer = pair.measure(measure.Case("busy", 64), way, 0, 3, 1000)
    assert 0 < answer.least <= answer.bytes / 3
    answer = pair.measure(measure.Case("idle"), way, 10, milliseconds=100)
    assert answer.fds == 10 * (1 if way in measure.SOCKETS else 4 + (measure.SIMPLE in way))


@pytest.mark.parametrize("way", measure.WAYS)
@pytest.mark.parametrize("what", ["lone", "burst"])
def test_lateness_is_measured(pair, what, way):
    answer = pair.measure(measure.Case(what, 16), way, 5)
    assert 0 < answer.median <= answer.most


def test_parts_of_a_set_up_are_measured():
    found = measure.parts()
    assert list(found) == measure.PARTS and all(found.values())
    assert len(report.parts_table(found).splitlines()) == 2 + len(found)


def test_tables_tell_what_was_measured(pair):
    """From measurement to Markdown: a line for each case, with a ratio."""
    rows = [{**case.__dict__, "ways": measure.run_case(pair, case, 2, 1_000_000)}
            for case in measure.cases([False], "^(round trip 64|set-up 0)$")]
    lines = report.speed_table(rows).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["round trip 64 B", "set-up"]
    assert len(report.flavours_table(rows).splitlines()) == 2 + len(rows)
    assert report.deaths(rows) == "No connection died."
    assert all(report.ratio(row, "framed") > 0 for row in rows)
