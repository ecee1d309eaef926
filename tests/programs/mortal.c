/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ends of channels that die, and are born again, in the middle of checked traffic.
 *
 *     mortal KEY=VALUE...             (`options` below)
 *
 * Each channel has two ends, each a process; of a channel's ends one may be a survivor:
 * one process for the whole run, which serves or connects again whenever the other one
 * has died.  Mortal ends die in each of the ways in `deaths`, after a random number of
 * bytes or a random time, that of the set-up included, and this program starts
 * another in their place.
 *
 * A connection begins with a hello of ours each way: which world, which life (one end of
 * one connection), and, from the server, what kind of traffic follows.  Then
 * each end sends content that follows from its life, so a byte of another
 * connection or place is noticed.  Who has seen the end, and read all that there
 * is, compares with what the other end has written down in memory that all share:
 * nothing may be missing of
 *   - what the kernel had accepted from it (accepted.h), whatever its death;
 *   - what its writes had taken, if it ended by exit() or libvchan_close;
 *   - what its writes had taken in request-reply traffic.
 * And the end must have been seen within LATE of its death.
 * By exit, a program is dead when it has gone; it may deliver for a while.
 *
 * Prints a line each minute and one of JSON at the end; failures go to stderr, and
 * make the exit status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "accepted.h"
#include "content.h"
#include "libvchan.h"

#define MAX_CHANNELS 64
#define LIVES (1u << 16)
#define LARGEST (1 << 19)
#define MS 1000000LL
#define SECOND (1000 * MS)
/* A second, times five: the machine is emulated and busy (tests/vchan.py). */
#define LATE (option.late * SECOND)
#define STUCK (option.stuck * SECOND)
#define LAST_MOMENTS (60 * SECOND)
#define WARM_UP 5 /* lives, before a survivor counts what it holds */
/* A reply that fits into the smallest window, with our hello before it. */
#define SMALL_MESSAGE 4000

enum role { SERVER, CLIENT };
enum death { NONE, KILLED, EXIT_NOW, EXITED, EXECED, FAULT, ABORTED, CLOSED, DEATHS };
enum kind { DOWN, UP, DUPLEX, REQUESTS, LARGE_REQUESTS, POLLED, IDLE, KINDS };

static const char *const death_names[DEATHS] = {
    "", "SIGKILL", "_exit", "exit", "exec", "SIGSEGV", "abort", "close"};
static const char *const kind_names[KINDS] = {
    "down", "up", "duplex", "requests", "large-requests", "polled", "idle"};

/* One end of one connection. */
struct life {
    _Atomic uint64_t id;
    _Atomic uint64_t written;  /* bytes of the writes that have returned */
    _Atomic uint64_t accepted; /* bytes that the kernel has taken */
    _Atomic uint64_t promised; /* bytes that no death may lose */
    _Atomic int64_t died_at;   /* ns; 0: not yet, or not known */
    _Atomic bool noticed;      /* by the peer, or by nobody */
};

struct hello {
    uint64_t world, life;
    uint32_t kind, zero;
};

struct holdings {
    long fds, threads, rings, kib;
};

struct end {
    _Atomic int pid;
    _Atomic uint64_t beat;
    _Atomic int dying; /* enum death, from just before it */
    _Atomic uint64_t life;
    const char *_Atomic where;
    struct holdings before, after;
    /* The manager's. */
    uint64_t seen_beat;
    int64_t seen_at, born_at, dying_at;
};

struct world {
    uint64_t id, seed;
    _Atomic bool over;
    _Atomic uint64_t next_life, births, connections, bytes;
    _Atomic uint64_t kinds[KINDS], deaths[DEATHS], compared, failures;
    _Atomic int64_t worst_notice;
    struct end ends[MAX_CHANNELS][2];
    struct life lives[LIVES];
};

static struct world *world;
static int world_fd;

/* --- options ------------------------------------------------------------- */

