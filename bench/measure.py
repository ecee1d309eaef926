# SPDX-License-Identifier: LGPL-2.1-or-later
"""Takes the measurements, in the machine where vsock is: see run."""
import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build" / "bench" / "vchan-bench"

# bench.h has the first four; a flavour is a program of its own.
SIMPLE = ", simple"
WIRES = ["socket", "large socket", "framed", "plain"]
WAYS = [*WIRES, "framed" + SIMPLE, "plain" + SIMPLE]
WHATS = ["round trip", "polled round trip", "stream, write", "stream, send", "qrexec",
         "set-up", "lone", "burst", "idle", "busy"]
SOCKETS, VCHANS = WIRES[:2], WIRES[2:]
LARGE_MESSAGE = 65536

TRIP_SIZES = [1, 64, 4096, 65536]
STREAM_SIZES = [16, 64, 256, 1024, 4096, 65536, 1 << 20]
SEND_MOST = 65536  # bytes: the ring that is asked for
QREXEC_PAYLOAD = SEND_MOST - 8
CHANNEL_COUNTS = [1, 2, 4, 8, 16, 32, 64]
IDLE_CHANNELS, IDLE_MS = 1000, 10_000
PATIENCE = 60  # seconds for one measurement, which takes a fraction of one


class Died(Exception):
    """A connection did."""


@dataclasses.dataclass(frozen=True)
class Case:
    what: str
    size: int = 0
    inward: bool = False  # from the partner to the measurer

    def order(self, way, count, channels=1, milliseconds=0):
        words = [WHATS.index(self.what), WIRES.index(way.removesuffix(SIMPLE)), self.size,
                 int(self.inward),
                 count, channels, milliseconds]
        return " ".join(map(str, words))


def cases(directions, pattern):
    """All, or those whose name and size match."""
    return [case for case in all_cases(directions)
            if re.search(pattern, f"{case.what} {case.size}")]


def all_cases(directions):
    trips = [Case(what, size) for what in ("round trip", "polled round trip")
             for size in TRIP_SIZES]
    streams = [Case("stream, write", size, inward) for inward in directions
               for size in STREAM_SIZES]
    streams += [Case("stream, send", size, inward) for inward in directions
                for size in STREAM_SIZES if size <= SEND_MOST]
    qrexec = [Case("qrexec", QREXEC_PAYLOAD, inward) for inward in directions]
    return trips + streams + qrexec + [Case("set-up")]


# --- the two programs ------------------------------------------------------------

def program_for(way):
    """The one whose library is of this way's flavour."""
    return PROGRAM.with_name(PROGRAM.name + ("-simple" if way.endswith(SIMPLE) else ""))


class Answer:
    FIELDS = ["error", "ns", "cpu", "error_there", "ns_there", "cpu_there", "median",
              "most", "bytes", "least", "resident", "fds", "switches"]

    def __init__(self, line):
        self.__dict__.update(zip(self.FIELDS, map(int, line.split())))


class Local:
    """A program here, with lines in and lines out."""

    def __init__(self, words, **variables):
        env = {name: value for name, value in os.environ.items()
               if not name.startswith("VCHAN_")}
        env["LD_LIBRARY_PATH"] = str(ROOT / "build")
        self.process = subprocess.Popen(list(map(str, words)), env={**env, **variables},
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self, seconds):
        """Its next line; '' when it has ended, or was late, and is dead now."""
        late = threading.Timer(seconds, self.process.kill)
        late.start()
        try:
            return self.process.stdout.readline()
        finally:
            late.cancel()

    def end(self):
        self.process.kill()
        self.process.communicate()


class InGuest:
    def __init__(self, guest, words):
        self.process = guest.popen([str(word) for word in words],
                                   env={"LD_LIBRARY_PATH": str(ROOT / "build")})

    def say(self, line):
        self.process.stdin.write((line + "\n").encode())

    def hear(self, seconds):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.stdout.readline(seconds).decode()
        return ""

    def end(self):
        self.process.kill()


class Loopback:
    name = "loopback"
    directions = [False]
    gone = ()

    def start(self, way, wrap=lambda words, _role: words):
        variables, program = {"VCHAN_VSOCK_LOOPBACK": "1"}, program_for(way)
        partner = Local(wrap([program, "partner", 3], "partner"), VCHAN_DOMAIN="2", **variables)
        port = partner.hear(PATIENCE).strip()
        measurer = Local(wrap([program, "measure", 2, 1, port], "measurer"),
                         VCHAN_DOMAIN="3", **variables)
        return measurer, partner


class Border:
    """The partner is here, on the host; the measurer is in the guest, which is a
    labkit.Guest; `gone` is what that raises when the emulator has lost it."""
    name = "guest and host"
    directions = [False, True]

    def __init__(self, guest, gone):
        self.guest, self.gone = guest, gone

    def start(self, way):
        if not self.guest.alive():
            self.guest.start()
        program = program_for(way)
        partner = Local([program, "partner", self.guest.cid], VCHAN_DOMAIN="0")
        port = partner.hear(PATIENCE).strip()
        return InGuest(self.guest, [program, "measure", 0, 2, port]), partner


