# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files of the project themselves: licence, shell, version, paths."""
import os
import pathlib
import re
import runpy
import shutil

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LICENSE_LINE = "SPDX-License-Identifier: LGPL-2.1-or-later"
# The licence's own text, and what tools read that know no comments.
NO_COMMENTS = {"LICENSE", "VERSION", "debian/changelog", "debian/source/format"}
# Where the version must be said again, and the newest is found so.
COPIES = {"CHANGELOG.md": r"^## (\d\S*)$", "debian/changelog": r"^vchan-vsock \((.*?)\)",
          "rpm/vchan-vsock.spec": r"^Version: +(.*)$"}
NOT_OURS = {".git", "__pycache__", ".pytest_cache"}


def project_files():
    """Every file that belongs to the project, committed or about to be."""
    for top, directories, names in os.walk(ROOT):
        here = pathlib.Path(top)
        directories[:] = [name for name in directories if name not in NOT_OURS
                          and not (here == ROOT and re.match(r"build(-|$)", name))]
        for name in names:
            # A name that looks as if somebody is just writing the file; pictures.
            if name not in NOT_OURS and not re.search(r"(~|\.sw.|\.tmp|\.pyc|\.png)$", name):
                yield here / name


FILES = {str(path.relative_to(ROOT)): path for path in sorted(project_files())}


def text_of(name):
    return FILES[name].read_bytes().decode("utf-8")


def is_shell(name):
    return name.endswith(".sh") or re.match(r"#!.*\b(ba|da)?sh\b", first_line(name))


def first_line(name):
    with FILES[name].open("rb") as file:
        return file.readline().decode("utf-8", "replace")


SHELL_SCRIPTS = [name for name in FILES if is_shell(name)]


def test_the_scripts_that_people_start_are_found():
    assert {"run-tests", "run-demo", ".ci/run"} <= set(SHELL_SCRIPTS)


@pytest.mark.parametrize("name", sorted(set(FILES) - NO_COMMENTS))
def test_file_names_its_licence(name):
    head = "".join(text_of(name).splitlines(keepends=True)[:3])
    assert LICENSE_LINE in head


def test_licence_is_the_lgpl_2_1():
    text = text_of("LICENSE")
    assert "GNU LESSER GENERAL PUBLIC LICENSE" in text and "Version 2.1" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_shell_script_parses(name, run):
    shell = "bash" if "bash" in first_line(name) else "sh"
    run(shell, "-n", FILES[name])


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_shell_script_passes_shellcheck(name, run):
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck here")
    run("shellcheck", "-x", FILES[name])


@pytest.mark.parametrize("name", [n for n in FILES if first_line(n).startswith("#!")])
def test_file_with_an_interpreter_line_is_executable(name):
    assert os.access(FILES[name], os.X_OK)


def test_version_is_a_number_and_stands_in_one_file_and_its_copies():
    version = text_of("VERSION").strip()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    literal = re.compile(rf"(?<![\d.]){re.escape(version)}(?![\d.])")
    assert {name for name in FILES if literal.search(text_of(name))} == {"VERSION", *COPIES}


@pytest.mark.parametrize("name", COPIES)
def test_copy_of_the_version_is_right(name):
    newest = re.search(COPIES[name], text_of(name), re.M)
    assert newest.group(1) == text_of("VERSION").strip()


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    places = {str(ROOT), str(pathlib.Path.home()) + "/"} - {"/", "/root/"}
    places |= {"/ho" "me/", "/wo" "rk/"}
    found = [(name, place) for name in FILES for place in places if place in text_of(name)]
    assert not found


def test_no_source_has_trailing_blanks_or_lacks_its_last_newline():
    def untidy(text):
        return re.search(r"[ \t]+$", text, re.M) or (text and not text.endswith("\n"))
    assert not [name for name in FILES if name != "LICENSE" and untidy(text_of(name))]


def test_readme_tells_of_every_variable_and_of_no_other():
    in_code = set(re.findall(r'"(VCHAN_[A-Z_]+)"', text_of("vchan/config.c")))
    in_table = set(re.findall(r"^\| `(VCHAN_\w+)`", text_of("README.md"), re.M))
    assert in_code == in_table != set()


def test_architecture_names_places_that_are_there():
    page = text_of("docs/architecture.md")
    named = re.findall(r"`((?:vchan|tools|tests|examples|demo|bench)/[\w./]*)`", page)
    linked = [f"docs/{name}" for name in re.findall(r"\]\(([^)#]+)\)", page)]
    drawn = [f"vchan/{word}" for line in re.findall(r'class="file"[^>]*>([^<]+)<',
                                                    text_of("docs/architecture.svg"))
             for word in line.split() if word.endswith(".c")]
    assert len(named) > 20 and len(linked) > 4 and len(drawn) > 6
    assert not [name for name in named + linked + drawn if not (ROOT / name).exists()]


def test_architecture_leaves_out_no_file_of_the_library():
    """Or says nothing of it on purpose: what only helps others."""
    page = text_of("docs/architecture.md") + text_of("docs/architecture.svg")
    helpers = {"driver.c", "handle.c", "log.c", "relay.c", "setup.c"}
    sources = {path.name for path in (ROOT / "vchan").glob("*.c")}
    assert {name for name in sources if name not in page} <= helpers <= sources


def test_each_mutant_changes_one_place_of_the_library():
    """tests/mutants: a line of the table that fits no more guards nothing."""
    mutants = runpy.run_path(ROOT / "tests" / "mutants" / "table.py")["MUTANTS"]
    for promise, file, old, new, _test in mutants:
        assert text_of(f"vchan/{file}").count(old) == 1, promise
        assert old != new, promise
