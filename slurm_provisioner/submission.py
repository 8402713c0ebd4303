"""What is handed to sbatch for one launch: names, paths, the request and the batch script. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib import resources

from . import batch
from .about import About
from .config import KernelConfig
from .request import KernelCommand, Launch, launch_request
from .transport import Account

__all__ = ["Submission", "prepare"]


@dataclass(frozen=True)
class Submission:
    """A job to be submitted.

    Attributes
    ----------
    job_name : str
        Its unique name.
    run_dir : str
        The run directory on the cluster.
    log_directory : str
        The folder of its log, "" if only Slurm can tell.
    request : str
        The supervisor's request, one line of JSON.
    about : str
        What the kernel is, for people, one line of JSON.
    script : str
        The batch script.
    """

    job_name: str
    run_dir: str
    log_directory: str
    request: str = field(repr=False)
    about: str = field(repr=False)
    script: str = field(repr=False)
    _config: KernelConfig = field(repr=False)
    _account: Account = field(repr=False)

    @property
    def user(self) -> str:
        """Who submits it."""
        return self._account.user

    def log_path(self, job_id: str) -> str:
        """Return the path of the job's log, once it has an id; "" if only the node can tell."""
        pattern = batch.log_pattern(self._config, self.run_dir, self._account.home)
        return batch.log_path(pattern, job_id=job_id, job_name=self.job_name, user=self._account.user) or ""


def prepare(
    config: KernelConfig, command: KernelCommand, account: Account, launch: Launch, *, delay: int = 0
) -> Submission:
    """Return what to submit.

    Parameters
    ----------
    config : KernelConfig
        What to ask Slurm for.
    command : KernelCommand
        What to run.
    account : Account
        Who submits.
    launch : Launch
        What belongs to this job alone.
    delay : int
        Seconds until Slurm may start it.
    """
    home = account.home
    run_dir = f"{batch.expand_home(config.state_dir, home)}/{launch.kernel_id}"
    job_name = f"{config.job_name}-{launch.kernel_id[:8]}-{launch.nonce[:6]}"
    about = About(
        kernel_id=launch.kernel_id,
        job_name=job_name,
        kernelspec=command.session.get("kernel_name", ""),
        display_name=command.display_name,
        notebook=command.session.get("jupyter_session", ""),
        server=launch.server,
        submitted=launch.submitted,
        lease=None if config.persistent else config.lease,
        clusters=config.clusters or "",
        user=account.user,
        log=batch.log_pattern(config, run_dir, home),
    )
    launcher = resources.files(__package__).joinpath("launcher.py").read_text(encoding="utf-8")
    return Submission(
        job_name=job_name,
        run_dir=run_dir,
        log_directory=batch.log_directory(config, run_dir=run_dir, home=home) or "",
        request=json.dumps(launch_request(config, command, launch, home=home)),
        about=about.to_line(),
        script=batch.render(config, job_name=job_name, run_dir=run_dir, home=home, launcher=launcher, delay=delay),
        _config=config,
        _account=account,
    )
