"""One JupyterLab and one Chromium for all stories; each story has an empty browser, and kernels of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import eventually
from playwright.sync_api import BrowserContext, expect, sync_playwright
from servers import Server, running_server

from .jobs import FullPartition
from .pages import Lab

CHROMIUM = "chromium"
#: So that Chromium draws without a GPU, and talks to nobody but JupyterLab.
FLAGS = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
#: So that nothing but the story is on the screen, and no notebook is saved but by it.
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "docmanager-extension/plugin": {"autosave": False},
}
LAB_OPTIONS = [
    "--ServerApp.open_browser=False", "--LanguageServerManager.autodetect=False", "--LabApp.extension_manager=readonly",
    "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
]  # fmt: skip
#: Milliseconds to wait for what is to be seen: Slurm takes seconds, and is asked every few seconds.
PATIENCE = 60_000
#: Where pictures of the stories go; by default they are among the tests' temporary files.
SCREENSHOTS = "SLURM_TEST_SCREENSHOTS"
#: How processes of the browser and of JupyterLab look.
PROCESS = re.compile(r"playwright_chromiumdev_profile|playwright/driver|-m jupyterlab ")


def processes() -> set[str]:
    """Those of this user that the suite starts but the stories do not."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if path.stat().st_uid == os.getuid() and PROCESS.search(command):
                found.add(f"{path.name} {command}")
    return found


@pytest.fixture(scope="session")
def nobody_left() -> Iterator[None]:
    before = processes()
    yield
    eventually(lambda: processes() <= before, "the end of browser and server")


@pytest.fixture(scope="session")
def chromium(nobody_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    path = shutil.which(CHROMIUM)
    assert path, "These tests need Chromium (Debian: apt-get install chromium)."
    home = str(tmp_path_factory.mktemp("chromium"))
    own = {"HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home, "XDG_DATA_HOME": home}
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS, env={**os.environ, **own})
        context = browser.new_context(viewport={"width": 1200, "height": 800})
        context.set_default_timeout(PATIENCE)
        yield context
        browser.close()


@dataclass(frozen=True)
class Served:
    """JupyterLab's server, and its folders."""

    server: Server
    home: Path
    notebooks: Path


@pytest.fixture(scope="session")
def served(nobody_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("jupyter")
    notebooks = home / "notebooks"
    notebooks.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(home / name.lower()))
        patch.delenv("JUPYTER_PATH", raising=False)
        for name, settings in SETTINGS.items():
            path = home / f"jupyter_config_dir/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(settings))
        with running_server(home, *LAB_OPTIONS, app="jupyterlab", root=notebooks) as server:
            yield Served(server, home, notebooks)


@pytest.fixture
def jupyter_home(served: Served) -> Iterator[Path]:
    """The set-up of the one JupyterLab, with no kernelspec but those of this test."""
    home = served.home / "jupyter_data_dir"
    yield home
    shutil.rmtree(home / "kernels", ignore_errors=True)


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if SCREENSHOTS in os.environ:
        return Path(os.environ[SCREENSHOTS])
    return tmp_path_factory.mktemp("screenshots")


failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[failed] = item.stash.get(failed, False) or report.failed
    return report


@pytest.fixture
def lab(
    chromium: BrowserContext,
    served: Served,
    screenshots: Path,
    jupyter_home: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Lab]:
    story = re.sub(r"\W+", "-", request.node.name.removeprefix("test_").replace("_", "-")).strip("-")
    lab = Lab(chromium, served.server, served.notebooks, screenshots / story)
    logged = len(served.server.log.read_text())
    yield lab
    if request.node.stash[failed]:
        lab.screenshot("FAILED")
        print(served.server.log.read_text()[logged:])
    lab.close()
    shutil.rmtree(served.notebooks)
    served.notebooks.mkdir()


@pytest.fixture
def full_partition() -> Iterator[FullPartition]:
    full = FullPartition()
    yield full
    full.leave()