static struct {
    unsigned channels, seconds, deaths, life_ms, calm, server, client, port, seed, progress,
        late, stuck;
    const char *survivors; /* which ends: none, server, client, either, some */
    const char *side;      /* of the channels, in this machine: both, server, client */
} option = {4, 3600, 0, 400, 0, 3, 4, 100, 1, 60, 5, 60, "none", "both"};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const struct {
    const char *name;
    unsigned *number;
    const char **text;
} options[] = {
    {"channels", &option.channels, NULL}, /* at once */
    {"seconds", &option.seconds, NULL},   /* at most */
    {"deaths", &option.deaths, NULL},     /* then stop; 0: when time is over */
    {"life-ms", &option.life_ms, NULL},   /* the longest, for who dies by the clock */
    {"calm", &option.calm, NULL},         /* 1: with pauses, as most programs */
    {"server", &option.server, NULL},     /* domains */
    {"client", &option.client, NULL},
    {"port", &option.port, NULL},         /* the first */
    {"seed", &option.seed, NULL},
    {"progress", &option.progress, NULL}, /* seconds between its lines */
    {"late", &option.late, NULL},         /* seconds for an end to be seen */
    {"stuck", &option.stuck, NULL},       /* seconds without a sign of a channel's life */
    {"survivors", NULL, &option.survivors},
    {"side", NULL, &option.side},
};

static void set_option(const char *word)
{
    const char *value = strchr(word, '=');

    for (size_t i = 0; value && i < COUNT(options); i++)
        if (strncmp(word, options[i].name, (size_t)(value - word)) == 0 &&
            !options[i].name[value - word]) {
            if (options[i].number)
                *options[i].number = (unsigned)strtoul(value + 1, NULL, 0);
            else
                *options[i].text = value + 1;
            return;
        }
    fprintf(stderr, "mortal: what is %s?\n", word);
    exit(2);
}

/* --- what all need --------------------------------------------------------- */

static int64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void nap(int64_t ns)
{
    struct timespec t = {ns / SECOND, ns % SECOND};

    nanosleep(&t, NULL);
}

static unsigned my_channel;
static enum role my_role;
static enum kind kind;
static struct end *me;

static void __attribute__((format(printf, 1, 2))) complain(const char *format, ...)
{
    char line[512];
    va_list args;
    int size;

    /* Another thread is in exit(): what a channel does then to the others is theirs. */
    if (me && me->dying)
        return;
    size = snprintf(line, sizeof line, "mortal: channel %u, %s %d, %s: ", my_channel,
                    my_role == SERVER ? "server" : "client", getpid(), kind_names[kind]);

    va_start(args, format);
    vsnprintf(line + size, sizeof line - (size_t)size, format, args);
    va_end(args);
    /* The first are enough to go by. */
    if (world->failures < 40)
        fprintf(stderr, "%s\n", line);
    world->failures++;
}

static int count_entries(const char *path, int but)
{
    DIR *directory = opendir(path);
    int count = -but;

    while (directory && readdir(directory))
        count++;
    if (directory)
        closedir(directory);
    return count;
}

static void count_in(const char *path, const char *line_with, long *lines, long *number)
{
    FILE *file = fopen(path, "r");
    char line[512];

    *lines = *number = 0;
    while (file && fgets(line, sizeof line, file))
        if (strstr(line, line_with)) {
            ++*lines;
            *number = strtol(line + strcspn(line, "0123456789"), NULL, 10);
        }
    if (file)
        fclose(file);
}

static struct holdings holdings(void)
{
    struct holdings h;
    long other, unused;

    h.fds = count_entries("/proc/self/fd", 3);
    h.threads = count_entries("/proc/self/task", 2);
    count_in("/proc/self/maps", "/dev/zero", &h.rings, &unused);
    count_in("/proc/self/maps", "memfd:vchan-ring", &other, &unused);
    h.rings += other;
    /* Its own: of the world all ends touch more and more, and the rings are counted. */
    count_in("/proc/self/status", "RssAnon:", &other, &h.kib);
    return h;
}

/* --- dying ------------------------------------------------------------------- */

static struct life *life; /* mine, now */
static struct {
    enum death how;
    uint64_t bytes; /* after so many; 0: by the clock */
    int64_t delay;  /* ns */
} plan;
static _Atomic uint64_t spent;
static _Atomic bool leaving; /* it closes */

static libvchan_t *chan;
static _Atomic int64_t noticed_at; /* ns; when the library first told of the end */

static void fail_for_good(void)
{
    raise(SIGSEGV);
}

static void become_another(void)
{
    char fd[16], id[24];

    snprintf(fd, sizeof fd, "%d", world_fd);
    snprintf(id, sizeof id, "%u", (unsigned)(life - world->lives));
    execl("/proc/self/exe", "mortal", "rest", fd, id, (char *)NULL);
    complain("exec: %s", strerror(errno));
}

