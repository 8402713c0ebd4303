"""For all tests: what the cluster logged while one of them failed."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import suppress

import pytest
from hands import ask
from hypothesis import HealthCheck, settings

# How long an example takes tells of the machine's other work, not of what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

#: When a test began, in seconds since the epoch.
BEGAN = pytest.StashKey[float]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    began = item.stash.setdefault(BEGAN, call.start)
    hands = os.environ.get("SLURM_TEST_HANDS")
    if report.failed and hands:
        with suppress(AssertionError, OSError):  # what failed is told in any case
            report.sections.append(("what hosts and daemons logged", ask(hands, "logs", began)))
    return report
