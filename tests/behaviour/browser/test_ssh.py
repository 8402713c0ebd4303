"""What a notebook shows whose kernel is reached by SSH."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from conftest import queue, queue_empties
from login_host import Login
from playwright.sync_api import expect


@pytest.fixture
def hpc(tmp_path) -> Iterator[Login]:
    login = Login(tmp_path / "login")
    yield login
    login.sshd.stop()


def test_a_login_host_that_nobody_knows(lab, kernelspec, hpc):
    hpc.laptop.known_hosts.write_text("")
    notebook = lab.open_notebook(kernelspec(**hpc.stanza("asyncssh")))
    for words in ["Error Starting Kernel", "its host key is in no known_hosts file", "SHA256:", "hpc true"]:
        expect(notebook.dialog).to_contain_text(words)
    notebook.screenshot("unknown host")
    assert queue() == []
    notebook.press("Ok")


@pytest.mark.parametrize("transport", ["asyncssh", "openssh"])
def test_a_connection_that_is_lost_and_comes_back(lab, kernelspec, hpc, transport):
    notebook = lab.open_notebook(kernelspec(**hpc.stanza(transport)))
    notebook.connected()
    assert len(queue()) == 1
    cell = notebook.run("import time\nfor i in range(60): print(i, end=' ', flush=True); time.sleep(0.2)")
    expect(cell.outputs).to_contain_text(["0 1 2"])
    hpc.sshd.stop()
    line = cell.outputs.nth(1)
    expect(line).to_have_text(re.compile(r"^Job \d+ · no connection to c\d since .* · the kernel may run on$"))
    notebook.screenshot("lost")
    hpc.sshd.start()
    expect(line).to_have_text(re.compile(r"no connection to c\d from .* to "), timeout=60_000)
    expect(cell.outputs.last).to_contain_text("59", timeout=60_000)
    printed = " ".join(each.inner_text() for each in (cell.outputs.first, cell.outputs.last)).split()
    assert printed == [str(number) for number in range(60)]
    notebook.screenshot("back")
    notebook.shut_down()
    queue_empties()
