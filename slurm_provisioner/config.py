"""The configuration of a kernel: what a kernelspec's ``config`` may say, and where its values come from.

Site defaults lie under the kernelspec, the overrides of one start over it, and the site's limits hold for the
result. All that is wrong arrives as one `ConfigError`, which names the keys and where they were set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from . import fields
from .errors import ConfigError
from .limits import apply_limits
from .login_host import LoginHost
from .sources import DEFAULTS, KERNELSPEC, ONE_OF, PREFIX, Merged, explain, refusal, suggestion

__all__ = ["KERNELSPEC_ONLY", "SECTIONS", "Container", "KernelConfig", "overrides_from_env"]

#: The fields' groups, by the first field of each.
SECTIONS = {
    "partition": "Resources: what the job asks for",
    "login_shell": "Environment: what is set up in the job before the kernel starts",
    "python": "Run: how the kernel is started on the node",
    "start": "Policy: what to wait for, and how long",
    "ssh": "Place: where the cluster is, and things on it",
}

#: Seconds of the lease where nobody gave any, and where the server may be a laptop that sleeps.
LEASE, SSH_LEASE = 900.0, 7200.0


class Container(BaseModel):
    """A container in which the kernel runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: fields.Image = Field(description="The image: a path on the cluster, or a URI such as docker://python:3.12.")
    binds: tuple[fields.Bind, ...] = Field(
        default=(),
        description="Folders to see inside: `/data`, `/data:/inside` or `/data:/inside:ro`. The site's own binds "
        "(home, usually) and the kernel's private folder are there anyway. Default: none.",
    )
    runtime: Literal["apptainer", "singularity"] = Field(
        default="apptainer", description='The program: "apptainer" (default) or "singularity".'
    )
    args: fields.ContainerArgs = Field(
        default=(),
        description='More options of `apptainer exec`, such as ["--nv"] for NVIDIA GPUs. Default: none.',
    )


