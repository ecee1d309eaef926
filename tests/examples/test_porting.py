# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/qubes.md: its ports, its commands, its policy, its XML."""
import re
import xml.etree.ElementTree as ET

import tooling

GUIDE = (tooling.ROOT / "docs" / "qubes.md").read_text()
README = (tooling.ROOT / "README.md").read_text()


def block(title):
    """The lines behind <!-- title -->."""
    found = re.search(rf"<!-- {title} -->\n\n((?:    .*\n)+)", GUIDE)
    return re.sub(r"^    ", "", found.group(1), flags=re.M)


def test_ports_of_the_table_are_those_of_the_command(prefix, run):
    rows = re.findall(r"^\| [^|]+ \| (host|42) \| (host|42) \| (\d+) \| (\d+) \|$", GUIDE, re.M)
    assert len(rows) == 7
    for server, client, port, vsock_port in rows:
        told = run(prefix / "bin" / "vchan-vsock", "addr", server, client, port)
        assert re.search(r"plain +vsock port (\d+),", told).group(1) == vsock_port


def test_policy_is_right(prefix, run, tmp_path):
    (tmp_path / "relay.policy").write_text(block("policy"))
    told = run(prefix / "bin" / "vchan-vsock", "relay", "--check", tmp_path / "relay.policy")
    assert "2 rules, no errors" in told


def test_xml_is_well_formed_and_names_the_guest():
    found = re.findall(r"```xml\n(.*?)```", GUIDE, re.S)
    assert len(found) == 1
    device = ET.fromstring(found[0])
    assert (device.tag, device.get("model")) == ("vsock", "virtio")
    assert device.find("cid").attrib == {"auto": "no", "address": "42"}


def test_program_that_insists_on_the_name_in_pkg_config(prefix, run, tmp_path):
    told = run("sh", "-ec", block("run: pkg-config"), cwd=tmp_path,
               PKG_CONFIG_PATH=f"{prefix}/lib/pkgconfig")
    assert told.split() == [f"-I{prefix}/include/vchan-vsock", f"-L{prefix}/lib", "-lvchan-vsock"]


def test_program_that_insists_on_the_name_of_the_library(prefix, run, tmp_path):
    source = re.search(r"^```c\n(.*?)```", README, re.M | re.S).group(1)
    (tmp_path / "hello.c").write_text(source)
    run("sh", "-ec", block("run: linker"), cwd=tmp_path,
        PKG_CONFIG_PATH=f"{prefix}/lib/pkgconfig")
    needed = run("readelf", "-dW", tmp_path / "hello")
    assert "[libvchan-vsock.so.1]" in needed and "xen" not in needed
