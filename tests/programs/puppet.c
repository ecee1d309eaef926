/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program that does what it is told: one command per line, one answer per
 * line.  Tests drive it where a thread in their own process would not do:
 * when a program exits, dies, forks, changes its user, runs out of fds, or
 * runs in a guest.
 *
 * Commands come on stdin and answers go to stdout.  An answer is
 * "VALUE ERRNO [HEX]".  `commands` below lists the commands; tests/puppet.py
 * wraps them.  A command without arguments gets a NULL.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "libvchan.h"

#define MAX_ARGS 8
#define MAX_SLOTS 64

struct slot {
    libvchan_t *chan;
    int watch_fd;
    int raw; /* a plain socket, or -1 */
    size_t written, read; /* position in the pattern */
};

static struct slot slots[MAX_SLOTS];
/* A command that runs `beside` others has its own. */
static __thread struct slot *slot = slots;
static __thread FILE *out;
static int in;
static volatile size_t flooded; /* bytes of the writes that have returned */
static int report_fd = -1;

/* --- answers ------------------------------------------------------------ */

static void answer_bytes(int value, const unsigned char *data, size_t size)
{
    int saved = errno;

    fprintf(out, "%d %d ", value, value == -1 ? saved : 0);
    for (size_t i = 0; i < size; i++)
        fprintf(out, "%02x", data[i]);
    fputc('\n', out);
    fflush(out);
}

static void answer(int value)
{
    answer_bytes(value, NULL, 0);
}

static unsigned char *allocate(size_t size)
{
    unsigned char *data = malloc(size ? size : 1);

    if (!data)
        abort();
    return data;
}

static unsigned char *from_hex(const char *hex, size_t *size)
{
    unsigned char *data;

    *size = hex ? strlen(hex) / 2 : 0;
    data = allocate(*size);
    for (size_t i = 0; i < *size; i++)
        sscanf(hex + 2 * i, "%2hhx", &data[i]);
    return data;
}

static unsigned char pattern(size_t position)
{
    position &= 0xffff;
    return (unsigned char)(position * 131 + (position >> 8) * 7);
}

/* --- while there is no command --------------------------------------------- */

/* With the flavour of the library that has no thread, somebody has to work for the
 * handles while the puppet has nothing to do: it sleeps on their fds, as a program
 * does, and makes a call when one is readable.  Edge-triggered, as only the test says
 * when to libvchan_wait. */
#ifdef SIMPLE
static int attended = -1; /* an epoll fd */

static void attend(int fd)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u32 = (uint32_t)(slot - slots)};

    if (fd >= 0)
        epoll_ctl(attended, EPOLL_CTL_ADD, fd, &ev);
}

static void attend_nobody(void)
{
    if (attended >= 0)
        close(attended);
    attended = epoll_create1(EPOLL_CLOEXEC);
}

static void await_command(void)
{
    struct pollfd fds[2] = {{.fd = in, .events = POLLIN}, {.fd = attended, .events = POLLIN}};
    struct epoll_event ev;

    while (poll(fds, 2, -1) < 0 || !fds[0].revents)
        if (epoll_wait(attended, &ev, 1, 0) == 1 && slots[ev.data.u32].chan)
            libvchan_is_open(slots[ev.data.u32].chan);
}
#else
static void attend(int fd)
{
    (void)fd;
}

static void attend_nobody(void)
{
}

static void await_command(void)
{
}
#endif

/* --- opening -------------------------------------------------------------- */

static void opened(libvchan_t *chan, int fd)
{
    int saved = errno;

    slot->chan = chan;
    slot->written = slot->read = 0;
    if (chan)
        attend(fd);
    errno = saved;
    answer(chan ? 0 : -1);
}

/* Its fd, where it has to be attended to. */
static int fd_of(libvchan_t *chan)
{
#ifdef SIMPLE
    return chan ? libvchan_fd_for_select(chan) : -1;
#else
    (void)chan;
    return -1;
#endif
}

