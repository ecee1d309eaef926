# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report of `make coverage`: what it adds up, and when it is not satisfied."""
import pathlib
import re
import shutil
import subprocess

import pytest

import coverage_report as report


def line(number, count, function, *branches):
    return {"line_number": number, "count": count, "function_name": function,
            "branches": [{"count": taken} for taken in branches]}


def coverage_of(*objects):
    """Of objects, each {file: its lines}."""
    coverage = report.Coverage()
    for files in objects:
        coverage.add({"files": [{"file": name, "lines": lines}
                                for name, lines in files.items()]})
    return coverage


FULL = [line(number, 1, "all_of_it") for number in range(1, 101)]
HALF = [line(200, 3, "half"), line(201, 0, "half", 0, 2)]


def complaints(coverage, reasons=()):
    return list(report.complaints(coverage, dict(reasons)))


def test_lines_and_branches_are_counted():
    coverage = coverage_of({"vchan/a.c": FULL + HALF})
    assert coverage.files["a.c"].share() == ((101, 102), (1, 2))
    assert coverage.functions["a.c", "half"].share() == ((1, 2), (1, 2))
    assert coverage.total() == ((101, 102), (1, 2))


def test_what_is_inline_is_counted_once_and_is_executed_in_any_object():
    coverage = coverage_of({"vchan/a.h": [line(1, 0, "f", 0, 1), line(2, 0, "f")]},
                           {"vchan/a.h": [line(1, 5, "f", 2, 0), line(2, 0, "f")]})
    assert coverage.files["a.h"].share() == ((1, 2), (2, 2))
    assert coverage.files["a.h"].missed() == [2]


def test_other_directories_do_not_count():
    assert not coverage_of({"tests/unit/a.c": FULL, "/usr/include/vchan.h": FULL}).files


def test_all_above_the_mark_is_enough():
    assert not complaints(coverage_of({"vchan/a.c": FULL}))


def test_function_below_needs_a_reason():
    coverage = coverage_of({"vchan/a.c": FULL + HALF})
    assert [text for text in complaints(coverage) if text.startswith("a.c:half: 50.0 %")]
    assert not complaints(coverage, {("a.c", "half"): "because"})


def test_function_of_the_same_name_in_another_file_needs_its_own():
    coverage = coverage_of({"vchan/a.c": FULL + HALF, "vchan/b.c": HALF})
    assert len(complaints(coverage, {("a.c", "half"): "because"})) == 1


def test_reason_for_a_function_above_is_too_many():
    coverage = coverage_of({"vchan/a.c": FULL})
    assert "needs none" in complaints(coverage, {("a.c", "all_of_it"): "because"})[0]


def test_reason_for_no_function_is_too_many():
    coverage = coverage_of({"vchan/a.c": FULL})
    assert "no such function" in complaints(coverage, {("a.c", "gone"): "because"})[0]


def test_all_lines_together_have_a_mark():
    coverage = coverage_of({"vchan/a.c": [line(1, 1, "f"), line(2, 0, "g")]})
    reasons = {("a.c", "g"): "because"}
    assert complaints(coverage, reasons) == ["50.0 % of all lines, and not 95.0 %"]


def test_reason_that_holds_sometimes_may_be_above_the_mark():
    coverage = coverage_of({"vchan/a.c": FULL})
    assert not complaints(coverage, {("a.c", "all_of_it"): "sometimes; when two threads meet"})


def test_reasons_are_read():
    text = "# a comment\n\na.c:f: never: ever\nb.c:f: out of memory\n"
    assert report.read_reasons(text) == {("a.c", "f"): "never: ever",
                                         ("b.c", "f"): "out of memory"}


@pytest.mark.parametrize("text", ["a.c:f:\n", "a.c:f\n", "a.c:f: x\na.c:f: y\n"])
def test_reason_that_is_none_is_refused(text):
    with pytest.raises(ValueError):
        report.read_reasons(text)


def test_our_reasons_can_be_read_and_name_what_is_there():
    reasons = report.read_reasons((report.TESTS / "coverage-reasons").read_text())
    for file, function in reasons:
        source = (report.ROOT / "vchan" / file).read_text()
        assert re.search(rf"\b{function}\(", source), f"{file}:{function}"


def test_table_names_what_was_not_executed():
    coverage = coverage_of({"vchan/a.c": FULL + HALF})
    text = "\n".join(report.tables(coverage, {("a.c", "half"): "because"}))
    assert "not executed: 201" in text and "because" in text
    assert re.search(r"^all +101 of +102 +99.0 % +1 of +2 +50.0 %$", text, re.M)


def test_ranges():
    assert report.ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"


def test_gcov_still_says_what_is_read(tmp_path):
    """A small program, compiled as tests/coverage does, and run."""
    if not shutil.which("gcov"):
        pytest.skip("gcov is not installed: package gcc")
    (tmp_path / "vchan").mkdir()
    source = "static int twice(int n)\n{\n\tif (n > 5)\n\t\treturn 0;\n\treturn 2 * n;\n}\n" \
             "int main(int n, char **a)\n{\n\t(void)a;\n\treturn twice(n) != 2;\n}\n"
    (tmp_path / "vchan" / "p.c").write_text(source)
    flags = ("-O0", "--coverage", "-fprofile-update=atomic")
    subprocess.run(["gcc", *flags, "-c", "-o", "vchan/p.o", "vchan/p.c"], cwd=tmp_path, check=True)
    subprocess.run(["gcc", *flags, "-o", "p", "vchan/p.o"], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "p"], check=True)
    coverage = report.gather(pathlib.Path(tmp_path))
    assert coverage.functions["p.c", "twice"].missed() == [4]
    assert coverage.functions["p.c", "twice"].share()[1] == (1, 2)
    assert sorted(coverage.functions["p.c", "main"].counts) == [7, 10]
