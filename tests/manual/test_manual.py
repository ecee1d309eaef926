# SPDX-License-Identifier: LGPL-2.1-or-later
"""The manual says what the code does: calls, variables, options; and it is sound mdoc.

That each page is installed is proven in tests/build/test_install.py.
"""
import re
import shutil
import subprocess

import pytest

import tooling

ROOT = tooling.ROOT
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "man").glob("*.[1-8]"))}
HEADER = (ROOT / "libvchan.h").read_text()
CONFIG = (ROOT / "vchan" / "config.c").read_text()
TOOLS = {path.name: path.read_text() for path in sorted((ROOT / "tools").glob("*.c"))}

# Where the options of each command are: a page, and the subsections if it has several.
COMMANDS = {
    "listen": ("vchan-vsock.1", {"listen", "Options of listen and connect"}),
    "connect": ("vchan-vsock.1", {"connect", "Options of listen and connect"}),
    "proxy": ("vchan-vsock-proxy.1", None),
    "relay": ("vchan-vsock-relay.8", None),
    "addr": ("vchan-vsock.1", {"addr"}),
    "list": ("vchan-vsock.1", {"list"}),
    "doctor": ("vchan-vsock-doctor.1", None),
    "bench": ("vchan-vsock-bench.1", None),
}


def parts(page):
    """(section, subsection, line) of each line of mdoc."""
    section = subsection = ""
    for line in PAGES[page].splitlines():
        if line.startswith(".Sh "):
            section, subsection = line[4:], ""
        elif line.startswith(".Ss "):
            subsection = line[4:]
        else:
            yield section, subsection, line


def section(page, wanted):
    return [line for name, _, line in parts(page) if name == wanted]


def need_mandoc():
    if not shutil.which("mandoc"):
        pytest.skip("no mandoc here")


def lint(name):
    """What mandoc says of a page, but for what depends on the machine: whether another
    page is installed here, and in its database."""
    done = subprocess.run(["mandoc", "-Tlint", "-W", "style", ROOT / "man" / name],
                          capture_output=True, text=True, timeout=tooling.LATE)
    return [line for line in done.stdout.splitlines()
            if "referenced manual not found" not in line]


# --- mdoc ----------------------------------------------------------------------

@pytest.mark.parametrize("page", PAGES)
def test_mandoc_has_nothing_to_say(page):
    need_mandoc()
    assert lint(page) == []


@pytest.mark.parametrize("page", PAGES)
def test_page_is_named_as_its_file(page):
    name, _, number = page.rpartition(".")
    assert re.search(rf"^\.Dt {re.escape(name.upper())} {number}$", PAGES[page], re.M)
    assert section(page, "NAME")[0].split()[:2] == [".Nm", name]


@pytest.mark.parametrize("page", PAGES)
def test_cross_references_to_our_pages_lead_somewhere(page):
    calls = {f"{name}.3" for name in prototypes()}
    references = re.findall(r"^\.(?:It )?Xr (\S+) (\d)", PAGES[page], re.M)
    ours = {f"{name}.{number}" for name, number in references if "vchan" in name}
    assert references and ours <= set(PAGES) | calls


@pytest.mark.parametrize("page", PAGES)
def test_sections_that_a_page_names_are_there(page):
    titles = set(re.findall(r"^\.S[hs] (.*)$", PAGES[page], re.M))
    named = re.findall(r"^\.(?:It )?Sx (.*?)(?: [.,;])?$", PAGES[page], re.M)
    assert set(named) <= titles


# --- calls ---------------------------------------------------------------------

def spaced(text):
    """One blank where there are any, and none around what joins words anyway."""
    return re.sub(r" ?([(),*]) ?", r"\1", " ".join(text.split()))


def prototypes():
    """name: the declaration, of libvchan.h."""
    code = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)
    return {name: spaced(whole) for whole, name in re.findall(
        r"^(\w[\w \*]*?(libvchan_\w+)\([^)]*\));", code, re.M)}


