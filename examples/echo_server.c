/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* echo_server CLIENT PORT: sends back what its client sends, until that one leaves. */
#include <libvchan.h>

#include "number.h"

int main(int argc, char **argv)
{
	libvchan_t *vchan;
	char data[4096];
	int size;

	if (argc != 3)
		return 2;
	vchan = libvchan_server_init(number(argv[1]), number(argv[2]), 4096, 4096);
	if (!vchan)
		return 1; /* the library has said why, on stderr */
	while ((size = libvchan_read(vchan, data, sizeof(data))) > 0)
		if (libvchan_write(vchan, data, (size_t)size) != size)
			break; /* it has gone without waiting for the answer */
	libvchan_close(vchan);
	return 0;
}
