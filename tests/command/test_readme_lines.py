# SPDX-License-Identifier: LGPL-2.1-or-later
"""README's lines for a host and its guests, as printed: their CIDs are README's, too."""
import re
import subprocess

import pytest

import labkit
import vchan
from command.conftest import LATE, clean_environment, loopback_in, python
from command.test_proxy import changes, screenshot, start_display, until_screenshot
from lab.fixtures import running, use

README = (vchan.ROOT / "README.md").read_text()
LINES = re.findall(r"^    (host|guest)\$ +(\S.*)$", README, re.M)
RELAY = re.search(r"^    (echo 'allow.*) +#.*\n    (.*--check.*)\n    (vchan-vsock relay .*) +#",
                  README, re.M).groups()
PATH = f"PATH={vchan.ROOT / 'build'}:$PATH; "
# What the host's web server has to say.
PAGE = b"as printed"
SERVICE = f"""
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write({PAGE!r})
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", 80), Handler).serve_forever()
"""

pytestmark = pytest.mark.deadline(400)


def lines(word):
    """[(where, line), ...] of those that have the word."""
    found = [(where, line) for where, line in LINES if word in line]
    assert found
    return found


@pytest.fixture(scope="module")
def machines():
    """README's guests, 42 and 43."""
    found = [labkit.Guest(cid=cid) for cid in (42, 43)]
    yield found
    for guest in found:
        guest.kill()


@pytest.fixture(autouse=True)
def up(machines, request):
    """They run, also where one was lost before."""
    for guest in machines:
        running(use(request, guest))


@pytest.fixture
def typed(machines, on_host, in_machine):
    """typed(where, line): a line of README's, typed into a shell there and running."""
    def type_in(where, line, guest=machines[0]):
        words = ["sh", "-c", PATH + "exec env " + line]  # it may begin with a variable
        if where == "host":
            return on_host(words)
        return in_machine(guest, ["env", "-u", "VCHAN_VSOCK_LOOPBACK", *words])
    return type_in


def test_windows_of_the_guest_are_on_the_hosts_display(machines, typed, on_host):
    guest = machines[0]
    guest.run(["mkdir", "-p", "/tmp/.X11-unix"], timeout=LATE)
    start_display(on_host, ":0")
    before = screenshot(0)
    for where, line in lines("X11"):
        typed(where, line)
    vchan.until(lambda: guest.run(["test", "-S", "/tmp/.X11-unix/X0"],
                                  timeout=LATE).returncode == 0, LATE)
    (where, line), = lines("xeyes")
    typed(where, line)
    until_screenshot(0, lambda now: len(list(changes(before, now))) > 1000)


def test_a_web_server_of_the_guest_is_on_the_hosts_port(machines, typed, in_machine):
    guest = machines[0]
    loopback_in(guest)
    in_machine(guest, python(SERVICE))
    for where, line in lines("tcp:"):
        typed(where, line)
    fetch = ("import sys, urllib.request\n"
             "sys.stdout.write(urllib.request.urlopen('http://localhost:8080/').read().decode())")
    vchan.until(lambda: subprocess.run(
        python(fetch), stdout=subprocess.PIPE, timeout=LATE, env=clean_environment(),
        check=False).stdout == PAGE, LATE)


def test_bench_measures(typed):
    (serving, serve), (driving, drive) = lines("bench")
    typed(serving, serve)
    driver = typed(driving, drive)
    assert driver.wait(LATE) == 0, driver.stderr.read_available()
    rows = driver.stdout.read_available().decode().splitlines()
    assert any(row.startswith("trip-1 ") for row in rows) and rows[-1].startswith("setup "), rows


def test_relay_lets_one_guest_reach_the_other(machines, typed, on_host, tmp_path):
    made = on_host(["sh", "-c", PATH + " && ".join(RELAY[:2])], cwd=tmp_path)
    assert made.wait(LATE) == 0
    on_host(["sh", "-c", PATH + "exec " + RELAY[2]], cwd=tmp_path)
    source, target = machines
    server = typed("guest", "vchan-vsock listen --exec 'echo Hello' 42 512", target)
    client = typed("guest", "vchan-vsock connect --recv-only 43 512", source)
    assert client.wait(LATE) == 0, client.stderr.read_available()
    assert client.stdout.read_available() == b"Hello\n"
    assert server.wait(LATE) == 0
    denied = typed("guest", "vchan-vsock connect --recv-only 43 513", source)
    assert denied.wait(LATE) == 1