def documented():
    """The same of the page."""
    calls = re.findall(r"^\.Ft (.*)\n\.Fo (\w+)\n((?:\.Fa .*\n)+)\.Fc$",
                       PAGES["libvchan.3"], re.M)
    return {name: spaced("{} {}({})".format(
        kind, name, ", ".join(re.findall(r'^\.Fa "(.*)"$', arguments, re.M))))
        for kind, name, arguments in calls}


def test_synopsis_is_the_header():
    assert documented() == prototypes()
    assert len(documented()) == 15


def test_calls_are_named_in_the_headers_order():
    assert [line.split()[1] for line in section("libvchan.3", "NAME")
            if line.startswith(".Nm")] == ["libvchan", *prototypes()]


@pytest.mark.parametrize("name", prototypes())
def test_call_is_described_and_its_result_is(name):
    for where in ("DESCRIPTION", "RETURN VALUES"):
        told = f".Fn {name}" in " ".join(section("libvchan.3", where))
        assert told or prototypes()[name].startswith("void") and where != "DESCRIPTION"


def test_constants_have_the_headers_values():
    values = r"#define (VCHAN_[A-Z]+) (\d)"
    assert re.findall(values, PAGES["libvchan.3"]) == re.findall(values, HEADER) != []


def test_errors_of_the_header_are_in_the_page():
    names = r"\bE[A-Z]{3,}\b"
    promised = set(re.findall(names, HEADER)) - {"EVTCHN", "EINTR"}
    listed = {name for line in section("libvchan.3", "ERRORS")
              for name in re.findall(names, line)} - {"ERRORS"}
    assert promised <= listed
    # What the page has besides, the library sets.
    code = "".join(path.read_text() for path in (ROOT / "vchan").glob("*.c"))
    assert {name for name in listed if not re.search(rf"\b{name}\b", code)} <= promised


def examples():
    return re.findall(r"^\.Bd -literal.*\n(#include(?:.|\n)*?)^\.Ed$", PAGES["libvchan.3"], re.M)


def test_there_are_examples():
    assert len(examples()) == 2


@pytest.mark.parametrize("number", range(len(examples())))
def test_example_compiles_without_a_warning(number, tmp_path):
    source = tmp_path / "example.c"
    source.write_text(examples()[number].replace(r"\e", "\\"))
    done = subprocess.run(["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}", "-c",
                           "-o", tmp_path / "example.o", source],
                          capture_output=True, text=True, timeout=tooling.LATE)
    assert (done.returncode, done.stderr) == (0, "")


# --- variables -------------------------------------------------------------------

def entries(page):
    """name: what is said of it, of each variable that is listed."""
    return dict(re.findall(r"^\.It Ev (\w+)\n((?:(?!\.It |\.El).*\n)+)", PAGES[page], re.M))


def numbers_of_config():
    """name: (preset, least, most), of the table in config.c."""
    known = {"MS_MAX": 2 ** 31 - 1, "RING_MAX": 2 ** 30}

    def value(text):
        number, _, shift = text.partition("<<")
        return known[text] if text in known else int(number.strip(" u")) << int(shift or 0)
    return {name: tuple(value(word.strip()) for word in words.split(","))
            for name, words in re.findall(
                r'\{ "(VCHAN_VSOCK_\w+)", FIELD\(\w+\), ([^}]*?) \}', CONFIG)}


def test_variables_of_the_library_are_in_the_page_and_no_other():
    assert set(entries("vchan-vsock.7")) == set(re.findall(r'"(VCHAN_[A-Z_]+)"', CONFIG))


def test_ring_max_is_as_this_test_has_it():
    assert "#define RING_MAX ((size_t)1 << 30)" in (ROOT / "vchan" / "ring.h").read_text()


