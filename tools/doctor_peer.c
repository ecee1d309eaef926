/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "doctor.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "probe.h"
#include "vchan/address.h"

static const char *machine_name(uint32_t cid, char text[32])
{
	if (cid == CID_HOST)
		return "the host";
	snprintf(text, 32, "domain %u", cid);
	return text;
}

/* What keeps a connection from any machine: NULL when it is an answer. */
static const char *trouble_of(int err)
{
	switch (err) {
	case 0:
	case ECONNRESET:
		return NULL;
	case ENODEV:
	case EHOSTUNREACH:
	case ENETUNREACH:
		return "there is no such machine";
	case ETIMEDOUT:
		return "it does not answer: it is booting, hangs, or has no vsock driver";
	default:
		return strerror(err);
	}
}

static const char *machine_advice(int err, bool local)
{
	switch (err) {
	case ENODEV:
	case EHOSTUNREACH:
	case ENETUNREACH:
		return local ? "as root: modprobe vsock_loopback" :
			"start it, with -device vhost-vsock-pci,guest-cid=N; here it takes the "
			"module vhost_vsock, or in a guest vmw_vsock_virtio_transport";
	case ETIMEDOUT:
		return "wait for it; in there it takes the module vmw_vsock_virtio_transport";
	default:
		return NULL;
	}
}

/* False: it does not, and there is no use in asking for more. */
static bool look_at_machine(struct doctor *d, const struct doctor_peer *peer)
{
	bool local = d->config.loopback || peer->cid == CID_LOCAL || peer->cid == d->kernel_cid;
	int err = probe_port(d->config.loopback ? CID_LOCAL : peer->cid, PROBE_NOBODY, false);
	const char *trouble = trouble_of(err);
	char name[32];

	if (trouble)
		findings_add(&d->findings, FINDING_BAD, "machine", machine_advice(err, local),
			     "%s: %s", machine_name(peer->cid, name), trouble);
	else
		findings_add(&d->findings, FINDING_OK, "machine", NULL, "%s answers%s",
			     machine_name(peer->cid, name),
			     local ? ": it is this machine" : "");
	return !trouble;
}

/* ---- a server ---- */

/* Where its client in this domain would find it. */
static bool find_port(struct doctor *d, const struct doctor_peer *peer, uint32_t *port)
{
	const char *why = "this machine's domain is not known";

	if (d->own_cid &&
	    address_port(d->config.loopback, d->config.port_base, peer->cid, d->own_cid,
			 (uint32_t)peer->port, port, &why) == 0)
		return true;
	findings_add(&d->findings, FINDING_BAD, "server", NULL,
		     "port %d has no vsock port here: %s", peer->port, why);
	return false;
}

static void tell_of_no_server(struct doctor *d, const struct doctor_peer *peer, uint32_t port,
			      int err)
{
	const char *trouble = trouble_of(err);
	char name[32];

	findings_add(&d->findings, FINDING_BAD, "server",
		     trouble ? NULL : peer->plain ?
		     "start it; it has to name this domain as its client's" :
		     "start it; it has to name this domain as its client's.  If it speaks the "
		     "plain wire only: --plain",
		     "%s: %s for domain %u on port %d (vsock port %u)",
		     machine_name(peer->cid, name),
		     trouble ? trouble : peer->plain ? "nobody waits" :
		     "no server of this library waits",
		     d->own_cid == CID_HOST ? 0 : d->own_cid, peer->port, port);
}

static void tell_of_server(struct doctor *d, const struct doctor_peer *peer, uint32_t port)
{
	bool mismatch = d->config.wire == WIRE_PLAIN;

	findings_add(&d->findings, mismatch ? FINDING_NOTE : FINDING_OK, "server",
		     mismatch ? "clients in this environment speak plain: if it has "
				"VCHAN_VSOCK_WIRE=framed they cannot meet" : NULL,
		     "a server waits on port %d for a client here (vsock port %u)", peer->port,
		     port + FRAMED_PORT);
}