class KernelConfig(BaseModel):
    """The configuration of a kernel in a Slurm job.

    Build it from its sources with `KernelConfig.load`. A value that was never given is Slurm's default, not ours,
    unless the description says otherwise; null stands for the default too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Resources: what the job asks for

    partition: fields.Listed | None = Field(
        default=None,
        description="Partition to run in; of several, the one that starts the job first. Default: the cluster's. "
        "sbatch --partition.",
    )
    account: fields.Line | None = Field(
        default=None, description="Account to charge. Default: your default account. sbatch --account."
    )
    qos: fields.Line | None = Field(
        default=None, description="Quality of service. Default: your account's. sbatch --qos."
    )
    time: fields.Time | None = Field(
        default=None,
        description="How long the job may run: minutes (90), HH:MM:SS, D-HH:MM:SS, 4h, 1h30m, 2d or UNLIMITED. "
        "Default: the site's limit if there is one, else the partition's default. sbatch --time.",
    )
    nodes: fields.Nodes | None = Field(
        default=None,
        description='Number of nodes: 2, or "2-4" for two to four. The kernel runs on the first, the others are '
        "for your own srun. Default: as few as hold the tasks; 1 if the site limits it. sbatch --nodes.",
    )
    ntasks: fields.Count | None = Field(
        default=None,
        description="Number of tasks to make room for, for your own srun. Default: 1 a node. sbatch --ntasks.",
    )
    ntasks_per_node: fields.Count | None = Field(
        default=None, description="Number of tasks on each node. Default: none. sbatch --ntasks-per-node."
    )
    cpus_per_task: fields.Count | None = Field(
        default=None, description="CPUs of each task; with one task, of the kernel. Default: 1. sbatch --cpus-per-task."
    )
    mem: fields.Size | None = Field(
        default=None,
        description="Memory on each node: megabytes (16000), 512M, 16G or 1T; 0 is all of it. "
        "Default: the partition's. sbatch --mem.",
    )
    mem_per_cpu: fields.Size | None = Field(
        default=None,
        description="Memory for each CPU, instead of `mem`. Default: the partition's. sbatch --mem-per-cpu.",
    )
    gpus: fields.Gpus = Field(
        default=None,
        description='Number of GPUs of the whole job: 2, "a100:2" or "a100:1,v100:1". Default: none. sbatch --gpus.',
    )
    gres: fields.Listed | None = Field(
        default=None,
        description='Other generic resources on each node, such as "shard:2". Default: none. sbatch --gres.',
    )
    constraint: fields.Line | None = Field(
        default=None,
        description='Features the nodes must have, such as "intel&ib". Default: none. sbatch --constraint.',
    )
    reservation: fields.Line | None = Field(
        default=None, description="Reservation to run in. Default: none. sbatch --reservation."
    )
    nodelist: fields.Listed | None = Field(
        default=None, description='Nodes the job must have, such as "c[1-4]". Default: any. sbatch --nodelist.'
    )
    exclude: fields.Listed | None = Field(
        default=None, description="Nodes the job must not have. Default: none. sbatch --exclude."
    )
    exclusive: fields.Exclusive = Field(
        default=False,
        description='true: nobody else\'s job on the nodes; "user": only your own. Default: false. sbatch --exclusive.',
    )
    licenses: fields.Listed | None = Field(
        default=None, description='Licenses, such as "matlab:2". Default: none. sbatch --licenses.'
    )
    job_name: fields.JobName = Field(
        default="jupyter",
        description='Beginning of the job\'s name; a unique end is added. Default: "jupyter". sbatch --job-name.',
    )
    log: fields.LogPath | None = Field(
        default=None,
        description="File for what the job and the kernel print; Slurm's %-patterns such as %j are filled in. "
        "Its folder must exist on the node. A file that is there is appended to. "
        "Default: job.log in the kernel's folder under `state_dir`. sbatch --output.",
    )
    sbatch: fields.SbatchOptions = Field(
        default={},
        description='Any other long option of sbatch, such as {"mail-type": "END", "contiguous": true}: true is a '
        "flag, false or null leaves the option out, a list gives it once for each item. Default: none.",
    )

    # Environment: what is set up in the job before the kernel starts

    login_shell: fields.YesOrNo = Field(
        default=True,
        description="Whether the job's shell is a login shell, which reads /etc/profile and ~/.bash_profile; "
        "modules and conda are usually set up there. Default: true.",
    )
    modules: fields.Words = Field(
        default=(), description='Environment modules to load, such as ["gcc/12", "cuda"]. Default: none.'
    )
    conda_env: fields.CondaEnv | None = Field(
        default=None,
        description="Conda environment to activate, by name or folder (~ and $NAME are expanded in the job); "
        "conda, mamba or micromamba is found in the usual places. Default: none.",
    )
    venv: fields.ShellPath | None = Field(
        default=None,
        description="Folder of a Python virtual environment to activate (~ and $NAME are expanded in the job). "
        "Default: none.",
    )
    container: Annotated[Container, BeforeValidator(fields.container)] | None = Field(
        default=None,
        description="Container for the kernel: an image, or {image, binds, runtime, args}. Modules, conda and "
        "prologue are set up outside of it. Default: none.",
    )
    prologue: fields.OwnLines = Field(
        default=(),
        description="Own lines of bash, run last. The first that fails ends the job; end a line with `|| true` "
        "where a failure does not matter. They stand in the batch script, which Slurm keeps: nothing secret. "
        "Default: none.",
    )
    env: fields.Env = Field(
        default={},
        description="Variables for the kernel; $NAME in a value is taken from the job's environment. They travel "
        "in a private file, not in the script. Default: none.",
    )
    env_pass: fields.EnvNames = Field(
        default=(),
        description="Names of variables that the kernel takes over from the Jupyter server's environment; nothing "
        "else is taken over. Default: none.",
    )

    # Run: how the kernel is started on the node

    python: fields.Command = Field(
        default="python3",
        description="Python (3.6 or newer) on the node that runs the supervisor, looked for after the environment "
        "is set up. The kernel's own Python is the kernelspec's `argv`. Default: \"python3\".",
    )
    work_dir: fields.Path | None = Field(
        default=None,
        description="Folder on the cluster in which the kernel starts. Default: the notebook's folder if the node "
        "has it, else your home.",
    )
    srun: fields.StepOptions = Field(
        default=None,
        description="true: run the kernel as a job step; a list: with these options of srun too, such as "
        '["--cpu-bind=none"]. The step shares the job with your own srun. Default: false.',
    )
    address: fields.Address | None = Field(
        default=None,
        description="Address to listen at and to be reached by. It is the same for every node: `interface` is "
        "nearly always the better one. Default: found by the node.",
    )
    interface: fields.Interface | None = Field(
        default=None,
        description='Network interface of the nodes that the server reaches, such as "ib0". '
        "Default: found by the node.",
    )
    port_range: fields.Ports | None = Field(
        default=None,
        description='Ports a node may be reached on, such as "50000-50100", for sites with a firewall. '
        "Default: any free port.",
    )
    kernel_transport: Literal["ipc", "tcp"] = Field(
        default="ipc",
        description='How the kernel talks to the supervisor on its node: "ipc", private sockets; or "tcp", for '
        "kernels that know nothing else. With tcp, other users of the same node can connect to the kernel's ports, "
        'read its outputs and watch it run. Default: "ipc".',
    )

    # Policy: what to wait for, and how long

    start: Literal["now", "block"] = Field(
        default="now",
        description='When a start is done: "now", as soon as Slurm has taken the job, so that a notebook opens at once '
        'and its cells wait for the kernel; or "block", once the kernel is up, with an error if that fails. '
        'Default: "now".',
    )

    queue_timeout: fields.Duration | None = Field(
        default=None,
        description="How long the job may wait in the queue before it is cancelled: seconds (600), 90s, 10m, 2h, 1d "
        "or HH:MM:SS. Default: as long as it takes.",
    )
    start_timeout: fields.Duration = Field(
        default=300.0,
        description="How long the kernel may take to answer once the job runs. Default: 5m.",
    )
    warn_before_end: fields.WarningTime = Field(
        default=300.0,
        description="How long before the job's time is over a warning is given; 0 for none. At most half of `time` "
        "is used. Default: 5m. sbatch --signal.",
    )
    lease: fields.Duration = Field(
        default=LEASE,
        description="How long a kernel lives without hearing from its Jupyter server, which was killed, lost its "
        "network or is asleep, before it and the job end; a server that merely died takes its jobs along at once. "
        "Default: 15m; 2h with `ssh`, which is for machines that sleep.",
    )
    persistent: fields.YesOrNo = Field(
        default=False,
        description="Whether the kernel runs on without its Jupyter server, until its time is over, for another "
        "process to take over; `lease` is not used then. Default: false.",
    )
    crash_grace: fields.Duration = Field(
        default=60.0,
        description="How long a job is kept after its kernel died, so that a restart needs no new job. Default: 1m.",
    )

    # Place: where the cluster is, and things on it

    ssh: Annotated[LoginHost, BeforeValidator(fields.login_host)] | None = Field(
        default=None,
        description="Login host of the cluster, where this machine is none: its name, or a mapping of `host` and more, "
        "such as `user`, `transport` or `via`. ~/.ssh/config is honoured. Default: none; Slurm's commands are run on "
        "this machine.",
    )
    state_dir: fields.Path = Field(
        default="~/.slurm_provisioner",
        description="Folder for the kernels' files, on a file system that login and compute nodes share; ~ is your "
        'home on the cluster. Default: "~/.slurm_provisioner".',
    )
    clusters: fields.Cluster | None = Field(
        default=None,
        description="Cluster to submit to, where there are several. Default: the login node's own. sbatch -M.",
    )
    slurm_bin: fields.Path | None = Field(
        default=None, description="Folder of Slurm's commands, if they are not on the PATH. Default: the PATH."
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise refusal(explain(error, _NAMES, {})) from error

    @model_validator(mode="after")
    def _check_together(self) -> KernelConfig:
        both = [f"`{a}` and `{b}`" for a, b in ONE_OF if getattr(self, a) and getattr(self, b)]
        if both:
            raise ValueError("\n".join(f"{pair} cannot be set together" for pair in both))
        if self.ssh is not None and "lease" not in self.model_fields_set:
            object.__setattr__(self, "lease", SSH_LEASE)  # a default that depends on another field
        return self

    @classmethod
    def load(
        cls,
        kernelspec_config: Mapping[str, object],
        *,
        defaults: Mapping[str, object] | None = None,
        overrides: Mapping[str, object] | None = None,
        limits: Mapping[str, object] | None = None,
    ) -> KernelConfig:
        """Return the configuration of one start.

        Parameters
        ----------
        kernelspec_config : mapping
            The ``config`` of the kernelspec's ``kernel_provisioner``.
        defaults : mapping, optional
            The site's values for what the kernelspec leaves open.
        overrides : mapping, optional
            Values for this start only, from `overrides_from_env`.
        limits : mapping, optional
            What the site allows, see `slurm_provisioner.limits`.

        Raises
        ------
        ConfigError
            If a key or value cannot be used.
        LimitError
            If a value is above what the site allows.
        """
        merged = Merged()
        merged.add(DEFAULTS, defaults or {})
        merged.add(KERNELSPEC, kernelspec_config)
        merged.add(PREFIX, overrides or {})
        try:
            config = cls(**merged.values)
        except ConfigError as error:
            cause = cast(ValidationError, error.__cause__)
            raise refusal(merged.problems + explain(cause, _NAMES, merged.origins)) from cause
        if merged.problems:
            raise refusal(merged.problems)
        return apply_limits(config, limits or {}, merged.origins)


_NAMES = {"": [*KernelConfig.model_fields], "container": [*Container.model_fields], "ssh": [*LoginHost.model_fields]}

#: What the environment of a start cannot change: where and under whose control the supervisor runs is up to the
#: kernelspec and the site. `env_pass` would hand out the server's variables, tokens and all.
KERNELSPEC_ONLY = (
    *("container", "prologue", "env_pass", "python", "srun", "address", "interface", "port_range"),
    *("kernel_transport", "ssh", "state_dir", "clusters", "slurm_bin"),
)

#: What JSON may stand for in a variable; for every other field the text is taken as it is.
_JSON_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("login_shell", "persistent", "exclusive"), (bool,)),
    **dict.fromkeys(("start_timeout", "warn_before_end", "lease", "crash_grace"), (int, float)),
    "queue_timeout": (int, float, type(None)),
    **dict.fromkeys(("modules", "partition", "nodelist", "exclude", "licenses", "gres"), (list,)),
    **dict.fromkeys(("sbatch", "env"), (dict,)),
}


def overrides_from_env(env: Mapping[str, str]) -> dict[str, object]:
    """Return the overrides in ``KERNEL_SLURM_<FIELD>`` variables.

    A text is taken as it is. Fields that are not texts are read as JSON (``true``, ``600``, ``{"comment": "x"}``);
    a list may also be given with commas. An empty variable counts as not set.

    Raises
    ------
    ConfigError
        If a variable names no field, or one that the kernelspec alone decides.
    """
    overrides: dict[str, object] = {}
    problems = []
    for variable, text in sorted(env.items()):
        if not variable.startswith(PREFIX) or not text:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in KERNELSPEC_ONLY:
            problems.append(f"{variable}: `{name}` can be set in the kernelspec and the site's defaults only")
        elif name in KernelConfig.model_fields:
            overrides[name] = _from_text(name, text)
        else:
            allowed = [field for field in KernelConfig.model_fields if field not in KERNELSPEC_ONLY]
            problems.append(f"{variable}: there is no such field{suggestion(name, allowed)}")
    if problems:
        raise refusal(problems, "Correct the environment given to start_kernel.")
    return overrides


def _from_text(name: str, text: str) -> object:
    kinds = _JSON_KINDS.get(name, ())
    try:
        value = json.loads(text.lower() if bool in kinds else text)
    except ValueError:
        return text
    return value if isinstance(value, kinds) else text
