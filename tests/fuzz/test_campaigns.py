"""A few seconds of every campaign, always with the same seed; `make fuzz` takes longer and another one."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import CAMPAIGNS
from tests.fuzz.campaign import Campaign, run

SEED = 20_260_101
MIN_INPUTS = 10


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda one: one.name)
def test_nothing_breaks(campaign: Campaign) -> None:
    report = run(campaign, SEED, campaign.ci_s)
    assert not report.findings, "\n".join(report.findings.values())
    assert report.inputs >= MIN_INPUTS