@pytest.mark.parametrize("name", numbers_of_config())
def test_number_has_the_codes_limits_and_default(name):
    preset, least, most = numbers_of_config()[name]
    assert entries("vchan-vsock.7")[name].startswith(
        f"A number from {least} to {most}, {preset} by default.\n")


@pytest.mark.parametrize("name, function", [
    ("VCHAN_VSOCK_LOG", "read_log"), ("VCHAN_VSOCK_WIRE", "read_wire"),
    ("VCHAN_VSOCK_RELAY", "read_relay")])
def test_words_are_those_of_the_code(name, function):
    code = re.search(rf"^static int {function}\(.*?^}}", CONFIG, re.M | re.S).group()
    taken = set(re.findall(r'"([a-z]+)"', code))
    assert set(re.findall(r"^\.Cm ([a-z]+)", entries("vchan-vsock.7")[name], re.M)) == taken


def test_variables_of_the_command_are_in_its_pages_and_no_other():
    read = {name for text in TOOLS.values() for name in re.findall(r'getenv\("(\w+)"\)', text)}
    listed = {name for page in PAGES if page != "vchan-vsock.7" for name in entries(page)}
    assert {name for name in read if not name.startswith("VCHAN_")} == listed


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_a_variable_that_is_none(page):
    names = set(re.findall(r"\bVCHAN_(?:DOMAIN|VSOCK_[A-Z_]+)\b", PAGES[page]))
    assert names <= set(re.findall(r'"(VCHAN_[A-Z_]+)"', CONFIG))


# --- options ----------------------------------------------------------------------

def options_by_line(page, subsections):
    """The forms of each option: {"-k", "--keep"}."""
    lines = [line for _, subsection, line in parts(page)
             if line.startswith(".It Fl") and (not subsections or subsection in subsections)]
    return [{"-" + name for name in re.findall(r"\bFl (-?[\w-]+)", line)} for line in lines]


def options_of_page(command):
    return set().union(*options_by_line(*COMMANDS[command]))


def options_of_help(text):
    """As tools/completion.bash finds them."""
    lines = re.findall(r"^ {1,8}(-.*)$", text, re.M)
    return {option for line in lines
            for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line.split("  ")[0])}


HELP = {"-h", "--help"}  # not all of them list it


def test_commands_are_those_of_the_program(tool):
    """And the page of all of them lists each."""
    listed = re.findall(r"^  ([a-z]+)  ", tool("--help").stdout, re.M)
    assert listed == list(COMMANDS)
    assert listed == re.findall(r"^\.It Cm (\w+)$", PAGES["vchan-vsock.1"], re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_those_of_the_help(command, tool):
    told = options_of_help(tool(command, "--help").stdout)
    assert options_of_page(command) - HELP == told - HELP != set()
    assert HELP <= options_of_page(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_the_page_are_accepted(command, tool):
    """Behind each of them is one that is none: so nothing begins, and that one is refused,
    or is the value and refused as such, or the one behind it."""
    for option in options_of_page(command) - HELP:
        done = tool(command, option, "--no-such", "--no-such")
        assert done.returncode == 2
        assert f"no such option: {option}\n" not in done.stderr


def test_help_is_an_option_of_each_command(tool):
    for command in COMMANDS:
        for option in HELP:
            done = tool(command, option)
            assert done.returncode == 0 and done.stdout.startswith("usage: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_synopsis_has_each_option_in_one_of_its_forms(command):
    """But for those that listen and connect share, and --help."""
    page, subsections = COMMANDS[command]
    forms = "\n".join(section(page, "SYNOPSIS")).split(".Nm")
    text = "".join(form for form in forms if f"\n.Cm {command}\n" in form)
    shown = set(re.findall(r"\bFl -([\w-]+)", text))
    shown |= {letter for letters in re.findall(r"\bFl (\w+)", text) for letter in letters}
    own = [{name.lstrip("-") for name in names} for names in
           options_by_line(page, subsections and {command}) if "--help" not in names]
    assert own and all(names & shown for names in own)
    assert shown <= set().union(*own)
