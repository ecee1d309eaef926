# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes tables and plots of what measure.py found."""
import statistics
import subprocess

from measure import LARGE_MESSAGE, SIMPLE, SOCKETS, STREAM_SIZES, VCHANS

MIB = 1 << 20

# What the framed wire should reach; times of a socket's for "at most", rates for
# "at least".  (what, size): bound.
AT_MOST = {("round trip", size): 1.10 for size in (1, 64, 4096)}
AT_MOST |= {("polled round trip", size): 1.25 for size in (1, 64, 4096, 65536)}
AT_MOST["set-up", 0] = 1.5
AT_LEAST = {("stream, write", 16): 30, ("stream, write", 64): 20, ("stream, write", 256): 6,
            ("stream, write", 1024): 2, ("stream, write", 4096): 1.2,
            ("stream, write", 65536): 0.95, ("stream, write", MIB): 0.95,
            ("qrexec", 65528): 1.0}
# Where the plain wire's bound is another one.
PLAIN_TOO = {("round trip", 1): 1.10, ("round trip", 64): 1.10, ("round trip", 4096): 1.10,
             ("stream, write", 65536): 1.0, ("stream, write", MIB): 1.0}
CPU_AT_MOST = {"framed": 1.15, "plain": 1.05}


def median(numbers):
    return statistics.median(numbers) if numbers else None


def yardstick(row, figure="ns"):
    """The better one of the two plain sockets: its median."""
    found = [median(row["ways"][way][figure]) for way in SOCKETS if row["ways"][way][figure]]
    return min(found) if found else None


def is_time(row):
    """A time, where less is better; the others are rates."""
    return "trip" in row["what"] or row["what"] == "set-up"


def part(row, ours, theirs):
    """Of the time, or of the rate, to theirs; None if one of them is not known."""
    if not ours or not theirs:
        return None
    return ours / theirs if is_time(row) else theirs / ours


def ratio(row, way):
    """To the yardstick."""
    return part(row, median(row["ways"][way]["ns"]), yardstick(row))


def bound(row, way):
    key = row["what"], row["size"]
    if way == "plain":
        return PLAIN_TOO.get(key)
    return AT_MOST.get(key) or AT_LEAST.get(key)


def verdict(row, way):
    """'met', 'missed', or '' where nothing is promised."""
    wanted, found = bound(row, way), ratio(row, way)
    if not wanted or found is None:
        return ""
    good = found <= wanted if is_time(row) else found >= wanted
    return "met" if good else "MISSED"


# --- numbers for people ------------------------------------------------------------