static void do_server(char **arg)
{
    libvchan_t *chan = libvchan_server_init(atoi(arg[0]), atoi(arg[1]),
                                            strtoul(arg[2], NULL, 0),
                                            strtoul(arg[3], NULL, 0));

    opened(chan, fd_of(chan));
}

static void do_client(char **arg)
{
    libvchan_t *chan = libvchan_client_init(atoi(arg[0]), atoi(arg[1]));

    opened(chan, fd_of(chan));
}

static void do_async(char **arg)
{
    libvchan_t *chan = libvchan_client_init_async(atoi(arg[0]), atoi(arg[1]),
                                                  &slot->watch_fd);

    opened(chan, slot->watch_fd);
}

static void do_finish(char **arg)
{
    answer(libvchan_client_init_async_finish(slot->chan, atoi(arg[0])));
}

static long milliseconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int poll_one(int fd, int milliseconds)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN | POLLPRI | POLLRDHUP};
    long until = milliseconds_now() + milliseconds, left = milliseconds;
    int n;

    while ((n = poll(&pfd, 1, (int)left)) < 0 && errno == EINTR)
        if (milliseconds >= 0)
            left = until > milliseconds_now() ? until - milliseconds_now() : 0;
    return n > 0 ? pfd.revents : n;
}

static void do_poll_watch(char **arg)
{
    answer(poll_one(slot->watch_fd, atoi(arg[0])));
}

static void do_close(char **arg)
{
    (void)arg;
    libvchan_close(slot->chan);
    slot->chan = NULL;
    answer(0);
}

/* --- moving bytes --------------------------------------------------------- */

typedef int writer(libvchan_t *, const void *, size_t);
typedef int reader(libvchan_t *, void *, size_t);

static void put(writer *call, const char *hex)
{
    size_t size;
    unsigned char *data = from_hex(hex, &size);

    answer(call(slot->chan, data, size));
    free(data);
}

static void get(reader *call, size_t size)
{
    unsigned char *data = allocate(size);
    int count = call(slot->chan, data, size);

    answer_bytes(count, data, count > 0 ? (size_t)count : 0);
    free(data);
}

static void do_write(char **arg)
{
    put(libvchan_write, arg[0]);
}

static void do_send(char **arg)
{
    put(libvchan_send, arg[0]);
}

static void do_read(char **arg)
{
    get(libvchan_read, strtoul(arg[0], NULL, 0));
}

static void do_recv(char **arg)
{
    get(libvchan_recv, strtoul(arg[0], NULL, 0));
}

/* One message of the pattern; what libvchan_write returned.  In one buffer for good: a
 * handler that closes at exit must not find this program's allocator locked. */
static int pour_one(size_t size)
{
    static unsigned char *data;
    static size_t room;
    int count;

    if (size > room) {
        free(data);
        data = allocate(size);
        room = size;
    }

    for (size_t i = 0; i < size; i++)
        data[i] = pattern(slot->written + i);
    count = libvchan_write(slot->chan, data, size);
    if (count > 0)
        slot->written += (size_t)count;
    return count;
}

/* pour TOTAL CHUNK: that much of the pattern, in messages of CHUNK bytes. */
static void do_pour(char **arg)
{
    size_t total = strtoul(arg[0], NULL, 0), chunk = strtoul(arg[1], NULL, 0);
    size_t done = 0;

    while (done < total) {
        int count = pour_one(total - done < chunk ? total - done : chunk);

        if (count < 0) {
            answer(-1);
            return;
        }
        done += (size_t)count;
    }
    answer((int)done);
}

static int matches(const unsigned char *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (data[i] != pattern(slot->read + i))
            return 0;
    return 1;
}

