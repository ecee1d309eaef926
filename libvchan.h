/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvchan over AF_VSOCK: byte channels between virtual machines.
 *
 * A vchan joins one server and one client, each in a domain (a machine), by
 * two rings of bytes, one per direction.  This header is the contract; it
 * says for every call what blocks, what is returned, and which errno it sets.
 *
 * Domains and ports
 *   A domain is a vsock CID.  Domain 0 is the host; 2 means the same.  The
 *   local domain is the environment's VCHAN_DOMAIN or, when that is unset,
 *   the CID that the kernel reports.  The server listens, and the client
 *   connects, on the vsock port
 *       VCHAN_VSOCK_PORT_BASE + client_domain * 65536 + port
 *   (0 counts as 2; client_domain below 32768, port below 65536, the sum
 *   below 2^31).  The bytes there are the program's bytes.  Two ends of this
 *   library speak frames instead, on that port plus 2^31 (docs/wire.md).
 *   Between two guests of a host there is the relay of that host
 *   (VCHAN_VSOCK_RELAY=auto, never, or its vsock port); the calls and what
 *   they promise are the same.
 *
 * States (libvchan_is_open)
 *   state               read/recv        write/send        may become
 *   VCHAN_WAITING       wait for peer    fill the ring     CONNECTED, DISCONNECTED
 *   VCHAN_CONNECTED     work             work              DISCONNECTED
 *   VCHAN_DISCONNECTED  what is left,    -1 EPIPE          nothing: it is final
 *                       then ECONNRESET
 *   is_open() == 0 followed by data_ready() == 0 means that nothing is left
 *   to read, now or later.
 *   A connected peer's death shows within a second; that of a guest which starts
 *   anew inside of its virtual machine, after a minute of silence, a minute later.
 *
 * Blocking
 *   A handle starts in blocking mode; libvchan_set_blocking changes it.
 *   Signals interrupt nothing: EINTR is retried inside.  SIGPIPE is never
 *   raised.
 *
 * Threads, fork, exit
 *   One thread may read (read, recv, data_ready) while another writes (write,
 *   send, buffer_space).  Different handles are independent.  No call may run
 *   at the same time as libvchan_close on the same handle.  The library's own
 *   thread has all signals blocked.  After fork the child's copies of all
 *   handles are dead: every call says disconnected, libvchan_close frees them,
 *   and the parent's channels notice nothing.  All fds are close-on-exec.
 *   exit() delivers what was written, as libvchan_close does; do not call the
 *   library from a signal handler (exit() is fine there).
 *
 * Without a thread: libvchan-vsock-simple
 *   The same contract, and no thread: what the library's does otherwise happens
 *   inside the program's calls.  So these three are different, and nothing else:
 *   - What waits, waits for the next call on that handle, whichever: bytes that
 *     the kernel or the peer's ring had no room for, a peer that asks for room, a
 *     client to let in, an asynchronous connect.  A call that blocks works on
 *     meanwhile; libvchan_close and exit() deliver as ever.
 *   - A silent peer's death shows at the next call.
 *   - libvchan_fd_for_select, and watch_fd, are also readable when a call could
 *     make such progress; libvchan_wait then makes it, and stays up to 50 ms for
 *     a client that is just coming in.  Look at the state: it may not be
 *     VCHAN_CONNECTED yet.
 *
 * Errors
 *   Every -1 and NULL comes with errno.  Wherever a handle is NULL or a
 *   buffer of more than 0 bytes is NULL: EINVAL; is_open, data_ready and
 *   buffer_space say 0 of NULL.  Bytes count in size_t going in and in int coming
 *   out.  A size of 0 does nothing and returns 0, also when disconnected, but
 *   fails as other sizes do before an asynchronous connect has succeeded.
 *   EPROTO comes instead of EPIPE and ECONNRESET when the peer has broken the
 *   rules of the framed wire and was cut off.
 */
#ifndef VCHAN_VSOCK_LIBVCHAN_H
#define VCHAN_VSOCK_LIBVCHAN_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A file descriptor that becomes readable when something happened. */
typedef int EVTCHN;

struct libvchan;
typedef struct libvchan libvchan_t;

/* What libvchan_is_open returns. */
#define VCHAN_DISCONNECTED 0 /* the peer is gone, for good */
#define VCHAN_CONNECTED 1    /* both ends are there */
#define VCHAN_WAITING 2      /* the peer has not come yet */

/*
 * Serve `port` to a client in `domain`; returns at once, in VCHAN_WAITING.
 * read_min and write_min are ring sizes in bytes: each ring is the next power
 * of two, and at least one page.  The first connection from the client's CID
 * is the client; others are refused and cost the server nothing.
 *
 * A server on the host whose guest was there and has gone becomes
 * VCHAN_DISCONNECTED within about 10 s.
 *
 * NULL: EINVAL (negative domain or port, ring over 1 GiB, an environment
 * variable that does not parse), ERANGE (domain or port beyond the mapping),
 * EADDRINUSE (somebody serves this already), EAFNOSUPPORT, ENODEV or, over
 * loopback, EADDRNOTAVAIL (no vsock here), EACCES (no permission), EMFILE,
 * ENFILE, ENOMEM, EAGAIN (no thread).
 */
libvchan_t *libvchan_server_init(int domain, int port, size_t read_min,
                                 size_t write_min);

