# SPDX-License-Identifier: LGPL-2.1-or-later
"""The soak test (soak/run), for a short while; VCHAN_TEST_LONG=1: ten minutes."""
import pytest

import soaking
import vchan

SECONDS = 600 if soaking.LONG else vchan.scaled(20)


@pytest.mark.deadline(SECONDS + soaking.STUCK + 180)
def test_soak():
    """1.3: 50 channels, mixed traffic, deaths and rebirths: nothing is lost, nothing left."""
    reports, wrong = soaking.soak(SECONDS)
    print(soaking.summary(reports))
    assert not wrong
    assert reports[0]["connections"] > 0
