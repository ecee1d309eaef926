# SPDX-License-Identifier: LGPL-2.1-or-later
"""clang-tidy, cppcheck and gcc -fanalyzer find nothing, and could find something.

Every suppression has its reason and is needed still: one that no longer hides
anything fails here.  `make lint` is the same by hand; what was clean and has not
changed is not looked at again.
"""
import collections
import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = "build-lint"
TIDY_RULES = (".clang-tidy", "tests/.clang-tidy")
# What `make NAME` needs, and the package it is in.
TOOLS = {"tidy": ("clang-tidy", "clang-tidy"), "cppcheck": ("cppcheck", "cppcheck"),
         "analyze": ("gcc", "gcc")}
SOURCES = sorted(str(path.relative_to(ROOT))
                 for where in (".", "vchan", "bench", "demo", "examples", "tools", "tests/*")
                 for path in ROOT.glob(f"{where}/*.[ch]"))


def need(name):
    program, package = TOOLS[name]
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed: package {package}")


def run(*argv, cwd=ROOT, seconds=600):
    stray = ("CC", "CFLAGS", "CPPFLAGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "BUILD", "WERROR",
             "SANITIZE")
    env = {name: value for name, value in os.environ.items() if name not in stray}
    return subprocess.run([str(word) for word in argv], cwd=cwd, text=True, timeout=seconds,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, errors="replace",
                          stderr=subprocess.STDOUT, env={**env, "LC_ALL": "C"})


def make(*words, **how):
    return run("make", "-k", f"-j{os.cpu_count() or 1}", "--no-print-directory",
               f"BUILD={BUILD}", *words, **how)


@pytest.mark.deadline(900)
@pytest.mark.parametrize("tool", TOOLS)
def test_finds_nothing(tool):
    need(tool)
    done = make(tool)
    assert done.returncode == 0, done.stdout


# --- it could find something -------------------------------------------------

def copy_of(to, *names):
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, to / name)
    return to


@pytest.fixture
def tree(tmp_path):
    """A copy, to put bugs in."""
    return copy_of(tmp_path, *SOURCES, *TIDY_RULES, "Makefile", "VERSION",
                   "tests/lint/analyze", "tests/lint/cppcheck.supp")


# A file of the library, what is in it, the bug in its place, what finds it, what it says.
BUGS = (
    ("vsock.c", "O_RDONLY | O_CLOEXEC", "O_RDONLY", "tidy", "android-cloexec-open"),
    ("log.c", "	len = clip(", "	len += clip(", "tidy", "clang-analyzer-core"),
    ("log.c", "	(void)snprintf(r.text", "	snprintf(r.text", "tidy", "cert-err33-c"),
    ("log.c", "	default:\n		return NULL;\n	}\n", "	}\n	return NULL;\n", "tidy",
     "hicpp-multiway-paths-covered"),
    ("handle.c", "	free(h);", "	free(h);\n	free(h);", "analyze", "=analyzer-double-free"),
    ("handle.c", "	if (!h)\n		return NULL;\n", "", "analyze", "=analyzer-possible-null"),
    ("config.c", "sizeof *c);", "sizeof c);", "cppcheck", "pointerSize"),
    ("log.c", "	len = clip(", "	len += clip(", "cppcheck", "ninitvar"),
)


@pytest.mark.parametrize("file, old, new, tool, says", BUGS)
def test_finds_a_bug(tree, file, old, new, tool, says):
    need(tool)
    source = tree / "vchan" / file
    text = source.read_text()
    assert text.count(old) >= 1, "the bug has no place any more"
    source.write_text(text.replace(old, new, 1))
    target = tool if tool == "cppcheck" else f"{BUILD}/lint/vchan/{file[:-2]}.{tool}"
    done = make(target, cwd=tree)
    assert done.returncode != 0 and says in done.stdout


def test_analyzer_that_gives_up_is_noticed(tree):
    """As it does in most files with gcc's own limits, and here with the least patience."""
    need("analyze")
    script = tree / "tests/lint/analyze"
    script.write_text(re.sub(r"-factor=\d+", "-factor=0", script.read_text()))
    done = make(f"{BUILD}/lint/vchan/io.analyze", cwd=tree)
    assert done.returncode != 0 and "bailed out early" in done.stdout


def test_suppression_of_nothing_is_noticed(tree):
    """cppcheck itself looks after its own."""
    need("cppcheck")
    with (tree / "tests/lint/cppcheck.supp").open("a") as rules:
        rules.write("\n# Because.\nzerodivcond:vchan/ring.c\n")
    done = make("cppcheck", cwd=tree)
    assert done.returncode != 0
    assert re.search(r"zerodivcond.*\[unmatchedSuppression\]", done.stdout)