static void mark_death(void)
{
    if (plan.how == EXITED || plan.how == CLOSED)
        life->promised = (uint64_t)life->written;
    else
        life->died_at = now(); /* at once; who delivers takes its time */
    me->dying = (int)plan.how;
    world->deaths[plan.how]++;
}

static void die(void)
{
    static atomic_flag begun = ATOMIC_FLAG_INIT;

    if (atomic_flag_test_and_set(&begun)) /* another thread is at it */
        for (;;)
            pause();
    mark_death();
    switch (plan.how) {
    case KILLED: kill(getpid(), SIGKILL); break;
    case EXIT_NOW: _exit(0);
    case EXITED: exit(0);
    case EXECED: become_another(); break;
    case FAULT: fail_for_good(); break;
    default: abort();
    }
    for (;;)
        pause();
}

static void *die_in_time(void *unused)
{
    (void)unused;
    nap(plan.delay);
    if (plan.how == CLOSED)
        leaving = true;
    else
        die();
    return NULL;
}

static void make_a_plan(struct dice *dice)
{
    pthread_t reaper;

    leaving = false;
    spent = 0;
    plan.bytes = 0;
    /* To close is a death of calm programs only. */
    plan.how = (enum death)(1 + roll(dice, option.calm ? DEATHS - 1 : DEATHS - 2));
    plan.delay = (int64_t)(option.life_ms * MS >> roll(dice, 7));
    if (roll(dice, 2)) {
        plan.bytes = 1 + roll(dice, 1ull << (1 + roll(dice, option.calm ? 26 : 22)));
        plan.delay = option.life_ms * MS * 2; /* if there are never so many */
    }
    if (pthread_create(&reaper, NULL, die_in_time, NULL) == 0)
        pthread_detach(reaper);
    else
        complain("no thread to die in");
}

static void look_whether_it_lives(void)
{
    if (!noticed_at && libvchan_is_open(chan) == VCHAN_DISCONNECTED)
        noticed_at = now();
}

static void spend(uint64_t bytes)
{
    look_whether_it_lives();
    world->bytes += bytes;
    me->beat++;
    if (plan.bytes && atomic_fetch_add(&spent, bytes) + bytes >= plan.bytes) {
        if (plan.how == CLOSED)
            leaving = true;
        else
            die();
    }
}

static void accepted_here(size_t payload)
{
    if (life)
        life->accepted += payload;
}

/* A large request through an emulated guest takes minutes, and is life all the while. */
static void moved_here(void)
{
    if (me)
        me->beat++;
}

/* What the exec'd program does: it holds nothing of the channel, and waits until that
 * has been noticed. */
static int rest(char **argv)
{
    int64_t until = now() + LATE + SECOND;
    struct life *before;

    world = mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[2]), 0);
    if (world == MAP_FAILED)
        return 1;
    before = &world->lives[atoi(argv[3]) % LIVES];
    /* Without a hello it was nobody's peer. */
    while (before->accepted >= sizeof(struct hello) && !before->noticed && now() < until &&
           !world->over)
        nap(MS);
    return 0;
}

/* --- moving bytes ------------------------------------------------------------ */

struct flow {
    uint64_t seed, position;
    _Atomic bool ended;
    size_t most; /* bytes in a message */
    struct dice dice;
    unsigned char *buffer;
};

static struct flow out, in;
static struct hello theirs;
static int64_t breath; /* ns between messages, at most */

static void at_end(struct flow *flow, int expected, const char *call)
{
    if (errno != expected)
        complain("%s: %s", call, strerror(errno));
    flow->ended = true;
    look_whether_it_lives();
}

static bool moved_out(int count, size_t most)
{
    if (count < 0) {
        at_end(&out, EPIPE, "write");
        return false;
    }
    if ((size_t)count > most)
        complain("write of %zu returned %d", most, count);
    out.position += (size_t)count;
    life->written = out.position;
    if (kind == REQUESTS)
        life->promised = out.position;
    spend((uint64_t)count);
    return true;
}

/* A blocking write or send of the next content. */
static bool put(size_t size)
{
    bool whole = size <= 4096 && roll(&out.dice, 2);
    int count;

    content_make(out.seed, out.position, out.buffer, size);
    count = whole ? libvchan_send(chan, out.buffer, size)
                  : libvchan_write(chan, out.buffer, size);
    if (count >= 0 && (size_t)count != size)
        complain("a blocking write of %zu returned %d", size, count);
    return moved_out(count, size);
}

