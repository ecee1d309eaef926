#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# The host's part of ./run-demo: boots a guest that serves, and connects to it.
set -u
cd "$1" || exit 1

# Any that no machine has; where one has it, QEMU says so.
cid=$(shuf -i 100-32000 -n 1)
port=512
# The host is the client: its CID, 2, is what the vsock port is made of.
vsock_port=$((2 * 65536 + port))
LD_LIBRARY_PATH=$PWD/build
export LD_LIBRARY_PATH
# The guest's CID does not exist until its QEMU has started.
export VCHAN_VSOCK_BOOT_WAIT_MS=60000 VCHAN_VSOCK_CONNECT_TIMEOUT_MS=80000

cat <<END

       $(printf '%-38s' "guest, CID $cid")host, CID 2
      .--------------.                       .-------------.
      |  vchan-demo  |       AF_VSOCK        |  vchan-demo |
      |   (server)   |<====== $vsock_port =======>|   (client)  |
      '--------------'                       '-------------'

END

build/demo/vchan-demo connect 2 "$cid" $port &
client=$!

# Boots the guest and runs the server in it; when that fails, so does the client.
guest() {
	trap 'kill $lab; exit 1' TERM
	tests/lab/lab guest --cid "$cid" --timeout 90 -- \
		env LD_LIBRARY_PATH="$LD_LIBRARY_PATH" \
		build/demo/vchan-demo serve "$cid" 0 $port &
	lab=$!
	wait $lab && return
	kill $client
	exit 1
}
guest &
guest=$!

trap 'kill $guest $client 2>/dev/null' EXIT
trap 'exit 1' INT TERM
wait $client && wait $guest
