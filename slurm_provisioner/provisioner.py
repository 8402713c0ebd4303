"""`SlurmProvisioner`: the one place that knows jupyter_client's contract; its calls become calls of a `KernelJob`.

What the contract asks beyond its docstrings (read in jupyter_client 8, `manager.py` and `restarter.py`):

- `poll` and `send_signal` are called at any time, ten times a second during a shutdown: answered from memory,
  never raising.
- Only `cleanup` and `shutdown_requested` carry a restart flag that can be trusted, so `kill` ends the kernel
  process and only ``cleanup(restart=False)`` gives the job back.
- A launch that raises gets no further call, so it cleans up after itself. jupyter_server shows the error of a first
  one, and never gets over that of a later one, so later ones do not raise: clients are told.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Dict

from .errors import ConfigError
from .loop import background_loop, computed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_client.connect import KernelConnectionInfo

    from .allocation import Allocation
    from .config import KernelConfig
    from .job import KernelJob
    from .request import KernelCommand

__all__ = ["SlurmProvisioner"]

#: Seconds that an orderly shutdown needs at least: the message, the kernel's exit, and the news of it from another
#: node.
SHUTDOWN_WAIT = 10.0
#: Variables of the server that a kernel gets unasked: the notebook's name, which ipykernel shows as ``__session__``.
_ALWAYS_PASSED = ("JPY_SESSION_NAME",)


class SlurmProvisioner(KernelProvisionerBase):
    """Runs a kernel in a Slurm job.

    The kernelspec says what to ask for in ``metadata.kernel_provisioner.config``, see
    `slurm_provisioner.config.KernelConfig`. A site adds `defaults` and `limits`.
    """

    defaults = Dict(
        help="""Site-wide values for fields that a kernelspec leaves out, by name of the field in the kernelspec's
        `config`, such as ``{"partition": "interactive", "time": "2:00:00"}``.""",
    ).tag(config=True)

    limits = Dict(
        help="""What a kernelspec may ask for at most, by name of the field: a number, time or size is a maximum, a
        list holds the allowed values, false forbids. Such as ``{"time": "8:00:00", "gpus": 2, "partition":
        ["debug", "gpu"]}``.""",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        # The kernelspec's config arrives as keywords, and some of its names (`log`) are traits of ours: it is read in
        # `pre_launch`, from the kernelspec.
        own = {name: kwargs[name] for name in ("kernel_id", "kernel_spec", "parent") if name in kwargs}
        super().__init__(**own)
        self._job: KernelJob | None = None
        self._config: KernelConfig | None = None
        self._running = False
        self._user_asked = False
        self._found_dead = False
        self._command: KernelCommand | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._cwd: str | None = None

    @property
    def job_config(self) -> KernelConfig:
        """What the next job asks for; there once `pre_launch` has read it. For subclasses."""
        assert self._config is not None, "pre_launch comes first"
        return self._config

    @property
    def job_id(self) -> str | None:
        """Slurm's id of the job, if there is one."""
        return self._job.job_id if self._job is not None else None

    @property
    def allocation(self) -> Allocation | None:
        """What is known of the job: its record, its run directory; None where there was none yet. Not to be changed."""
        return self._job.allocation if self._job is not None else None

    # -------------------------------------------------------------------- launch

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Read and check what to ask Slurm for.

        Raises
        ------
        ConfigError
            The kernelspec's config, an override or a site setting cannot be used.
        """
        kwargs.pop("transport_encryption", None)  # the link is encrypted, and endpoints are private
        argv = [*self.kernel_spec.argv, *kwargs.pop("extra_arguments", [])]
        given_env = dict(kwargs.get("env") or os.environ)
        # many starts at once, and what the first one imports, are not to hold up the server's loop
        self._config, command = await computed(self._read, argv, given_env, kwargs.get("cwd"))
        self._command = command
        return await super().pre_launch(cmd=command.argv, **kwargs)

    def _read(self, argv: list[str], env: dict[str, str], cwd: Any) -> tuple[KernelConfig, KernelCommand]:
        # Imported with the first kernel: listing kernelspecs must not pay for pydantic.
        from . import job  # noqa: F401, PLC0415
        from .config import KernelConfig, overrides_from_env  # noqa: PLC0415

        config = KernelConfig.load(
            self._stanza(), defaults=self.defaults, overrides=overrides_from_env(env), limits=self.limits
        )
        return config, self._kernel_command(argv, env, cwd, config)

    def _stanza(self) -> dict[str, Any]:
        stanza = self.kernel_spec.metadata.get("kernel_provisioner", {})
        if "provisioner_name" not in stanza:  # we are the site's default provisioner
            return {}
        return cast("dict[str, Any]", stanza.get("config", {}))

    def _kernel_command(self, argv: list[str], env: dict[str, str], cwd: Any, config: KernelConfig) -> KernelCommand:
        from .request import KernelCommand  # noqa: PLC0415

        places = {"{prefix}": sys.prefix, "{resource_dir}": str(self.kernel_spec.resource_dir)}
        for place, value in places.items():
            argv = [part.replace(place, value) for part in argv]
        passed = {name: env[name] for name in (*_ALWAYS_PASSED, *config.env_pass) if name in env}
        own_environment = (config.modules, config.conda_env, config.venv, config.container, config.prologue)
        other_world = config.ssh is not None  # what is at the same place there is another Python
        self._cwd = str(cwd) if cwd else None
        session = self.parent.session if self.parent is not None else None
        return KernelCommand(
            argv=argv,
            env={**passed, **self.kernel_spec.env, **config.env},
            cwd=config.work_dir or self._cwd,
            python=None if other_world or any(own_environment) else sys.executable,
            session={
                "key": session.key.decode() if session else "",
                "signature_scheme": session.signature_scheme if session else "hmac-sha256",
                "kernel_name": getattr(self.parent, "kernel_name", ""),
                "jupyter_session": env.get("JPY_SESSION_NAME", ""),
            },
            display_name=str(self.kernel_spec.display_name),
        )

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:  # noqa: ARG002
        """Start the kernel, in its job if it has one, else in a new job; return where clients connect.

        They are heard from then on. With ``start: block`` it returns once the kernel is up.

        Raises
        ------
        SlurmProvisionerError
            The first launch came to nothing; nothing is left of it in the queue.
        """
        assert self._command is not None
        command = replace(self._command, argv=list(cmd))  # a subclass may have changed it
        try:
            endpoints = await background_loop().run(self._launch(command), undo=self._let_go)
        except asyncio.CancelledError:
            self._let_go()  # the launch may have ended well a moment ago, with nobody left to take it
            raise
        self._running = True
        names = ("key", "signature_scheme", "kernel_name")
        self._connect({**endpoints, **{name: command.session[name] for name in names}})
        return self.connection_info

    def _connect(self, info: dict[str, Any]) -> None:
        if isinstance(info.get("key"), str):
            info["key"] = info["key"].encode()
        self.connection_info = cast("KernelConnectionInfo", info)

    async def _launch(self, command: KernelCommand) -> dict[str, Any]:
        asked, self._user_asked = self._user_asked, False
        # what Jupyter does of itself, because `poll` said so, it does also if the job has ended a moment later
        found_dead, self._found_dead = self._found_dead, False
        new_job = asked or not found_dead
        config, job = self.job_config, self._own_job(command.session)
        first = job.allocation is None
        try:
            return await job.launch(config, command, new_job=new_job)
        except BaseException:
            if first:
                self._let_go()
                await job.give_back()
            raise

    async def _adopt(self, info: dict[str, Any]) -> dict[str, Any]:
        if not {"key", "signature_scheme"} <= self.connection_info.keys():
            raise ConfigError("This does not identify the session of a kernel: its `connection_info` has no key.")
        return await self._own_job(self.connection_info).adopt(self.job_config, info)

    def _own_job(self, session: Mapping[str, Any]) -> KernelJob:
        """Return the job behind this kernel, which is given back in any case; there may be none in the queue yet."""
        from .herald import KernelIdentity  # noqa: PLC0415
        from .job import KernelJob  # noqa: PLC0415

        if self._job is None:
            loop, config = background_loop(), self.job_config
            key = session["key"] if isinstance(session["key"], bytes) else session["key"].encode()
            scheme, spec = str(session["signature_scheme"]), self.kernel_spec.to_dict()
            kernel = KernelIdentity(self.kernel_id or "", key, scheme, spec)
            self._job = KernelJob(config, kernel, cast("logging.Logger", self.log))
            loop.at_exit(self._job, self._job.leave if config.persistent else self._job.give_back)
            # jupyter_client drops a kernel whose last start failed without a call of `cleanup`
            self._finalizer = weakref.finalize(self, _give_back, self._job)
            self._finalizer.atexit = False
        return self._job

    # --------------------------------------------------------------------- life

    @property
    def has_process(self) -> bool:
        """Whether a kernel was launched and its end was not yet waited for."""
        return self._running

    async def poll(self) -> int | None:
        """Return None while clients get answers, be it of the stand-in, else the kernel's exit code."""
        if self._job is None or not self._running:
            return 0
        code = self._job.exit_code
        if not self._job.stopping:
            self._found_dead = code is not None
        return code

    async def wait_until_up(self) -> None:
        """Wait until the kernel of the last start is up, which may have to wait for its job.

        Raises
        ------
        SlurmProvisionerError
            There is no kernel, and why.
        """
        if self._job is not None:
            await background_loop().run(self._job.wait_until_up())

    async def wait(self) -> int | None:
        """Wait for the end of the kernel process and return its exit code."""
        code = 0
        if self._job is not None and self._running:
            known = self._job.exit_code
            code = known if known is not None else await background_loop().run(self._job.wait())
        self._running = False
        return code

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group."""
        if self._job is None or not self._running or self._job.exit_code is not None:
            return
        try:
            await background_loop().run(self._job.signal(signum))
        except Exception:  # jupyter_client would not go on with a shutdown
            self.log.exception("Signal %d could not be sent", signum)

    async def kill(self, restart: bool = False) -> None:  # noqa: ARG002  (the flag cannot be trusted, see above)
        """End the kernel process; the job stays."""
        if self._job is not None:
            self._job.expect_exit()
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:  # noqa: ARG002
        """Ask the kernel process to end; the job stays."""
        await self.send_signal(signal.SIGTERM)

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Note that the kernel's end is wanted; only a user's own restart comes this way with ``restart=True``."""
        self._user_asked = restart
        if self._job is not None:
            self._job.expect_exit()

    async def cleanup(self, restart: bool = False) -> None:
        """Give the job back, unless a restart is coming."""
        if restart or self._job is None:
            return
        job = self._job
        self._running = False
        self._let_go()
        if not job.closed:
            await background_loop().run(job.give_back())

    def _let_go(self) -> None:
        """Have nothing more to do with the job, which is given back in any case."""
        job, self._job = self._job, None
        if job is not None and self._finalizer is not None:
            self._finalizer()

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        """Allow for the way to another node and back."""
        return max(recommended, SHUTDOWN_WAIT)

    def resolve_path(self, path: str) -> str | None:
        """Return a path relative to the kernel's working directory, where that is seen from here."""
        resolved = Path(self._cwd or "") / Path(path).expanduser()
        return str(resolved.resolve()) if resolved.exists() else None

    # --------------------------------------------------------------- persistence

    async def get_provisioner_info(self) -> dict[str, Any]:
        """Return what another process needs to take the kernel over, fit for JSON. It holds secrets, as keys."""
        info = await super().get_provisioner_info()
        connection = dict(self.connection_info)
        if isinstance(connection.get("key"), bytes):
            connection["key"] = cast("bytes", connection["key"]).decode()
        info["connection_info"] = connection
        info["job_id"] = self.job_id
        info["job"] = self._job.info() if self._job is not None else None
        info["config"] = self._config.model_dump(mode="json") if self._config is not None else None
        return info

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Take over the kernel that another process described with `get_provisioner_info`.

        `connection_info` says where clients reach it from now on.

        Raises
        ------
        ConfigError
            That is no such description.
        """
        from .config import KernelConfig  # noqa: PLC0415

        await super().load_provisioner_info(provisioner_info)
        self._connect(dict(self.connection_info))
        job = provisioner_info.get("job")
        if job is None:
            return
        self._config = KernelConfig(**provisioner_info.get("config", {}))
        try:
            endpoints = await background_loop().run(self._adopt(job), undo=self._let_go)
        except BaseException:
            self._let_go()
            raise
        self._running = True
        self._connect({**self.connection_info, **endpoints})


def _give_back(job: KernelJob) -> None:
    """Have a job given back by whoever is left: the background loop."""
    loop = background_loop()
    loop.forget(job)
    if not job.closed:
        loop.submit(job.give_back())
