/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * echo CLIENT PORT: serves one client, sends back what it sends, and ends with it.
 * The session that docs/simple.md shows.
 */
#include <stdlib.h>

#include "libvchan.h"

int main(int argc, char **argv)
{
    libvchan_t *chan;
    char data[4096];
    int n;

    if (argc != 3)
        return 2;
    chan = libvchan_server_init(atoi(argv[1]), atoi(argv[2]), sizeof data, sizeof data);
    if (!chan)
        return 1;
    while ((n = libvchan_read(chan, data, sizeof data)) > 0)
        if (libvchan_write(chan, data, (size_t)n) != n)
            break;
    libvchan_close(chan);
    return 0;
}