/* drain TOTAL: read that much of the pattern; EBADMSG when it is not that. */
static void do_drain(char **arg)
{
    size_t total = strtoul(arg[0], NULL, 0), done = 0;
    unsigned char data[65536];

    while (done < total) {
        size_t want = total - done < sizeof data ? total - done : sizeof data;
        int count = libvchan_read(slot->chan, data, want);

        if (count >= 0 && !matches(data, (size_t)count)) {
            errno = EBADMSG;
            count = -1;
        }
        if (count < 0) {
            answer(-1);
            return;
        }
        slot->read += (size_t)count;
        done += (size_t)count;
    }
    answer((int)done);
}

/* flood CHUNK: the pattern, until the channel or the program ends. */
static void do_flood(char **arg)
{
    size_t chunk = strtoul(arg[0], NULL, 0);
    int count;

    while ((count = pour_one(chunk)) >= 0)
        flooded += (size_t)count;
    answer(-1);
}

/* swallow: read until the channel ends; how many bytes came (-1 if wrong). */
static void do_swallow(char **arg)
{
    unsigned char data[65536];
    int count, wrong = 0;

    (void)arg;
    while ((count = libvchan_read(slot->chan, data, sizeof data)) > 0) {
        wrong |= !matches(data, (size_t)count);
        slot->read += (size_t)count;
    }
    answer(wrong ? -1 : (int)slot->read);
}

/* --- asking --------------------------------------------------------------- */

static void do_wait(char **arg)
{
    (void)arg;
    answer(libvchan_wait(slot->chan));
}

static void do_fd(char **arg)
{
    (void)arg;
    answer(libvchan_fd_for_select(slot->chan));
}

static void do_open(char **arg)
{
    (void)arg;
    answer(libvchan_is_open(slot->chan));
}

static void do_ready(char **arg)
{
    (void)arg;
    answer(libvchan_data_ready(slot->chan));
}

static void do_space(char **arg)
{
    (void)arg;
    answer(libvchan_buffer_space(slot->chan));
}

static void do_blocking(char **arg)
{
    libvchan_set_blocking(slot->chan, atoi(arg[0]));
    answer(0);
}

static void do_poll(char **arg)
{
    answer(poll_one(libvchan_fd_for_select(slot->chan), atoi(arg[0])));
}

/* until-gone MS: sleep on the fd until is_open is 0; -1: it did not tell for so long. */
static void do_until_gone(char **arg)
{
    int tick = atoi(arg[0]);

    while (libvchan_is_open(slot->chan) != VCHAN_DISCONNECTED) {
        if (poll_one(libvchan_fd_for_select(slot->chan), tick) == 0) {
            errno = ETIME;
            answer(-1);
            return;
        }
        libvchan_wait(slot->chan);
    }
    answer(VCHAN_DISCONNECTED);
}

/* --- the process ---------------------------------------------------------- */

static void do_use(char **arg)
{
    slot = &slots[atoi(arg[0]) % MAX_SLOTS];
    answer(0);
}

static void do_env(char **arg)
{
    answer(setenv(arg[0], arg[1] ? arg[1] : "", 1));
}

static void do_unenv(char **arg)
{
    answer(unsetenv(arg[0]));
}

static void do_exit(char **arg)
{
    exit(atoi(arg[0]));
}

static void do_exit_now(char **arg)
{
    _exit(atoi(arg[0]));
}

static void do_kill(char **arg)
{
    answer(kill(getpid(), atoi(arg[0])));
}

static void do_pid(char **arg)
{
    (void)arg;
    answer(getpid());
}

static void say_and_exit(int signal_number)
{
    char line[64];
    int size = snprintf(line, sizeof line, "%zu 0 \n", (size_t)flooded);

    (void)signal_number;
    /* Nothing that allocates: the signal may have come in malloc. */
    if (write(report_fd, line, (size_t)size) != size)
        _exit(3);
    exit(0);
}

/* exit-on SIGNAL: from its handler, tell how much was flooded, and exit(). */
static void do_exit_on(char **arg)
{
    struct sigaction action = {.sa_handler = say_and_exit};

    report_fd = fileno(out);
    answer(sigaction(atoi(arg[0]), &action, NULL));
}