/*
 * Connect to the server of `port` in `domain`.  Blocks until it is there, as
 * long as its machine exists.  Rings have the sizes that the server has asked
 * for; over the plain wire VCHAN_VSOCK_CLIENT_RING bytes each, 128 KiB unless set.
 *
 * NULL: as libvchan_server_init (not EADDRINUSE); ENODEV (on some platforms
 * EHOSTUNREACH or ENETUNREACH) when there has been no such machine for
 * VCHAN_VSOCK_BOOT_WAIT_MS; ETIMEDOUT when
 * VCHAN_VSOCK_CONNECT_TIMEOUT_MS is over; EACCES also when the relay between
 * two guests does not allow it.
 */
libvchan_t *libvchan_client_init(int domain, int port);

/*
 * The same without blocking.  *watch_fd becomes readable (POLLIN) when the
 * outcome is known, success or failure; it belongs to the library.  Then, or
 * earlier, call libvchan_client_init_async_finish.  Until that has returned 0,
 * is_open is VCHAN_WAITING, data_ready and buffer_space are 0, wait returns 0
 * at once, everything else but libvchan_close gives -1/EAGAIN.
 *
 * NULL: as libvchan_client_init, for what is known at once.
 */
libvchan_t *libvchan_client_init_async(int domain, int port, EVTCHN *watch_fd);

/*
 * Returns 0 when connected (`blocking` sets the mode), 1 when not yet (wait
 * on the same watch_fd again), -1 when it failed, with the errno that
 * libvchan_client_init would have set; then only libvchan_close is left to
 * do.  Never blocks.  -1/EINVAL on a server.
 */
int libvchan_client_init_async_finish(libvchan_t *ctrl, bool blocking);

/*
 * Write.  Blocking: writes all of it and returns size; in VCHAN_WAITING it
 * fills the ring and blocks only when that is full.  Non-blocking: writes
 * what fits now and returns how much, maybe 0.  Never blocks for what
 * libvchan_buffer_space promised.
 *
 * -1: EPIPE when disconnected, EINVAL also for size over INT_MAX.
 */
int libvchan_write(libvchan_t *ctrl, const void *data, size_t size);

/*
 * Write all at once.  Blocking: waits until all of it is taken, returns size;
 * over the framed wire the peer may have the first part before the rest fits.
 * Non-blocking: size, or 0 when it does not fit now.
 *
 * -1: EMSGSIZE when size is over the write ring's (over the framed wire also
 * over 128 KiB), else as libvchan_write.
 */
int libvchan_send(libvchan_t *ctrl, const void *data, size_t size);

/*
 * Read at most `size` bytes and at most a ring's worth.  Blocking: at least 1
 * byte.  Non-blocking: what is there, maybe 0.
 *
 * -1: ECONNRESET when disconnected and nothing is left (never 0).
 */
int libvchan_read(libvchan_t *ctrl, void *data, size_t size);

/*
 * Read exactly `size` bytes.  Blocking: waits for them.  Non-blocking: size,
 * or 0 when not all of them are there.
 *
 * -1: EMSGSIZE when size is over the read ring's; ECONNRESET when the peer
 * left before sending them all (what it did send can still be read).
 */
int libvchan_recv(libvchan_t *ctrl, void *data, size_t size);

/*
 * Block until something happened since the last call of this function, and
 * clear libvchan_fd_for_select.  Events are: connected, data arrived, room
 * came free after a call had found too little, disconnected.  A call may
 * return without an event; look at the state again.  Returns 0; at once when
 * disconnected, and whenever the fd was readable.  -1: EINVAL.
 */
int libvchan_wait(libvchan_t *ctrl);

/*
 * Close the channel and free the handle.  What was written is delivered if
 * the peer reads it: this waits for that at most VCHAN_VSOCK_LINGER_MS
 * (10 s).  In VCHAN_WAITING there is nobody to wait for: what was written is
 * dropped.  Then all fds, mappings and the thread are gone, and the address can
 * be served again by the very next call.  NULL is fine, and so is every state.
 */
void libvchan_close(libvchan_t *ctrl);

/*
 * One fd for the handle's life, for select, poll and epoll: readable (POLLIN,
 * nothing else) when something happened since the last libvchan_wait; the
 * events are listed there.  Silent until the peer has connected.  Only
 * libvchan_wait clears it; afterwards it is quiet until the next event, even
 * while unread data sits there.  Do not read, write or close it.
 *
 * -1: EAGAIN while an asynchronous connect is unfinished, EPIPE after it
 * failed and in a forked child.
 */
EVTCHN libvchan_fd_for_select(libvchan_t *ctrl);

/* VCHAN_DISCONNECTED, VCHAN_CONNECTED or VCHAN_WAITING.  Never blocks. */
int libvchan_is_open(libvchan_t *ctrl);

/*
 * How many bytes can be read without blocking, 0 and up.  Takes in what has
 * arrived: a program may spin on this call and nothing else.  Where much has
 * arrived it may tell of a first part only; then the fd is readable for the rest,
 * and libvchan_read returns more than that.
 */
int libvchan_data_ready(libvchan_t *ctrl);

/*
 * How many bytes can be written without blocking, 0 and up: the whole ring in
 * VCHAN_WAITING, 0 when disconnected.
 */
int libvchan_buffer_space(libvchan_t *ctrl);

/* Choose the blocking (true, the default) or non-blocking mode. */
void libvchan_set_blocking(libvchan_t *ctrl, bool blocking);

#ifdef __cplusplus
}
#endif

#endif