def size_text(size):
    for unit, name in ((MIB, "MiB"), (1024, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def rate_text(ns, size):
    """So much a second."""
    if size >= 4096:
        return f"{size * 1e9 / ns / MIB:.1f} MiB/s"
    return f"{1e9 / ns:,.0f}/s"


def value_text(row, ns):
    if ns is None:
        return "-"
    return f"{ns / 1000:,.1f} us" if is_time(row) else rate_text(ns, row["size"])


def spread_text(numbers):
    """The rounds' least and most, in parts of the median."""
    if not numbers:
        return "-"
    middle = median(numbers)
    return f"{min(numbers) / middle:.2f}..{max(numbers) / middle:.2f}"


def ratio_text(found):
    return "-" if found is None else f"{found:.2f}"


def name_text(row, rows):
    """With its direction where there are two."""
    name = row["what"]
    if row["size"]:
        name += f" {size_text(row['size'])}"
    if any(other["inward"] for other in rows) and not is_time(row):
        name += " to guest" if row["inward"] else " to host"
    return name


def aligned(lines):
    """A Markdown table whose columns stand one below the other."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    def show(line):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([show(lines[0]), rule, *map(show, lines[1:])])


# --- tables --------------------------------------------------------------------------

def speed_table(rows):
    lines = [["case", "socket", "spread", "framed", "spread", "ratio", "wanted", "",
              "plain", "ratio", "wanted", ""]]
    for row in rows:
        best = min((way for way in SOCKETS if row["ways"][way]["ns"]),
                   key=lambda way: median(row["ways"][way]["ns"]), default=SOCKETS[0])
        sign = "<=" if is_time(row) else ">="
        line = [name_text(row, rows), value_text(row, median(row["ways"][best]["ns"])),
                spread_text(row["ways"][best]["ns"])]
        for way in VCHANS:
            numbers = row["ways"][way]["ns"]
            wanted = bound(row, way)
            line.append(value_text(row, median(numbers)))
            if way == "framed":
                line.append(spread_text(numbers))
            line += [ratio_text(ratio(row, way)), f"{sign} {wanted:.2f}" if wanted else "",
                     verdict(row, way)]
        lines.append(line)
    return aligned(lines)


def flavours_table(rows):
    """The library with a thread and the one without, side by side."""
    lines = [["case", *(text for way in VCHANS
                        for text in (way, way + SIMPLE, "simple's part"))]]
    for row in rows:
        line = [name_text(row, rows)]
        for way in VCHANS:
            both = [median(row["ways"][name]["ns"]) for name in (way, way + SIMPLE)]
            line += [value_text(row, ns) for ns in both]
            line.append(ratio_text(part(row, both[1], both[0])))
        lines.append(line)
    return aligned(lines)


def deaths(rows):
    """Connections that died, where any did."""
    found = [f"- {name_text(row, rows)}: {way}: {row['ways'][way]['deaths']}"
             for row in rows for way in row["ways"] if row["ways"][way]["deaths"]]
    return "\n".join(["Connections that died:", *found]) if found else \
        "No connection died."


def cpu_table(rows):
    """CPU time of both processes: what the kernel's own threads do is not in it."""
    lines = [["case", "socket", "framed", "ratio", "wanted", "plain", "ratio", "wanted"]]
    for row in rows:
        if row["what"] != "stream, write" or row["size"] not in (64, 1024, LARGE_MESSAGE):
            continue
        scale, unit = (2 ** 30 / row["size"], "GiB") if row["size"] == LARGE_MESSAGE else \
            (1e6, "million")
        base = yardstick(row, "cpu")
        line = [f"{name_text(row, rows)}, a {unit}", f"{base * scale / 1e9:.2f} s" if base else "-"]
        for way in VCHANS:
            ours = median(row["ways"][way]["cpu"])
            wanted = CPU_AT_MOST[way] if row["size"] == LARGE_MESSAGE else None
            line += [f"{ours * scale / 1e9:.2f} s" if ours else "-",
                     f"{ours / base:.2f}" if ours and base else "-",
                     f"<= {wanted}" if wanted else ""]
        lines.append(line)
    return aligned(lines)


def calls_table(rows):
    ways = list(rows[0]["ways"])
    lines = [["case", *(f"{way}: {end}" for way in ways for end in ("measurer", "partner"))]]
    for row in rows:
        lines.append([name_text(row, rows), *(f"{calls:.2f}" for way in ways
                                              for calls in row["ways"][way])])
    return aligned(lines)


def late_table(found):
    lines = [["", *(f"{way}: {which}" for way in next(iter(found.values()))
                    for which in ("median", "most"))]]
    names = {"lone": "a message after a pause", "burst": "the last of 64 in a row"}
    for what, ways in found.items():
        lines.append([names[what], *(f"{numbers[which] / 1000:,.0f} us" for numbers in ways.values()
                                     for which in ("median", "most"))])
    return aligned(lines)


def parts_table(found):
    return aligned([["", "median"], *([name, f"{ns / 1000:,.0f} us" if ns else "failed"]
                                      for name, ns in found.items())])


def idle_table(found):
    lines = [["", "resident, a channel", "fds, a channel", "wake-ups, of all"]]
    for way, numbers in found["ways"].items():
        lines.append([way, f"{numbers['resident'] / 1024:.1f} KiB", f"{numbers['fds']:.2f}",
                      f"{numbers['wake-ups']}"])
    return aligned(lines)


def busy_table(rows):
    ways = list(rows[0]["ways"])
    lines = [["channels", *(f"{way}{what}" for way in ways for what in ("", ": slowest"))]]
    for row in rows:
        line = [str(row["channels"])]
        for way in ways:
            numbers = row["ways"][way]
            line += ["died", "-"] if "died" in numbers else \
                [f"{numbers['rate'] / MIB:.1f} MiB/s", f"{numbers['fairness']:.2f}"]
        lines.append(line)
    return aligned(lines)


def text(results):
    """All of it, in Markdown."""
    parts = [f"Linux {results['kernel']}, {results['cpus']} processors, "
             f"{results['accelerator']}; medians of {results['rounds']} rounds."]
    if results.get("lost"):
        parts.append(f"Machines that the emulator lost, and parts begun anew: "
                     f"{results['lost']}.")
    for place, rows in results["places"].items():
        parts += [f"## {place}", speed_table(rows), deaths(rows),
                  "### CPU time of both processes", cpu_table(rows),
                  "### With a thread and without", flavours_table(rows)]
    if "parts" in results:
        parts += ["## What one end of a set-up and close is made of", parts_table(results["parts"])]
    if "late" in results:
        parts += ["## How late a message is that nothing follows, loopback",
                  late_table(results["late"])]
    if "calls" in results:
        parts += ["## System calls a message, loopback", calls_table(results["calls"])]
    if "idle" in results:
        parts += [f"## {results['idle']['channels']} idle channels in a process, "
                  f"{results['idle']['seconds']} s, loopback", idle_table(results["idle"])]
    if "busy" in results:
        parts += ["## Channels busy at once, 4 KiB messages, loopback; the slowest one's "
                  "rate in parts of the mean", busy_table(results["busy"])]
    return "\n\n".join(parts) + "\n"


# --- plots -----------------------------------------------------------------------------

PLOT = """
set terminal {terminal}
set output "{output}"
set title "{title}"
set logscale x 2
set logscale y 10
set xlabel "bytes a message"
set ylabel "messages a second"
set grid
set key top right
set xtics ({ticks})
$data << END
{data}
END
plot for [i=2:4] $data using 1:i with linespoints lw 2 pt 7 title columnheader(i)
"""
TERMINALS = {"svg": "svg size 800,500 background 'white'", "png": "png size 800,500"}


def plot(rows, title, path):
    """PATH.svg and PATH.png, by gnuplot: rate by message size."""
    streams = {row["size"]: row for row in rows
               if row["what"] == "stream, write" and not row["inward"]}
    lines = ['size "plain socket" "framed" "plain wire"']
    for size in STREAM_SIZES:
        row = streams[size]
        rates = [yardstick(row), *(median(row["ways"][way]["ns"]) for way in VCHANS)]
        lines.append(" ".join([str(size), *(f"{1e9 / ns:.0f}" if ns else "NaN" for ns in rates)]))
    ticks = ", ".join(f'"{size_text(size)}" {size}' for size in STREAM_SIZES)
    for kind, terminal in TERMINALS.items():
        script = PLOT.format(terminal=terminal, output=f"{path}.{kind}", title=title,
                             ticks=ticks, data="\n".join(lines))
        subprocess.run(["gnuplot"], input=script, text=True, check=True, timeout=60)