static void ignore(int signal_number)
{
    (void)signal_number;
}

/* pester USEC: a signal every so often, its handler installed to interrupt. */
static void do_pester(char **arg)
{
    struct itimerval timer = {.it_interval.tv_usec = atoi(arg[0]),
                              .it_value.tv_usec = atoi(arg[0])};
    struct sigaction action = {.sa_handler = ignore};

    sigaction(SIGALRM, &action, NULL);
    answer(setitimer(ITIMER_REAL, &timer, NULL));
}

static void close_at_exit(void)
{
    for (int i = 0; i < MAX_SLOTS; i++)
        libvchan_close(slots[i].chan);
}

static void do_close_at_exit(char **arg)
{
    (void)arg;
    answer(atexit(close_at_exit));
}

/* Is this machine there to be switched off?  A guest of the lab says so. */
static int is_a_labs_guest(void)
{
    char line[1024] = "";
    FILE *file = fopen("/proc/cmdline", "r");

    if (file) {
        if (!fgets(line, sizeof line, file))
            line[0] = '\0';
        fclose(file);
    }
    return strstr(line, "lab.role=guest") != NULL;
}

/* Switches the machine off, at once, whatever is going on. */
static void do_machine_off(char **arg)
{
    (void)arg;
    errno = EPERM;
    if (is_a_labs_guest())
        reboot(RB_POWER_OFF);
    answer(-1);
}

static void do_setuid(char **arg)
{
    answer(setuid((uid_t)atoi(arg[0])));
}

static int count_entries(const char *path)
{
    DIR *directory = opendir(path);
    int count = 0;

    if (!directory)
        return -1;
    while (readdir(directory))
        count++;
    closedir(directory);
    return count - 2;
}

static void do_count_fds(char **arg)
{
    (void)arg;
    answer(count_entries("/proc/self/fd") - 1);
}

static void do_count_threads(char **arg)
{
    (void)arg;
    answer(count_entries("/proc/self/task"));
}

static void do_count_rings(char **arg)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int count = 0;

    (void)arg;
    while (maps && fgets(line, sizeof line, maps))
        count += strstr(line, "/dev/zero") || strstr(line, "memfd:vchan-ring");
    if (maps)
        fclose(maps);
    answer(count);
}

static void limit(int resource, rlim_t value)
{
    struct rlimit old;

    getrlimit((unsigned)resource, &old);
    old.rlim_cur = value < old.rlim_max ? value : old.rlim_max;
    answer(setrlimit((unsigned)resource, &old));
}

/* spare-fds N: from now on only N more fds can be opened. */
static void do_spare_fds(char **arg)
{
    int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);

    /* The fds below the lowest free one are all taken; fill no holes. */
    close(lowest);
    limit(RLIMIT_NOFILE, (rlim_t)lowest + (rlim_t)atoi(arg[0]));
}

static void do_all_fds(char **arg)
{
    (void)arg;
    limit(RLIMIT_NOFILE, RLIM_INFINITY);
}

static void do_limit_processes(char **arg)
{
    limit(RLIMIT_NPROC, (rlim_t)atoi(arg[0]));
}

static void do_all_processes(char **arg)
{
    (void)arg;
    limit(RLIMIT_NPROC, RLIM_INFINITY);
}

/* --- plain vsock sockets ---------------------------------------------------- */