static bool moved_in(int count, size_t most)
{
    if (count < 0) {
        at_end(&in, ECONNRESET, "read");
        return false;
    }
    if ((size_t)count > most)
        complain("read of %zu returned %d", most, count);
    if (!content_is(in.seed, in.position, in.buffer, (size_t)count))
        complain("wrong content in the %d bytes at %llu", count,
                 (unsigned long long)in.position);
    in.position += (size_t)count;
    spend((uint64_t)count);
    return true;
}

/* A blocking read of at most so much. */
static bool get(size_t size)
{
    int count = libvchan_read(chan, in.buffer, size);

    if (count == 0)
        complain("a blocking read returned 0");
    return moved_in(count, size);
}

static bool get_exactly(size_t size)
{
    uint64_t until = in.position + size;

    while (in.position < until)
        if (!get((size_t)(until - in.position)))
            return false;
    return true;
}

static size_t roll_message(struct flow *flow)
{
    return 1 + roll(&flow->dice, flow->most);
}

/* Byte by byte, what lies in a kernel's buffer takes an emulated machine longer than who has
 * sent it lingers; so one that has much to read takes more and more at once. */
static size_t roll_portion(void)
{
    size_t more = (size_t)(in.position / 256), size = roll_message(&in);

    return size > more ? size : more < LARGEST ? more : LARGEST;
}

static void breathe(struct flow *flow)
{
    if (breath)
        nap((int64_t)roll(&flow->dice, (uint64_t)breath));
}

static void *write_on(void *unused)
{
    (void)unused;
    while (!leaving && put(roll_message(&out)))
        breathe(&out);
    return NULL;
}

static void read_on(void)
{
    while (!leaving && get(roll_portion()))
        ;
}

static void both_ways(void)
{
    pthread_t writer;
    int err = pthread_create(&writer, NULL, write_on, NULL);

    if (err) {
        complain("no thread: %s", strerror(err));
        return;
    }
    read_on();
    pthread_join(writer, NULL);
}

/* The sizes follow from the client's life: both ends know it. */
static void requests(void)
{
    /* A guest's world is another one. */
    struct dice sizes = {my_role == CLIENT ? mix(world->id + life->id) :
                                             mix(theirs.world + theirs.life), 0};
    size_t most = kind == REQUESTS ? SMALL_MESSAGE : LARGEST;

    while (!leaving) {
        size_t request = 1 + roll(&sizes, 1 + roll(&sizes, most));
        size_t reply = 1 + roll(&sizes, 1 + roll(&sizes, most));

        if (my_role == CLIENT ? !put(request) || !get_exactly(reply)
                              : !get_exactly(request) || !put(reply))
            return;
        if (my_role == CLIENT)
            breathe(&out);
    }
}

/* False: that was all. */
static bool take_what_is_there(void)
{
    int ready;

    for (;;) {
        bool open = libvchan_is_open(chan);

        ready = libvchan_data_ready(chan);
        if (ready > 0) {
            size_t most = roll_portion(), size = (size_t)ready < most ? (size_t)ready : most;
            int count = libvchan_read(chan, in.buffer, size);

            if (count == 0)
                complain("nothing to read where %d bytes were ready", ready);
            if (!moved_in(count, size))
                return false;
        } else if (!open) {
            errno = ECONNRESET;
            at_end(&in, ECONNRESET, "data_ready");
            return false;
        } else {
            return true;
        }
    }
}

/* One message, or what there is room for; true if it was anything. */
static bool put_what_fits(void)
{
    uint64_t before = out.position;
    size_t size = roll_message(&out);

    if (kind == IDLE)
        size = 1 + size % 64;
    content_make(out.seed, out.position, out.buffer, size);
    moved_out(libvchan_write(chan, out.buffer, size), size);
    return out.position > before;
}

/* For how long there is nothing to write, in ms; -1: until there is an event. */
static int silence(int64_t next)
{
    int64_t left = (next - now()) / MS + 1;

    if (out.ended || kind == POLLED)
        return -1;
    return left > 0 ? (int)left : 0;
}

