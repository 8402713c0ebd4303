"""What jupyter_server's kernel manager is told of a kernel whose job ended; test_server.py has the whole of it."""

from __future__ import annotations

import pytest
from tornado.web import HTTPError
from traitlets import HasTraits, Unicode

from slurm_provisioner import succession
from slurm_provisioner.errors import JobEndedError
from slurm_provisioner.succession import ServedKernel

ENDED = JobEndedError("Job 7 ended: it was cancelled.", job_id="7", state="CANCELLED")


class Manager(HasTraits):
    kernel_id = "k"
    execution_state = Unicode("idle")
    reason = Unicode()
    polled = True

    def stop_restarter(self) -> None:
        self.polled = False


class OtherManager(HasTraits):
    """Of nbclient, say: jupyter_client's own."""


@pytest.mark.parametrize("manager", [None, OtherManager()])
def test_without_jupyter_server_a_kernel_is_just_dead(manager):
    kernel = ServedKernel(manager)
    assert not kernel.is_successor()
    kernel.failed(ENDED)
    assert not kernel.lack
    kernel.started()
    kernel.stopping()


def test_a_dead_kernel_refuses_until_it_is_restarted(monkeypatch):
    manager = Manager()
    monkeypatch.setattr(ServedKernel, "_execution_state_changed", lambda self, change: None)
    kernel = ServedKernel(manager)
    kernel.failed(ENDED)
    assert manager.execution_state == "idle"
    with pytest.raises(HTTPError, match="it was cancelled"):
        kernel.refuse()
    assert (manager.execution_state, manager.reason) == ("dead", str(ENDED))
    kernel.stopping()
    assert not kernel.lack
    kernel.started()
    assert (manager.execution_state, manager.reason) == ("starting", "")


def test_a_successor_is_not_dead_to_those_who_know(monkeypatch):
    manager = Manager()
    monkeypatch.setattr(ServedKernel, "_execution_state_changed", lambda self, change: None)
    monkeypatch.setitem(succession._successors, "k", str(ENDED))
    kernel = ServedKernel(manager)
    assert kernel.is_successor()
    kernel.wait()
    assert not kernel.is_successor()
    assert not manager.polled
    with pytest.raises(HTTPError):
        kernel.refuse()
    assert (manager.execution_state, manager.reason) == ("idle", str(ENDED))

    monkeypatch.setattr(kernel, "_quiet_until", 0)
    with pytest.raises(HTTPError):
        kernel.refuse()
    assert manager.execution_state == "dead"
