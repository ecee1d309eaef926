# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much of vchan/ was executed: a table, and whether it is enough.

    coverage_report.py BUILD

gcov's own JSON says for each line of which function it is; that is all it takes.
(gcovr, which could be installed, knows lines per file only.)

The marks: LEAST per cent of all lines, and of each function's, but for the functions
in tests/coverage-reasons: "file:function: reason" each, none of them above the mark.
Branches are told, and have no mark.
"""
import collections
import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).resolve().parent
ROOT = TESTS.parent
LEAST = 95.0


@dataclasses.dataclass
class Lines:
    """Of a file, a function or everything: what there is, and what was executed."""
    counts: dict = dataclasses.field(default_factory=dict)
    branches: dict = dataclasses.field(default_factory=dict)

    def add(self, line, count, branches):
        """Once more the same line: from another object, for what is inline."""
        self.counts[line] = self.counts.get(line, 0) + count
        pairs = itertools.zip_longest(self.branches.get(line, []), branches, fillvalue=0)
        self.branches[line] = [one + other for one, other in pairs]

    def missed(self):
        return sorted(line for line, count in self.counts.items() if not count)

    def share(self):
        """(lines executed, lines) and (branches taken, branches)."""
        taken = [count for counts in self.branches.values() for count in counts]
        return ((sum(map(bool, self.counts.values())), len(self.counts)),
                (sum(map(bool, taken)), len(taken)))

    def percent(self):
        return percent_of(self.share()[0])


def percent_of(pair):
    return 100.0 * pair[0] / pair[1] if pair[1] else 100.0


@dataclasses.dataclass
class Coverage:
    """Of all objects: by file, and by (file, function)."""
    files: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(Lines))
    functions: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(Lines))

    def add(self, report):
        """What gcov says of one object."""
        for file in report["files"]:
            path = pathlib.PurePath(file["file"])
            if path.parent.name != "vchan":
                continue
            for line in file["lines"]:
                what = (line["line_number"], line["count"],
                        [branch["count"] for branch in line["branches"]])
                self.files[path.name].add(*what)
                if "function_name" in line:
                    self.functions[path.name, line["function_name"]].add(*what)

    def total(self):
        shares = [lines.share() for lines in self.files.values()]
        return tuple(tuple(map(sum, zip(*(share[kind] for share in shares))))
                     for kind in (0, 1)) if shares else ((0, 0), (0, 0))

    def below(self):
        return {key: lines for key, lines in sorted(self.functions.items())
                if lines.percent() < LEAST}


# So begins the reason of a function that depends on how threads meet.
SOMETIMES = "sometimes; "


def read_reasons(text):
    """{(file, function): reason}."""
    reasons = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            file, function, reason = (part.strip() for part in line.split(":", 2))
            if not reason or (file, function) in reasons:
                raise ValueError(f"coverage-reasons: {line}")
            reasons[file, function] = reason
    return reasons


def complaints(coverage, reasons):
    """Why it is not enough."""
    lines, _ = coverage.total()
    if percent_of(lines) < LEAST:
        yield f"{percent_of(lines):.1f} % of all lines, and not {LEAST} %"
    below = coverage.below()
    for file, function in below.keys() - reasons.keys():
        yield (f"{file}:{function}: {below[file, function].percent():.1f} % of its lines, and "
               "tests/coverage-reasons has no reason")
    for file, function in reasons.keys() - below.keys():
        if reasons[file, function].startswith(SOMETIMES):
            continue
        known = (file, function) in coverage.functions
        yield (f"{file}:{function}: tests/coverage-reasons has a reason, and "
               f"{'it needs none' if known else 'there is no such function'}")


def row(name, lines, branches):
    def cell(pair):
        return f"{pair[0]:>5} of {pair[1]:>5} {percent_of(pair):6.1f} %"
    return f"{name:<44}{cell(lines)}{cell(branches)}"


def ranges(numbers):
    """1, 2, 3, 7 as 1-3, 7."""
    runs = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in runs)


HEAD = f"{'':<44}{'lines executed':>23}{'branches taken':>23}"


def tables(coverage, reasons):
    yield HEAD
    for file, lines in sorted(coverage.files.items()):
        yield row(f"vchan/{file}", *lines.share())
    yield row("all", *coverage.total())
    below = coverage.below()
    if below:
        yield f"\nFunctions below {LEAST} % of their lines, and why:"
    for (file, function), lines in below.items():
        yield row(f"{file}:{function}", *lines.share())
        yield f"    not executed: {ranges(lines.missed())}"
        yield f"    {reasons.get((file, function), 'NO REASON')}"


def all_functions(coverage):
    yield HEAD
    for (file, function), lines in sorted(coverage.functions.items()):
        yield row(f"{file}:{function}", *lines.share())


def gather(build):
    coverage = Coverage()
    for notes in sorted(pathlib.Path(build, "vchan").glob("*.gcno")):
        done = subprocess.run(["gcov", "--json-format", "--stdout", "--branch-probabilities",
                               notes], cwd=ROOT, stdin=subprocess.DEVNULL, check=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in done.stdout.splitlines():
            coverage.add(json.loads(line))
    return coverage


def main(build):
    coverage = gather((ROOT / build).resolve())
    if not coverage.files:
        print(f"coverage: nothing in {build}: run tests/coverage --build-only", file=sys.stderr)
        return 1
    reasons = read_reasons((TESTS / "coverage-reasons").read_text())
    print("\n".join(tables(coverage, reasons)))
    everything = pathlib.Path(ROOT, build, "coverage.txt")
    everything.write_text("\n".join(all_functions(coverage)) + "\n")
    print(f"\nEvery function: {everything}")
    bad = sorted(complaints(coverage, reasons))
    for complaint in bad:
        print(f"coverage: {complaint}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