/* With the fd, never blocking; idle: something now and then. */
static void by_events(void)
{
    struct pollfd pfd = {.fd = libvchan_fd_for_select(chan), .events = POLLIN};
    int64_t next = 0;

    libvchan_set_blocking(chan, false);
    while (take_what_is_there() && !leaving) {
        if (!out.ended && now() >= next && put_what_fits()) {
            next = kind == IDLE ? now() + (int64_t)roll(&out.dice, 300) * MS : 0;
            if (kind == POLLED)
                breathe(&out);
            continue;
        }
        if (poll(&pfd, 1, silence(next)) <= 0)
            continue;
        if (pfd.revents != POLLIN)
            complain("the fd reports %#x", (unsigned)pfd.revents);
        libvchan_wait(chan);
    }
    libvchan_set_blocking(chan, true);
}

static void traffic(void)
{
    switch (kind) {
    case DOWN:
    case UP:
        if ((kind == DOWN) == (my_role == SERVER))
            write_on(NULL);
        else
            read_on();
        break;
    case DUPLEX: both_ways(); break;
    case REQUESTS:
    case LARGE_REQUESTS: requests(); break;
    default: by_events();
    }
}

/* --- a connection -------------------------------------------------------------- */

static struct life *new_life(void)
{
    uint64_t id = ++world->next_life;
    struct life *l = &world->lives[id % LIVES];

    l->id = 0;
    l->written = l->accepted = l->promised = 0;
    l->died_at = 0;
    l->noticed = false;
    l->id = id;
    return l;
}

static void begin_flows(struct dice *dice)
{
    size_t most = (size_t)1 << roll(dice, option.calm ? 17 : 20);

    out = (struct flow){.seed = mix(world->id + life->id), .most = most,
                        .buffer = out.buffer, .dice = {mix(life->id), 0}};
    in = (struct flow){.most = most, .buffer = in.buffer, .dice = {mix(life->id), 1u << 30}};
    breath = option.calm ? (int64_t)roll(dice, 40) * MS : 0;
    memset(&theirs, 0, sizeof theirs);
    noticed_at = 0;
    me->life = life->id;
}

static void set_domain(unsigned domain)
{
    char text[16];

    snprintf(text, sizeof text, "%u", domain);
    setenv("VCHAN_DOMAIN", text, 1);
}

static libvchan_t *serve(struct dice *dice)
{
    setenv("VCHAN_VSOCK_WIRE", roll(dice, 2) ? "plain" : "auto", 1);
    set_domain(option.server);
    return libvchan_server_init((int)option.client, (int)(option.port + my_channel),
                                1 + roll(dice, 1ull << roll(dice, 19)),
                                1 + roll(dice, 1ull << roll(dice, 19)));
}

static libvchan_t *connect_in_time(libvchan_t *c, int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    int result = 1;

    while (c && (result = libvchan_client_init_async_finish(c, true)) == 1)
        poll(&pfd, 1, 1000);
    if (c && result < 0) {
        int saved = errno;

        libvchan_close(c);
        errno = saved;
        return NULL;
    }
    return c;
}

static libvchan_t *connect_once(struct dice *dice)
{
    int port = (int)(option.port + my_channel), fd = -1;
    libvchan_t *c;

    set_domain(option.client);
    if (roll(dice, 2))
        return libvchan_client_init((int)option.server, port);
    c = libvchan_client_init_async((int)option.server, port, &fd);
    return connect_in_time(c, fd);
}

static bool open_channel(struct dice *dice)
{
    me->where = "opening";
    errno = 0;
    chan = my_role == SERVER ? serve(dice) : connect_once(dice);
    if (chan)
        return true;
    /* A server that is not there yet is asked for again, and so is a guest. */
    if (my_role == SERVER || (errno != ETIMEDOUT && errno != ENODEV))
        complain("cannot open: %s", strerror(errno));
    return false;
}

/* False: nobody came, and the time is over. */
static bool await_client(void)
{
    struct pollfd pfd = {.fd = libvchan_fd_for_select(chan), .events = POLLIN};

    me->where = "waiting";
    while (libvchan_is_open(chan) == VCHAN_WAITING) {
        if (world->over || leaving)
            return false;
        if (poll(&pfd, 1, 100) > 0)
            libvchan_wait(chan);
    }
    return true;
}

static bool say_hello(void)
{
    struct hello ours = {world->id, life->id, (uint32_t)kind, 0};
    int count = libvchan_write(chan, &ours, sizeof ours);

    if (count >= 0 && count != (int)sizeof ours)
        complain("a write of a hello returned %d", count);
    return moved_out(count, sizeof ours);
}

