# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/wire.md is true: its bytes, its tables, and what the C code makes."""
import re
import struct

import pytest

from framed_peer import ASK, END, Hello, HELLO, documented_bytes, header

# Prints what the library's own encoders make of the documented conversation.
ENCODE = r"""
#include <stdio.h>
#include "vchan/frame.h"

static void print(const unsigned char *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		printf("%02x", bytes[i]);
	putchar('\n');
}

static void print_hello(struct hello h)
{
	unsigned char bytes[HELLO_SIZE];

	hello_encode(&h, bytes);
	print(bytes, sizeof bytes);
}

static void print_frame(struct frame f)
{
	unsigned char bytes[FRAME_HEADER];

	frame_encode(&f, bytes);
	print(bytes, sizeof bytes);
}

int main(void)
{
	print_hello((struct hello){ WIRE_VERSION, 0, 0, 0, 0, 4 << 20 });
	print_hello((struct hello){ WIRE_VERSION, 0, 4096, 8192, frame_window(4096), 4 << 20 });
	print_frame((struct frame){ .length = 5, .handed = 0 });
	print_frame((struct frame){ .end = true, .handed = 6 });
	print_frame((struct frame){ .length = 6, .handed = 5 });
	print_frame((struct frame){ .length = FRAME_LENGTH_MAX, .ask = true,
				    .handed = 0x89abcdef });
	return 0;
}
"""

# Prints the window for each ring on its command line.
WINDOWS = r"""
#include <stdio.h>
#include <stdlib.h>
#include "vchan/frame.h"

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		printf("%u\n", frame_window((uint32_t)strtoul(argv[i], NULL, 10)));
	return 0;
}
"""

# Prints the plain port for server, client, port and loopback.
PORT = r"""
#include <stdio.h>
#include <stdlib.h>
#include "vchan/address.h"

int main(int argc, char **argv)
{
	const char *why;
	uint32_t n[4], port;

	for (int i = 0; i < 4 && i + 1 < argc; i++)
		n[i] = (uint32_t)strtoul(argv[i + 1], NULL, 10);
	if (argc != 5 || address_port(n[3], 0, n[0], n[1], n[2], &port, &why) < 0)
		return 1;
	printf("%u\n", port);
	return 0;
}
"""


@pytest.fixture(scope="session")
def text(root):
    return (root / "docs" / "wire.md").read_text()


@pytest.fixture
def compiled(cc, run, root, tmp_path):
    """A C program and one of the library's sources, compiled and run."""
    def compiled(program, source, *words):
        (tmp_path / "program.c").write_text(program)
        run(cc, f"-I{root}", "-D_GNU_SOURCE", "-std=gnu11", "-Wall", "-Wextra", "-Werror",
            tmp_path / "program.c", root / "vchan" / source, "-o", tmp_path / "program")
        return run(tmp_path / "program", *words).stdout.split()
    return compiled


def table(text, *columns):
    """The rows of numbers below a table's head."""
    head = "| " + " | ".join(columns) + " |\n"
    rows = re.match(r"\|[-|]+\|\n((?:\|.*\|\n)+)", text.split(head, 1)[1]).group(1)
    return [tuple(int(cell) for cell in row.strip("|").split("|"))
            for row in rows.splitlines()]


def test_dumps_are_the_documented_fields(text):
    """docs/wire.md, the bytes: each field, packed on its own."""
    client, server = documented_bytes()
    said = struct.pack("<8sHHIIIII", b"vch1wire", 1, 0, 0, 0, 0, 0, 4 << 20)
    assert client == (said + struct.pack("<II", 5, 0) + b"hello" +
                      struct.pack("<II", 0x80000000, 6))
    said = struct.pack("<8sHHIIIII", b"vch1wire", 1, 0, 0, 4096, 8192, 4096, 4 << 20)
    assert server == said + struct.pack("<II", 6, 5) + b"world!"


def test_dumps_are_what_the_peer_says():
    """docs/wire.md, the bytes: the tests' peer packs the same."""
    client, server = documented_bytes()
    assert client == (HELLO.pack(*Hello()) + header(5, 0) + b"hello" +
                      header(handed=6, flags=END))
    rings = Hello(read_ring=4096, write_ring=8192, window=4096)
    assert server == HELLO.pack(*rings) + header(6, 5) + b"world!"


def test_dumps_are_what_the_library_encodes(compiled):
    """docs/wire.md, the bytes: vchan/frame.c makes the same hellos and headers."""
    client, server = documented_bytes()
    lines = [bytes.fromhex(line) for line in compiled(ENCODE, "frame.c")]
    hello, answer, first, last, reply, longest = lines
    assert client == hello + first + b"hello" + last
    assert server == answer + reply + b"world!"
    assert longest == header((1 << 28) - 1, 0x89abcdef, ASK)


def test_comments_of_the_dumps_tell_the_numbers(text):
    """docs/wire.md, the bytes: what stands beside the bytes is what they mean."""
    lines = re.findall(r"^[0-9a-f]{4}: ((?:[0-9a-f]{2} )+) +(.*)$", text, re.M)
    told = [(int.from_bytes(bytes.fromhex(octets), "little"), words[-1])
            for octets, comment in lines if (words := comment.split())
            and words[-1].isdigit()]
    assert len(told) == 12
    for number, word in told:
        assert number == int(word)


def test_table_of_the_hello_has_the_offsets_of_the_peer(text):
    """docs/wire.md, hello: fields follow one another, 32 bytes in all."""
    rows = re.findall(r"^\| (\d+) \| (\d) \| ([a-z ]+) \| \S.* \| \S.* \|$", text, re.M)
    end = 0
    for offset, size, _ in rows:
        assert int(offset) == end
        end += int(size)
    assert [name.replace(" ", "_") for _, _, name in rows] == list(Hello._fields)
    assert end == HELLO.size == 32


def test_windows_are_those_of_the_library(text, compiled):
    """docs/wire.md, window: every line of the table."""
    rows = table(text, "ring", "window")
    rings = [ring for ring, _ in rows]
    assert len(rows) == 11
    assert [int(word) for word in compiled(WINDOWS, "frame.c", *rings)] == \
        [window for _, window in rows]


def test_ports_are_those_of_the_library(text, compiled):
    """docs/wire.md, ports: every line of the table."""
    rows = table(text, "server", "client", "vchan port", "loopback", "plain port",
                 "framed port")
    assert len(rows) == 2
    for *address, plain, framed in rows:
        assert [int(word) for word in compiled(PORT, "address.c", *address)] == [plain]
        assert framed == plain + 2**31


def test_packet_bounds_are_as_the_rule_says(text):
    """docs/wire.md, packets: half of buffer / 576, at least 8."""
    rows = table(text, "smallest buffer", "bound")
    assert [max(8, buffer // 576 // 2) for buffer, _ in rows] == \
        [bound for _, bound in rows]


def test_links_lead_somewhere(text):
    """docs/wire.md: every #link has its heading."""
    headings = {heading.lower().replace(" ", "-")
                for heading in re.findall(r"^## (.*)$", text, re.M)}
    links = set(re.findall(r"\]\(#([\w-]+)\)", text))
    assert links == headings
