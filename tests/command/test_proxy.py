# SPDX-License-Identifier: LGPL-2.1-or-later
"""vchan-vsock proxy, with programs that know nothing of it: a guest's windows on the
host's display, and HTTP in either direction."""
import hashlib
import os
import pathlib
import struct
import subprocess

import pytest

import vchan
from command.conftest import LATE, clean_environment, loopback_in, python

TOOL = vchan.ROOT / "build" / "vchan-vsock"

pytestmark = pytest.mark.deadline(300)


# --- proxies ------------------------------------------------------------------

def listening_at(readline):
    line = readline(timeout=LATE).decode().strip()
    said, _, address = line.partition("listening at ")
    assert said == "vchan-vsock proxy: ", line
    return address


# --- a display ----------------------------------------------------------------

WIDTH, HEIGHT = 640, 480
WINDOW = (300, 100, 200, 150)  # x, y, width, height


def start_display(on_host, *number):
    """The number of a display that nobody sees: this one, or one that is free."""
    pathlib.Path("/tmp/.X11-unix").mkdir(mode=0o1777, exist_ok=True)
    # It would start anew, and be gone for a moment, when its last client has left.
    server = on_host(["Xvfb", *number, "-displayfd", "1", "-nolisten", "tcp", "-ac", "-noreset",
                      "-screen", "0", f"{WIDTH}x{HEIGHT}x24"])
    while not (line := server.said.readline().strip()).isdigit():
        pass
    return int(line)


@pytest.fixture
def display(on_host):
    return start_display(on_host)


def screenshot(display):
    """The pixels, row by row, of four bytes each (the X window dump of XWDFile.h)."""
    dump = subprocess.run(["xwd", "-root", "-silent", "-display", f":{display}"],
                          stdout=subprocess.PIPE, check=True, timeout=LATE).stdout
    words = struct.unpack(">20I", dump[:80])
    header, width, height, bits, row, colors = (words[i] for i in (0, 4, 5, 11, 12, 19))
    assert (width, height, bits, row) == (WIDTH, HEIGHT, 32, 4 * WIDTH)
    pixels = dump[header + 12 * colors:]
    assert len(pixels) == row * height
    if keep := os.environ.get("LAB_OUT"):
        pathlib.Path(keep, "screenshot.xwd").write_bytes(dump)
    return pixels


def changes(before, now):
    """(x, y) of each pixel that is another one."""
    for y in range(HEIGHT):
        old, new = (picture[4 * WIDTH * y:4 * WIDTH * (y + 1)] for picture in (before, now))
        if old != new:
            yield from ((x, y) for x in range(WIDTH)
                        if old[4 * x:4 * x + 4] != new[4 * x:4 * x + 4])


def window_is_on(before, now):
    """All that has changed is in the window's place, and it is a good part of that."""
    x, y, width, height = WINDOW
    changed = list(changes(before, now))
    assert all(x <= column < x + width and y <= row < y + height for column, row in changed)
    return len(changed) > width * height // 3


def until_screenshot(display, is_right):
    vchan.until(lambda: is_right(screenshot(display)), LATE)


def test_a_guests_window_is_on_the_hosts_display(guest, port, on_host, there, display):
    """The programs in the guest see a Unix socket, DISPLAY=:0, and the host's X server
    another one."""
    guest.run(["mkdir", "-p", "/tmp/.X11-unix"], timeout=LATE)
    host = on_host([TOOL, "proxy", "--verbose", f"vchan:{guest.cid}:{port}",
                    f"unix:/tmp/.X11-unix/X{display}"])
    listening_at(host.said.readline)
    proxy = there([TOOL, "proxy", "--verbose", "unix:/tmp/.X11-unix/X0", f"vchan:host:{port}"])
    listening_at(proxy.stderr.readline)
    environment = {"DISPLAY": ":0", "XAUTHORITY": "/dev/null"}

    told = guest.run(["xdpyinfo"], env=environment, timeout=LATE)
    assert told.returncode == 0, told.stderr
    assert f"dimensions:    {WIDTH}x{HEIGHT} pixels".encode() in told.stdout

    before = screenshot(display)
    x, y, width, height = WINDOW
    eyes = there(["xeyes", "-geometry", f"{width}x{height}+{x}+{y}"], environment)
    until_screenshot(display, lambda now: window_is_on(before, now))
    eyes.kill()
    # The host's X server hears that its client has gone.
    until_screenshot(display, lambda now: now == before)


# --- a service ----------------------------------------------------------------

# Its replies have no length: they end with the connection.
SERVER = """
import http.server, random
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(random.Random(self.path).randbytes(300000))
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64
server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""

CLIENT = """
import concurrent.futures, hashlib, random, socket, sys, threading
name = sys.argv[1]
together = threading.Barrier(20)
def fetch(i):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(name)
    together.wait(100)
    peer.sendall(b"GET /%d HTTP/1.0\\r\\n\\r\\n" % i)
    reply = b"".join(iter(lambda: peer.recv(65536), b""))
    body = reply.partition(b"\\r\\n\\r\\n")[2]
    return hashlib.sha256(body).digest()
with concurrent.futures.ThreadPoolExecutor(20) as pool:
    for i, got in enumerate(pool.map(fetch, range(20))):
        assert got == hashlib.sha256(random.Random("/%d" % i).randbytes(300000)).digest(), i
print("20 replies are right")
"""


def test_a_guest_fetches_from_a_service_of_the_host(guest, port, on_host, there):
    """20 at once, each through a channel of its own."""
    service = int(on_host(python(SERVER)).said.readline())
    host = on_host([TOOL, "proxy", "--verbose", f"vchan:{guest.cid}:{port}",
                    f"tcp:127.0.0.1:{service}"])
    listening_at(host.said.readline)
    proxy = there([TOOL, "proxy", "--verbose", "unix:/tmp/service", f"vchan:host:{port}"])
    listening_at(proxy.stderr.readline)
    client = guest.run(python(CLIENT, "/tmp/service"), timeout=LATE)
    assert client.stdout == b"20 replies are right\n", client.stderr


def test_the_host_fetches_from_a_service_of_a_guest(guest, port, on_host, there, tmp_path):
    loopback_in(guest)
    service = int(there(python(SERVER)).stdout.readline(timeout=LATE))
    proxy = there([TOOL, "proxy", "--verbose", f"vchan:host:{port}",
                   f"tcp:127.0.0.1:{service}"])
    listening_at(proxy.stderr.readline)
    name = f"/tmp/service-{hashlib.md5(str(tmp_path).encode()).hexdigest()[:8]}"
    host = on_host([TOOL, "proxy", "--verbose", f"unix:{name}", f"vchan:{guest.cid}:{port}"])
    listening_at(host.said.readline)
    client = subprocess.run(python(CLIENT, name), capture_output=True, timeout=LATE,
                            env=clean_environment(), check=False)
    assert client.stdout == b"20 replies are right\n", client.stderr