static int vsock_socket(void)
{
    return socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static struct sockaddr_vm vsock_address(const char *cid, const char *port)
{
    return (struct sockaddr_vm){
        .svm_family = AF_VSOCK,
        .svm_cid = (unsigned)strtoul(cid, NULL, 0),
        .svm_port = (unsigned)strtoul(port, NULL, 0),
    };
}

static int vsock_connect(const char *cid, const char *port)
{
    struct sockaddr_vm to = vsock_address(cid, port);
    int fd = vsock_socket();

    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
        int saved = errno;

        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/* raw-connect CID PORT */
static void do_raw_connect(char **arg)
{
    slot->raw = vsock_connect(arg[0], arg[1]);
    answer(slot->raw);
}

/* raw-listen PORT, raw-accept */
static void do_raw_listen(char **arg)
{
    struct sockaddr_vm any = vsock_address("0xffffffff", arg[0]);

    slot->raw = vsock_socket();
    if (bind(slot->raw, (struct sockaddr *)&any, sizeof any) < 0)
        answer(-1);
    else
        answer(listen(slot->raw, 5));
}

static void do_raw_accept(char **arg)
{
    int fd;

    (void)arg;
    while ((fd = accept(slot->raw, NULL, NULL)) < 0 && errno == EINTR)
        ;
    close(slot->raw);
    slot->raw = fd;
    answer(fd);
}

static void do_raw_send(char **arg)
{
    size_t size;
    unsigned char *data = from_hex(arg[0], &size);

    answer((int)send(slot->raw, data, size, MSG_NOSIGNAL));
    free(data);
}

static void do_raw_recv(char **arg)
{
    size_t size = strtoul(arg[0], NULL, 0);
    unsigned char *data = allocate(size);
    int count;

    while ((count = (int)recv(slot->raw, data, size, MSG_WAITALL)) < 0 && errno == EINTR)
        ;
    answer_bytes(count, data, count > 0 ? (size_t)count : 0);
    free(data);
}

static void do_raw_close(char **arg)
{
    (void)arg;
    answer(close(slot->raw));
}

static void do_cid(char **arg)
{
    unsigned cid = 0;
    int fd = open("/dev/vsock", O_RDONLY | O_CLOEXEC);

    (void)arg;
    if (ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0)
        answer(-1);
    else
        answer((int)cid);
    close(fd);
}

/* --- where commands come from ----------------------------------------------- */

/* What has come, and how much of it was taken: not stdio's, which does not tell. */
static char *lines;
static size_t line_room, line_size, line_used;

static int read_more(void)
{
    ssize_t count;

    memmove(lines, lines + line_used, line_size - line_used);
    line_size -= line_used;
    line_used = 0;
    if (line_size + 65536 > line_room) {
        line_room += 65536;
        lines = realloc(lines, line_room);
        if (!lines)
            abort();
    }
    do {
        await_command();
        count = read(in, lines + line_size, line_room - line_size);
    } while (count < 0 && errno == EINTR);
    if (count > 0)
        line_size += (size_t)count;
    return count > 0;
}

/* The next command, or NULL at the end. */
static char *next_line(void)
{
    char *start, *end;

    do {
        start = lines + line_used;
        end = line_size > line_used ? memchr(start, '\n', line_size - line_used) : NULL;
    } while (!end && read_more());
    if (!end)
        return NULL;
    *end = 0;
    line_used = (size_t)(end + 1 - lines);
    return start;
}

static int unix_connect(const char *path)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
    return connect(fd, (struct sockaddr *)&to, sizeof to) < 0 ? -1 : fd;
}

static void attach(const char *path)
{
    int fd = unix_connect(path);

    if (fd < 0) {
        perror(path);
        exit(2);
    }
    in = fd;
    line_size = line_used = 0;
    attend_nobody();
    out = fdopen(fcntl(fd, F_DUPFD_CLOEXEC, 0), "w");
}

/* fork PATH: the child takes its commands from a Unix socket there. */
static void do_fork(char **arg)
{
    pid_t pid = fork();

    if (pid == 0)
        attach(arg[0]);
    else
        answer(pid);
}

/* exec PROGRAM [ARGUMENT] */
static void do_exec(char **arg)
{
    execl(arg[0], arg[0], arg[1], (char *)NULL);
    answer(-1);
}

/* --- a command in a thread -------------------------------------------------- */

static struct {
    pthread_t thread;
    struct slot *slot;
    char line[256];
    char *said;
    size_t size;
} beside;

static void obey(char *line);

static void *obey_beside(void *unused)
{
    (void)unused;
    slot = beside.slot;
    out = open_memstream(&beside.said, &beside.size);
    obey(beside.line);
    fclose(out);
    return NULL;
}

/* beside COMMAND...: `join` gives its answer. */
static void do_beside(char **arg)
{
    beside.slot = slot;
    beside.line[0] = '\0';
    for (; *arg; arg++) {
        strncat(beside.line, *arg, sizeof beside.line - strlen(beside.line) - 2);
        strcat(beside.line, " ");
    }
    errno = pthread_create(&beside.thread, NULL, obey_beside, NULL);
    answer(errno ? -1 : 0);
}

static void do_join(char **arg)
{
    (void)arg;
    pthread_join(beside.thread, NULL);
    fputs(beside.said, out);
    fflush(out);
    free(beside.said);
}

/* reap PID: wait for a child; its exit status, or 256 and its signal. */
static void do_reap(char **arg)
{
    int status = 0, pid;

    while ((pid = waitpid(atoi(arg[0]), &status, 0)) < 0 && errno == EINTR)
        ;
    if (pid < 0)
        answer(-1);
    else if (WIFEXITED(status))
        answer(WEXITSTATUS(status));
    else
        answer(256 + WTERMSIG(status));
}

static const struct {
    const char *name;
    void (*run)(char **arg);
} commands[] = {
    {"server", do_server},
    {"client", do_client},
    {"async", do_async},
    {"finish", do_finish},
    {"poll-watch", do_poll_watch},
    {"close", do_close},
    {"write", do_write},
    {"send", do_send},
    {"read", do_read},
    {"recv", do_recv},
    {"pour", do_pour},
    {"drain", do_drain},
    {"flood", do_flood},
    {"swallow", do_swallow},
    {"wait", do_wait},
    {"fd", do_fd},
    {"open", do_open},
    {"ready", do_ready},
    {"space", do_space},
    {"blocking", do_blocking},
    {"poll", do_poll},
    {"until-gone", do_until_gone},
    {"use", do_use},
    {"env", do_env},
    {"unenv", do_unenv},
    {"exit", do_exit},
    {"exit-now", do_exit_now},
    {"kill", do_kill},
    {"pid", do_pid},
    {"exit-on", do_exit_on},
    {"pester", do_pester},
    {"close-at-exit", do_close_at_exit},
    {"machine-off", do_machine_off},
    {"setuid", do_setuid},
    {"count-fds", do_count_fds},
    {"count-threads", do_count_threads},
    {"count-rings", do_count_rings},
    {"spare-fds", do_spare_fds},
    {"all-fds", do_all_fds},
    {"limit-processes", do_limit_processes},
    {"all-processes", do_all_processes},
    {"raw-connect", do_raw_connect},
    {"raw-listen", do_raw_listen},
    {"raw-accept", do_raw_accept},
    {"raw-send", do_raw_send},
    {"raw-recv", do_raw_recv},
    {"raw-close", do_raw_close},
    {"cid", do_cid},
    {"fork", do_fork},
    {"exec", do_exec},
    {"beside", do_beside},
    {"join", do_join},
    {"reap", do_reap},
};

static void obey(char *line)
{
    char *arg[MAX_ARGS + 1] = {NULL};
    char *save = NULL, *name = strtok_r(line, " \n", &save);

    if (!name)
        return;
    for (int i = 0; i < MAX_ARGS; i++)
        if (!(arg[i] = strtok_r(NULL, " \n", &save)))
            break;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(commands[i].name, name) == 0) {
            commands[i].run(arg);
            return;
        }
    errno = ENOSYS;
    answer(-1);
}

int main(void)
{
    char *line;

    in = 0;
    out = stdout;
    attend_nobody();
    while ((line = next_line()))
        obey(line);
    free(lines);
    return 0;
}
