"""Every Python of this machine, and jobs on it that leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from supervisors import Credentials, Job


def find_pythons() -> dict[tuple[int, ...], str]:
    """Every version from 3.6 on, oldest first; asyncio's TLS differs even between patch releases."""
    places = [
        sys.executable,
        *Path.home().glob(".pyenv/versions/*/bin/python3"),
        *Path("/usr/bin").glob("python3*"),
        *Path("/usr/local/bin").glob("python3*"),
        *filter(None, (shutil.which(f"python3.{minor}") for minor in range(6, 16))),
    ]
    found: dict[tuple[int, ...], str] = {}
    for place in map(str, places):
        ask = [place, "-c", "import sys, ssl; print(*sys.version_info[:3])"]
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):  # a python3-config, say
            answer = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=False)
            version = tuple(map(int, answer.stdout.split()))
            if version >= (3, 6):
                found.setdefault(version, place)
    return dict(sorted(found.items()))


PYTHONS = find_pythons()
# The oldest, the newest and our own run everything, the others the tests marked `every_python`.
THOROUGH = [version for version in PYTHONS if version in (min(PYTHONS), max(PYTHONS), sys.version_info[:3])]
if os.environ.get("LAUNCHER_TESTS") == "all":
    THOROUGH = list(PYTHONS)


def names(versions) -> list[str]:
    return [".".join(map(str, version)) for version in versions]


def pytest_configure(config):
    config.addinivalue_line("markers", "every_python: run the supervisor on every Python found, not only on some")


def pytest_report_header(config):
    every, thorough = ", ".join(names(PYTHONS)), ", ".join(names(THOROUGH))
    return f"launcher: on Python {every}; all of its tests on {thorough} (LAUNCHER_TESTS=all: on each)"


def pytest_generate_tests(metafunc):
    if "python" in metafunc.fixturenames:
        versions = list(PYTHONS) if metafunc.definition.get_closest_marker("every_python") else THOROUGH
        metafunc.parametrize("python", [PYTHONS[v] for v in versions], ids=names(versions), scope="session")


@pytest.fixture(scope="session")
def credentials(tmp_path_factory):
    """By name: `node` is the supervisor's, `server` its peer's; the others are strangers to it."""
    folder = tmp_path_factory.mktemp("credentials")
    made = {name: Credentials.make(folder, name) for name in ("node", "server", "stranger")}
    made["signed-by-server"] = Credentials.make(folder, "signed", signer=made["server"])
    return made


@pytest.fixture
def make_job(python, credentials):
    """Make a job, and see that nothing of it is left after the test."""
    jobs = []

    def make(**changes) -> Job:
        jobs.append(Job(python, credentials, **changes))
        return jobs[-1]

    yield make
    for job in jobs:
        job.finish()


@pytest.fixture
def job(make_job):
    """A job that runs with the fake kernel."""
    return make_job().start()