static bool hear_hello(void)
{
    int count = libvchan_recv(chan, &theirs, sizeof theirs);

    if (count < 0) {
        at_end(&in, ECONNRESET, "recv");
        memset(&theirs, 0, sizeof theirs);
        return false;
    }
    if (count != (int)sizeof theirs || theirs.kind >= KINDS || theirs.zero)
        complain("that is no hello");
    if (my_role == CLIENT)
        kind = (enum kind)(theirs.kind % KINDS);
    in.seed = mix(theirs.world + theirs.life);
    in.position = sizeof theirs;
    spend(sizeof theirs);
    return true;
}

/* All that the peer has sent. */
static void read_the_rest(void)
{
    me->where = "reading the rest";
    libvchan_set_blocking(chan, true);
    if (!theirs.life)
        while (libvchan_read(chan, in.buffer, LARGEST) > 0)
            ; /* a part of a hello */
    else
        while (!in.ended && get(LARGEST))
            ;
    if (libvchan_is_open(chan) != VCHAN_DISCONNECTED || libvchan_data_ready(chan) != 0)
        complain("the end is not the end");
}

static void keep_worst(int64_t ns)
{
    int64_t worst = world->worst_notice;

    while (ns > worst && !atomic_compare_exchange_weak(&world->worst_notice, &worst, ns))
        ;
}

static void compare_with(struct life *peer)
{
    uint64_t promised = peer->promised, accepted = peer->accepted;
    int64_t late = noticed_at - peer->died_at;

    if (in.position < promised || in.position < accepted)
        complain("%llu bytes arrived, of %llu that were promised and %llu accepted",
                 (unsigned long long)in.position, (unsigned long long)promised,
                 (unsigned long long)accepted);
    if (peer->died_at) {
        keep_worst(late);
        if (late > LATE)
            complain("the peer's death was noticed after %lld ms", (long long)(late / MS));
    }
    world->compared++;
}

static void judge(void)
{
    struct life *peer = &world->lives[theirs.life % LIVES];

    if (theirs.world != world->id || peer->id != theirs.life)
        return; /* it is not known here */
    compare_with(peer);
    peer->noticed = true;
}

static void converse(struct dice *dice)
{
    bool early = my_role == SERVER && roll(dice, 2);

    kind = (enum kind)roll(dice, KINDS);
    if (early && !say_hello())
        return;
    if (my_role == SERVER && !await_client())
        return;
    world->connections++;
    me->where = "saying hello";
    if (!early)
        say_hello();
    if (hear_hello()) {
        world->kinds[kind]++;
        me->where = kind_names[kind];
        traffic();
    }
    if (leaving) {
        mark_death();
        return;
    }
    read_the_rest();
    judge();
}

static void live_once(struct dice *dice)
{
    life = new_life();
    begin_flows(dice);
    if (!open_channel(dice))
        return;
    converse(dice);
    me->where = "closing";
    libvchan_close(chan);
    /* Nobody waits for who has seen the other's end, or has never met it. */
    if (me->dying == CLOSED)
        me->dying = NONE;
    else
        life->noticed = true;
    me->beat++;
}

/* --- an end ------------------------------------------------------------------- */

static unsigned char *touched(size_t size)
{
    unsigned char *data = malloc(size);

    if (!data)
        abort();
    memset(data, 1, size);
    return data;
}

/* A thread that has ended is listed until the kernel has done with it. */
static struct holdings settled_holdings(void)
{
    int64_t until = now() + SECOND;
    struct holdings h;

    do
        h = holdings();
    while (h.threads > me->before.threads && now() < until);
    return h;
}

static void be_an_end(uint64_t birth, bool survivor)
{
    struct dice dice = {mix(world->seed + birth), 0};

    out.buffer = touched(LARGEST);
    in.buffer = touched(LARGEST);
    life = new_life(); /* for who dies before its first */
    if (!survivor)
        make_a_plan(&dice);
    for (unsigned lives = 0; !world->over; lives++) {
        if (lives == WARM_UP)
            me->before = holdings();
        live_once(&dice);
        if (leaving && !survivor) /* closed once; again, or another death */
            make_a_plan(&dice);
    }
    me->after = settled_holdings();
    _exit(0);
}