class Pair:
    """Both programs, of each flavour, started anew when one failed."""

    def __init__(self, place):
        self.place = place
        self.started = {}

    def measure(self, case, way, *amounts, **more):
        try:
            program = program_for(way)
            if program not in self.started:
                self.started[program] = self.place.start(way)
            measurer = self.started[program][0]
            measurer.say(case.order(way, *amounts, **more))
            line = measurer.hear(PATIENCE)
        except self.place.gone as gone:
            self.end()
            raise Died(str(gone)) from None
        answer = Answer(line) if line else None
        if not answer or answer.error or answer.error_there:
            self.end()
            raise Died(os.strerror(answer.error or answer.error_there) if answer
                       else "no answer")
        return answer

    def end(self):
        for programs in self.started.values():
            for program in programs:
                with contextlib.suppress(self.place.gone):
                    program.end()
        self.started = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


# --- one case over all ways, round by round ----------------------------------------

def calibrate(pair, case, way, target_ns):
    """How many messages take about so long."""
    count = 2
    while True:
        try:
            ns = pair.measure(case, way, count).ns
        except Died:
            return count
        if ns >= target_ns / 3 or count >= 1 << 24:
            return max(1, int(count * target_ns / ns))
        count *= 2 + min(30, int(target_ns / 2 / max(ns, 1)))


def run_case(pair, case, rounds, target_ns):
    """{way: {"ns": [...], "cpu": [...], "deaths": n}}; ns a message."""
    counts, results = {}, {}
    for way in WAYS:
        counts[way] = calibrate(pair, case, way, target_ns)
        results[way] = {"ns": [], "cpu": [], "deaths": 0, "count": counts[way]}
    for number in range(rounds):
        # Nobody shall always come after the same one.
        for way in WAYS[number % len(WAYS):] + WAYS[:number % len(WAYS)]:
            try:
                answer = pair.measure(case, way, counts[way])
            except Died:
                results[way]["deaths"] += 1
                continue
            results[way]["ns"].append(answer.ns / counts[way])
            results[way]["cpu"].append((answer.cpu + answer.cpu_there) / counts[way])
    return results


def run_cases(place, pattern, rounds, target_ns):
    table = []
    with Pair(place) as pair:
        for case in cases(place.directions, pattern):
            print(f"{place.name}: {case.what} {case.size}", file=sys.stderr, flush=True)
            table.append({**dataclasses.asdict(case),
                          "ways": run_case(pair, case, rounds, target_ns)})
    return table


# --- the rest, over loopback ---------------------------------------------------------

def lateness(pair):
    """How late a message is that nothing follows: ns, the median and the most."""
    return {what: {way: {"median": answer.median, "most": answer.most}
                   for way in WIRES
                   for answer in [pair.measure(Case(what, 16), way, count)]}
            for what, count in (("lone", 200), ("burst", 50))}


def idle(pair, seconds=IDLE_MS // 1000):
    found = {}
    for way in WAYS[:1] + WAYS[2:]:
        answer = pair.measure(Case("idle"), way, IDLE_CHANNELS, milliseconds=seconds * 1000)
        found[way] = {"resident": answer.resident / IDLE_CHANNELS,
                      "fds": answer.fds / IDLE_CHANNELS,
                      "wake-ups": answer.switches}
    return {"channels": IDLE_CHANNELS, "seconds": seconds, "ways": found}


def busy(pair, milliseconds=2500):
    """Bytes a second through all channels, and the slowest one's part of the mean."""
    table = []
    for channels in CHANNEL_COUNTS:
        ways = {}
        for way in WIRES:
            try:
                answer = pair.measure(Case("busy", 4096), way, 0, channels, milliseconds)
            except Died as death:
                ways[way] = {"died": str(death)}
                continue
            ways[way] = {"rate": answer.bytes * 1e9 / answer.ns,
                         "fairness": answer.least * channels / max(1, answer.bytes)}
        table.append({"channels": channels, "ways": ways})
    return table


# bench.h
PARTS = ["a thread, created and joined", "two rings, mapped twice each and unmapped",
         "an epoll set and two eventfds", "a socket that listens"]


def parts():
    """What one end of a set-up is made of: ns each, None if it failed."""
    done = subprocess.run([PROGRAM, "parts"], check=True, text=True, stdout=subprocess.PIPE,
                          timeout=PATIENCE,
                          env={**os.environ, "LD_LIBRARY_PATH": str(ROOT / "build")})
    return dict(zip(PARTS, (int(word) or None for word in done.stdout.split())))


# With fewer and more messages each, which under strace are slow.
CALLS_OF = [(Case("round trip", 64), 200, 2000), (Case("polled round trip", 64), 200, 2000),
            (Case("stream, write", 64), 100, 30000),
            (Case("stream, write", LARGE_MESSAGE), 100, 1000)]


def counted_calls(case, way, count):
    """System calls of either end, all threads, under strace."""
    with tempfile.TemporaryDirectory() as directory:
        def wrap(words, role):
            return ["strace", "-f", "-c", "-U", "calls", "-o", f"{directory}/{role}", *words]

        measurer, partner = Loopback().start(way, wrap)
        measurer.say(case.order(way, count))
        answer = measurer.hear(PATIENCE)
        for program in (measurer, partner):
            program.process.stdin.close()
            program.process.wait(PATIENCE)
        if not answer:
            raise Died("no answer")
        return [int(re.findall(r"\d+", (pathlib.Path(directory) / role).read_text())[-1])
                for role in ("measurer", "partner")]


def calls():
    """System calls a message: of the writer and of the reader, or of both ends of a
    round trip.  What opening costs is subtracted."""
    table = []
    for case, few, many in CALLS_OF:
        ways = {}
        for way in WAYS[:1] + WAYS[2:]:
            low, high = (counted_calls(case, way, count) for count in (few, many))
            ways[way] = [(b - a) / (many - few) for a, b in zip(low, high)]
        table.append({**dataclasses.asdict(case), "ways": ways})
    return table