static void tell_of_plain_server(struct doctor *d, const struct doctor_peer *peer, uint32_t port)
{
	bool mismatch = d->config.wire == WIRE_FRAMED;

	findings_add(&d->findings, mismatch ? FINDING_BAD : FINDING_NOTE, "server",
		     mismatch ? "clients in this environment speak framed only: unset "
				"VCHAN_VSOCK_WIRE" :
		     "if it has taken this look for its client, start it again",
		     "somebody waits on port %d, with the plain wire only (vsock port %u)",
		     peer->port, port);
}

static void look_at_server(struct doctor *d, const struct doctor_peer *peer)
{
	uint32_t cid = d->config.loopback ? CID_LOCAL : peer->cid;
	uint32_t port;
	int err;

	if (!find_port(d, peer, &port))
		return;
	err = probe_port(cid, port + FRAMED_PORT, false);
	if (!err) {
		tell_of_server(d, peer, port);
		return;
	}
	if (err == ECONNRESET && peer->plain) {
		err = probe_port(cid, port, true);
		if (!err) {
			tell_of_plain_server(d, peer, port);
			return;
		}
	}
	tell_of_no_server(d, peer, port, err);
}

/* ---- another guest of the same host ---- */

static bool is_other_guest(const struct doctor *d, const struct doctor_peer *peer)
{
	return !d->config.loopback && d->own_cid > CID_HOST && peer->cid > CID_HOST &&
	       peer->cid != d->own_cid && d->config.relay != RELAY_NEVER;
}

enum way { THROUGH_RELAY, STRAIGHT, NO_WAY };

static enum way tell_of_no_relay(struct doctor *d, const struct doctor_peer *peer, int err)
{
	const char *trouble = trouble_of(err);
	/* Some platforms join guests without one, and then the library does, too. */
	bool straight = d->config.relay == RELAY_AUTO &&
		!trouble_of(probe_port(peer->cid, PROBE_NOBODY, false));

	findings_add(&d->findings, straight ? FINDING_NOTE : FINDING_BAD, "relay",
		     straight ? NULL : "on the host, as root: vchan-vsock relay",
		     "no relay between guests on vsock port %u of the host: %s%s",
		     d->config.relay_port, trouble ? trouble : "nobody listens there",
		     straight ? "; but the other guest answers without one" : "");
	return straight ? STRAIGHT : NO_WAY;
}

static enum way look_at_relay(struct doctor *d, const struct doctor_peer *peer)
{
	int err = probe_port(CID_HOST, d->config.relay_port, false);

	if (err)
		return tell_of_no_relay(d, peer, err);
	findings_add(&d->findings, FINDING_OK, "relay", NULL, "the host relays between guests");
	return THROUGH_RELAY;
}

static const char *relay_words(enum relay_status status)
{
	static const char *const words[] = {
		[RELAY_OK] = "a server waits there for a client here",
		[RELAY_REFUSED] = "no server of this library waits there for a client here",
		[RELAY_NO_MACHINE] = "there is no such machine",
		[RELAY_DENIED] = "its policy forbids this channel",
		[RELAY_BUSY] = "it has too many channels",
		[RELAY_SILENT] = "the other guest does not answer: it is booting, or hangs",
	};

	return words[status];
}

static void look_through_relay(struct doctor *d, const struct doctor_peer *peer)
{
	const struct relay_request request = {
		.framed = true, .target = peer->cid, .port = (uint32_t)peer->port,
	};
	enum relay_status status = RELAY_OK;
	int err = probe_relay(d->config.relay_port, &request, &status);

	if (err)
		findings_add(&d->findings, FINDING_BAD, "server", NULL,
			     "the relay does not say whether domain %u has one: %s", peer->cid,
			     strerror(err));
	else
		findings_add(&d->findings, status == RELAY_OK ? FINDING_OK : FINDING_BAD,
			     "server", NULL, "domain %u, port %d, says the relay: %s",
			     peer->cid, peer->port, relay_words(status));
}

void doctor_look_there(struct doctor *d, const struct doctor_peer *peer)
{
	enum way way = is_other_guest(d, peer) ? look_at_relay(d, peer) : STRAIGHT;
	bool has_port = peer->port >= 0;

	if (way == THROUGH_RELAY && has_port)
		look_through_relay(d, peer);
	else if (way == STRAIGHT && look_at_machine(d, peer) && has_port)
		look_at_server(d, peer);
}
