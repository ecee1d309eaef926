# SPDX-License-Identifier: LGPL-2.1-or-later
"""A puppet that runs in a guest of the lab."""
import programs
import puppet
import vchan


class GuestPuppet(puppet.Puppet):
    """programs/puppet.c in a guest, over the lab's own channel to it."""

    def __init__(self, guest, **variables):
        env = {name: str(value) for name, value in variables.items()}
        env["LD_LIBRARY_PATH"] = str(vchan.LIBRARY.parent)
        # Real domains; conftest's loopback is for one machine only.
        words = ["env", "-u", "VCHAN_VSOCK_LOOPBACK", programs.program("puppet")]
        self.process = guest.popen(words, env=env)
        puppet.living.append(self)

    def begin(self, *words):
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())

    def answer(self, seconds=vchan.SOON):
        line = self.process.stdout.readline(seconds).decode()
        return self.parsed(line)

    def kill(self):
        self.process.kill()
        self.process.wait(vchan.SOON)

    def put_away(self):
        try:
            self.process.kill()
        except Exception:  # pylint: disable=broad-except
            pass  # the guest is gone, and the puppet with it


def serve_from_a_program(guest, port):
    """A server in a program of its own here and its client in the guest, connected."""
    server = puppet.Puppet.start(VCHAN_DOMAIN=0)
    server("server", guest.cid, port, vchan.PAGE, vchan.PAGE)
    client = GuestPuppet(guest)
    client("client", 0, port)
    return server, client


def serve(guest, port, ring=vchan.PAGE):
    """A server here and its client in the guest, connected."""
    server = vchan.Vchan.server(guest.cid, port, ring, ring)
    client = GuestPuppet(guest)
    client("client", 0, port)
    vchan.until(lambda: server.is_open == vchan.CONNECTED)
    return server, client
