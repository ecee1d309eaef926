# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command on a host and in its guest: domains are as in tests/guest."""
from guest.conftest import in_guest, port, real_domains  # noqa: F401 (fixtures)