static bool is_survivor(unsigned channel, enum role role)
{
    const char *s = option.survivors;

    if (strcmp(s, "some") == 0)
        return channel % 10 == 5 * (unsigned)role;
    if (strcmp(s, "either") == 0)
        return channel % 2 == (unsigned)role;
    return strcmp(s, role == SERVER ? "server" : "client") == 0;
}

/* --- those who manage them ------------------------------------------------------ */

static bool is_here(enum role role)
{
    return strcmp(option.side, "both") == 0 ||
           strcmp(option.side, role == SERVER ? "server" : "client") == 0;
}

static void give_birth(unsigned channel, enum role role)
{
    struct end *end = &world->ends[channel][role];
    uint64_t birth = ++world->births;
    int pid;

    end->dying = NONE;
    end->seen_at = now();
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        my_channel = channel;
        my_role = role;
        me = end;
        be_an_end(birth, is_survivor(channel, role));
    }
    if (pid < 0)
        complain("fork: %s", strerror(errno));
    end->pid = pid;
}

static bool ended_as_planned(enum death how, int status)
{
    switch (how) {
    case KILLED: return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    case FAULT: return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
    case ABORTED: return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
    case NONE: return false;
    default: return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
}

static void bury(int pid, int status)
{
    for (unsigned c = 0; c < option.channels; c++)
        for (enum role role = SERVER; role <= CLIENT; role++) {
            struct end *end = &world->ends[c][role];

            if (end->pid != pid)
                continue;
            end->pid = 0;
            if (end->dying == EXITED)
                world->lives[end->life % LIVES].died_at = now();
            my_channel = c;
            my_role = role;
            if (!world->over && !ended_as_planned((enum death)(int)end->dying, status))
                complain("ended (status %#x) where it planned %s", (unsigned)status,
                         end->dying ? death_names[end->dying] : "to live");
            end->born_at = now() + (int64_t)(mix(world->births) % (option.calm ? 500 : 3)) * MS;
        }
}

static void bury_all(void)
{
    int pid, status;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        bury(pid, status);
}

/* Of the channel, as far as we see it: who is in a large write does nothing that counts
 * while his peer reads it in many pieces, which may take long on a slow machine. */
static uint64_t beats(unsigned channel)
{
    return world->ends[channel][SERVER].beat + world->ends[channel][CLIENT].beat;
}

/* Has something happened at this end? */
static void watch(unsigned channel, enum role role)
{
    struct end *end = &world->ends[channel][role];
    uint64_t beat = beats(channel);

    if (!end->dying)
        end->dying_at = 0;
    else if (!end->dying_at)
        end->dying_at = now();
    if (beat != end->seen_beat) {
        end->seen_beat = beat;
        end->seen_at = now();
    }
    if (now() - end->seen_at < STUCK && (!end->dying_at || now() - end->dying_at < STUCK))
        return;
    my_channel = channel;
    my_role = role;
    complain("stuck: %s, %s", end->where ? end->where : "nowhere",
             end->dying ? death_names[end->dying] : "alive");
    end->dying_at = 0;
    end->seen_at = now();
    kill(end->pid, SIGKILL);
}

static uint64_t deaths(void)
{
    uint64_t sum = 0;

    for (int i = 1; i < DEATHS; i++)
        sum += world->deaths[i];
    return sum;
}

static void each_end(void (*call)(unsigned, enum role))
{
    for (unsigned c = 0; c < option.channels; c++)
        for (enum role role = SERVER; role <= CLIENT; role++)
            if (is_here(role))
                call(c, role);
}

static void tend(unsigned channel, enum role role)
{
    struct end *end = &world->ends[channel][role];

    if (end->pid > 0)
        watch(channel, role);
    else if (now() >= end->born_at)
        give_birth(channel, role);
}

static void end_mortal(unsigned channel, enum role role)
{
    struct end *end = &world->ends[channel][role];

    if (end->pid > 0 && !is_survivor(channel, role))
        kill(end->pid, SIGKILL);
}

static void end_any(unsigned channel, enum role role)
{
    struct end *end = &world->ends[channel][role];

    if (end->pid <= 0)
        return;
    my_channel = channel;
    my_role = role;
    complain("does not end: %s", end->where ? end->where : "nowhere");
    kill(end->pid, SIGKILL);
    waitpid(end->pid, NULL, 0);
}

static unsigned living(void)
{
    unsigned count = 0;

    for (unsigned c = 0; c < option.channels; c++)
        count += (world->ends[c][SERVER].pid > 0) + (world->ends[c][CLIENT].pid > 0);
    return count;
}

static void end_world(void)
{
    int64_t until = now() + LAST_MOMENTS;

    world->over = true;
    each_end(end_mortal);
    while (living() && now() < until) {
        bury_all();
        nap(MS);
    }
    each_end(end_any);
}

/* --- the report ---------------------------------------------------------------- */

static void say_progress(int64_t start)
{
    printf("%5lld s: %llu connections, %llu deaths, %llu MiB, latest notice after %lld ms, "
           "%llu failures\n", (long long)((now() - start) / SECOND),
           (unsigned long long)world->connections, (unsigned long long)deaths(),
           (unsigned long long)(world->bytes >> 20),
           (long long)(world->worst_notice / MS), (unsigned long long)world->failures);
    fflush(stdout);
}

static void say_counts(const char *what, const char *const *names, _Atomic uint64_t *counts,
                       int first, int count)
{
    printf(", \"%s\": {", what);
    for (int i = first; i < count; i++)
        printf("%s\"%s\": %llu", i > first ? ", " : "", names[i],
               (unsigned long long)counts[i]);
    printf("}");
}

static bool say_survivor(unsigned channel, enum role role, bool first)
{
    struct end *end = &world->ends[channel][role];

    if (!is_survivor(channel, role) || !is_here(role) || !end->before.threads)
        return false;
    printf("%s{\"channel\": %u, \"fds\": [%ld, %ld], \"threads\": [%ld, %ld], "
           "\"rings\": [%ld, %ld], \"kib\": [%ld, %ld]}", first ? "" : ", ", channel,
           end->before.fds, end->after.fds, end->before.threads, end->after.threads,
           end->before.rings, end->after.rings, end->before.kib, end->after.kib);
    return true;
}

static void report(int64_t start)
{
    bool first = true;

    printf("{\"seed\": %u, \"seconds\": %lld, \"connections\": %llu, \"compared\": %llu, \"bytes\": %llu, "
           "\"worst_notice_ms\": %lld, \"failures\": %llu",
           option.seed, (long long)((now() - start) / SECOND),
           (unsigned long long)world->connections,
           (unsigned long long)world->compared, (unsigned long long)world->bytes,
           (long long)(world->worst_notice / MS), (unsigned long long)world->failures);
    say_counts("deaths", death_names, world->deaths, 1, DEATHS);
    say_counts("kinds", kind_names, world->kinds, 0, KINDS);
    printf(", \"survivors\": [");
    for (unsigned c = 0; c < option.channels; c++)
        for (enum role role = SERVER; role <= CLIENT; role++)
            first = !say_survivor(c, role, first) && first;
    printf("]}\n");
    fflush(stdout);
}

static void manage(void)
{
    int64_t start = now(), until = start + option.seconds * SECOND, said = start;

    while (now() < until && (!option.deaths || deaths() < option.deaths)) {
        bury_all();
        each_end(tend);
        if (option.progress && now() - said >= option.progress * SECOND) {
            say_progress(start);
            said = now();
        }
        nap(MS);
    }
    end_world();
    report(start);
}

static void make_world(void)
{
    world_fd = memfd_create("mortal", 0);
    if (world_fd < 0 || ftruncate(world_fd, sizeof *world) < 0) {
        perror("memfd");
        exit(2);
    }
    world = mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_SHARED, world_fd, 0);
    if (world == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    world->seed = option.seed;
    world->id = mix(option.seed + (uint64_t)now() + (uint64_t)getpid());
}

int main(int argc, char **argv)
{
    const struct rlimit no_core = {0, 0};

    if (argc == 4 && strcmp(argv[1], "rest") == 0)
        return rest(argv);
    for (int i = 1; i < argc; i++)
        set_option(argv[i]);
    if (option.channels > MAX_CHANNELS)
        return 2;
    setrlimit(RLIMIT_CORE, &no_core);
    /* So that memory can be compared. */
    mallopt(M_ARENA_MAX, 1);
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    /* Servers that are late are no news. */
    setenv("VCHAN_VSOCK_LOG", "none", 0);
    setenv("VCHAN_VSOCK_LINGER_MS", "60000", 1);
    setenv("VCHAN_VSOCK_CONNECT_TIMEOUT_MS", "2000", 1);
    make_world();
    manage();
    return world->failures > 0;
}