# --- each suppression has a reason, and is needed -----------------------------

def rules_of(file):
    """(the checks that it turns off, the comment that tells of each)."""
    text = (ROOT / file).read_text()
    checks = re.search(r"^Checks: >-\n((?:  .*\n)+)", text, re.M).group(1)
    off = [word[1:] for word in re.split(r",\s*", checks.strip()) if word.startswith("-")]
    return [name for name in off if name != "*"], text[:text.index("Checks:")]


@pytest.mark.parametrize("file", TIDY_RULES)
def test_check_that_is_off_has_its_reason(file):
    off, comment = rules_of(file)
    told = re.findall(r"^# ((?:[a-z][\w.*-]+, )*[a-z][\w.*-]+): \S", comment, re.M)
    reasons = {name for names in told for name in names.split(", ")}
    assert off and not set(off) - reasons


def without_notes(root):
    """All C files with their NOLINT taken out: {(file, line): checks that were}."""
    notes = collections.defaultdict(set)
    for name in SOURCES:
        lines = (root / name).read_text().splitlines(keepends=True)
        for number, line in enumerate(lines):
            for checks in re.findall(r"NOLINT\w*\(([\w.,-]+)\)", line):
                notes[name].update(checks.split(","))
            lines[number] = line.replace("NOLINT", "NO-LINT")
        (root / name).write_text("".join(lines))
    return notes


def found_in(cwd, files, checks, tmp_path):
    """What clang-tidy says with these checks, and our options: {(file, check)}."""
    options = (ROOT / ".clang-tidy").read_text().partition("WarningsAsErrors:")[2]
    rules = tmp_path / "rules"
    rules.write_text(f"Checks: '-*,{','.join(checks)}'\nWarningsAsErrors:{options}")
    flags = ("-std=gnu11", "-I.", "-Itests", "-D_GNU_SOURCE=", '-DVCHAN_VSOCK_VERSION=""')
    done = run("clang-tidy", "--quiet", f"--config-file={rules}", *files, "--", *flags, cwd=cwd)
    found = re.findall(r"^([^\s:]+):\d+:\d+: error: .*?\[([\w.,-]+)\]$", done.stdout,
                       re.M | re.S)
    return {(os.path.relpath(file, cwd), check)
            for file, names in found for check in names.split(",")}


def covers(pattern, check):
    return check.startswith(pattern[:-1]) if pattern.endswith("*") else check == pattern


# Where each would find something.  The analyzer's take their time, and so get little.
PLACES = (
    (".clang-tidy", "clang-analyzer-", ("vchan/vsock.c", "vchan/wake.c")),
    (".clang-tidy", "", ("vchan/*.c",)),
    ("tests/.clang-tidy", "", ("bench/*.c", "demo/*.c", "tests/*/*.c")),
)


@pytest.mark.deadline(300)
@pytest.mark.parametrize("file, prefix, where", PLACES)
def test_check_that_is_off_would_find_something(file, prefix, where, tmp_path):
    need("tidy")
    off = [name for name in rules_of(file)[0]
           if name.startswith(prefix) and (prefix or not name.startswith("clang-analyzer-"))]
    files = [str(path) for pattern in where for path in sorted(ROOT.glob(pattern))]
    found = found_in(ROOT, files, off, tmp_path)
    assert off and not [name for name in off
                        if not any(covers(name, check) for _, check in found)]


@pytest.mark.deadline(300)
def test_each_nolint_is_needed(tmp_path):
    need("tidy")
    notes = without_notes(copy_of(tmp_path, *SOURCES))
    found = found_in(tmp_path, sorted(notes), set().union(*notes.values()), tmp_path)
    assert not {(file, check) for file, checks in notes.items() for check in checks} - found


NOTE = re.compile(r"NOLINT(NEXTLINE|BEGIN)?\([\w.,-]+\): \w|NOLINTEND\([\w.,-]+\)")


def test_each_nolint_names_its_check_and_its_reason():
    lines = [(name, line.strip()) for name in SOURCES
             for line in (ROOT / name).read_text().splitlines() if "NOLINT" in line]
    assert not [line for line in lines if not NOTE.search(line[1])]


def test_each_rule_for_cppcheck_has_its_reason():
    blocks = (ROOT / "tests/lint/cppcheck.supp").read_text().strip().split("\n\n")[1:]
    for block in blocks:
        *reason, rule = block.splitlines()
        assert reason and all(line.startswith("# ") for line in reason), rule
        assert not rule.startswith("#")


def test_no_other_suppression():
    """None is needed; whoever adds one makes it a test that it is."""
    other = re.compile(r"cppcheck-suppress|-Wanalyzer|__clang_analyzer__|__cppcheck__")
    assert not [name for name in SOURCES if other.search((ROOT / name).read_text())]
