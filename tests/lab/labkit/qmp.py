# SPDX-License-Identifier: LGPL-2.1-or-later
"""Orders to a running QEMU."""
import json

from .errors import LabError

TIMEOUT = 20


class Qmp:
    def __init__(self, sock):
        sock.settimeout(TIMEOUT)
        self._file = sock.makefile("rwb")
        self._ready = False

    def command(self, name, **arguments):
        if not self._ready:
            self._receive()             # its greeting
            self._ready = True
            self._ask("qmp_capabilities")
        return self._ask(name, **arguments)

    def _ask(self, name, **arguments):
        try:
            order = {"execute": name, "arguments": arguments}
            self._file.write(json.dumps(order).encode() + b"\n")
            self._file.flush()
            while True:
                answer = self._receive()
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    raise LabError(f"QEMU, {name}: {answer['error']['desc']}")
        except OSError as e:
            raise LabError(f"QEMU does not answer to {name}: {e}") from e

    def _receive(self):
        line = self._file.readline()
        if not line:
            raise LabError("QEMU is gone")
        return json.loads(line)
