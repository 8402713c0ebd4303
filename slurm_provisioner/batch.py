"""The batch script of a kernel's job: what a careful user would have written by hand.

Pure: it turns a configuration into text. All quoting is here, for sbatch's ``#SBATCH`` lines in `sbatch_line`, for the
shell in `shell_path` and `shlex.quote`. Nothing secret is in the script: Slurm keeps it, and administrators read it.

Sources: sbatch(1), ``get_argument`` in Slurm's src/sbatch/opt.c, bash(1).
"""

from __future__ import annotations

import re
import shlex

from .config import Container, KernelConfig
from .errors import ConfigError
from .fields import VARIABLE
from .quantities import seconds_allowed

__all__ = [
    "PROGRESS",
    "SETUP_FAILED",
    "expand_home",
    "kernel_wrapper",
    "log_directory",
    "log_glob",
    "log_path",
    "log_pattern",
    "render",
    "sbatch_line",
    "warning_seconds",
    "without_supervisor",
]

#: Exit code of the batch script when a step of the environment failed; its last line on stderr says which.
SETUP_FAILED = 110

#: The file of the run directory to which the script writes each step, for those who wait: the log may be anywhere.
PROGRESS = "progress"

#: Ends the supervisor's text in the script.
TERMINATOR = "SLURM_PROVISIONER_LAUNCHER"

_OPTIONS = (
    *("partition", "account", "qos", "reservation", "time", "nodes", "ntasks", "ntasks_per_node", "cpus_per_task"),
    *("mem", "mem_per_cpu", "gpus", "gres", "constraint", "nodelist", "exclude", "exclusive", "licenses"),
)

#: The kernel's step: one task on the batch host, which is the allocation's node 0. It takes nothing away from the
#: user's own srun: it overlaps, reserves no memory, and hands on the job's number of nodes and tasks, not its own.
_STEP = ("--overlap", "--nodes=1", "--ntasks=1", "--relative=0", "--mem=0", "--preserve-env")


def render(config: KernelConfig, *, job_name: str, run_dir: str, home: str, launcher: str, delay: int = 0) -> str:
    """Return the batch script.

    Parameters
    ----------
    config : KernelConfig
        The kernel's configuration.
    job_name : str
        The job's unique name.
    run_dir : str
        The run directory on the cluster, an absolute path.
    home : str
        The user's home directory on the cluster, an absolute path.
    launcher : str
        The text of the supervisor.
    delay : int
        Seconds until Slurm may start the job.
    """
    if TERMINATOR in launcher.splitlines():
        raise ValueError(f"the supervisor's text has a line {TERMINATOR}")
    if not launcher.endswith("\n"):
        launcher += "\n"
    shebang = "#!/bin/bash -l" if config.login_shell else "#!/bin/bash"
    # -I: neither a module's PYTHON* variables nor a random.py at home get between the supervisor and its library.
    supervisor = f"{shell_path(config.python)} -I - {shlex.quote(run_dir)}"
    progress = shlex.quote(f"{run_dir}/{PROGRESS}")
    last_step = f"echo 'starting the supervisor' >> {progress}"
    steps = _environment(config)
    parts = [
        "\n".join([shebang, *_directives(config, job_name, run_dir, home, delay)]),
        _SIGNALS,
        *([_SAY.format(progress=progress), _FAIL, *steps] if steps else []),
        f"{_SUPERVISOR}\n{last_step}\nexec {supervisor} <<'{TERMINATOR}'\n{launcher}{TERMINATOR}\n",
    ]
    return "\n\n".join(parts)


def without_supervisor(script: str) -> str:
    """Return a batch script for people to read: without the supervisor's text, which is the same in all of them."""
    begin, end = script.index(f"<<'{TERMINATOR}'\n"), script.rindex(f"\n{TERMINATOR}\n")
    return f"{script[:begin]}<<'{TERMINATOR}'\n…{script[end:]}"


def kernel_wrapper(config: KernelConfig, *, home: str) -> tuple[list[str], bool]:
    """Return the command in front of the kernel's own, and whether the kernel is the supervisor's own child.

    The supervisor fills in ``{connection_dir}``, the folder of the kernel's sockets, which a container must see.
    """
    wrapper: list[str] = []
    if config.srun is not None:
        srun = f"{expand_home(config.slurm_bin, home)}/srun" if config.slurm_bin else "srun"
        wrapper += [srun, *_STEP, *config.srun]
    if config.container is not None:
        wrapper += _container(config.container, home)
    return wrapper, not wrapper


def sbatch_line(option: str, value: str | int | None = None) -> str:
    """Return the ``#SBATCH`` line of a long option; without a value it is a flag.

    In sbatch's lines a space ends a word, ``#`` begins a comment, quotes of both kinds group, and a backslash takes
    the next character as it is, within quotes of both kinds too.
    """
    text = "" if value is None else f"={_sbatch_word(str(value))}"
    line = f"#SBATCH --{option}{text}"
    if not line.isprintable():
        raise ConfigError(f"The value of --{option} has a character that cannot be printed: {value!r}")
    return line


def shell_path(path: str) -> str:
    """Return a path for the shell, which expands ``~`` in front, ``$NAME`` and ``${NAME}``, and nothing else."""
    tilde, rest = ("~/", path[2:]) if path.startswith("~/") else ("", path)
    if path == "~":
        return path
    parts = re.split(f"({VARIABLE})", rest)
    if len(parts) == 1:
        return tilde + (shlex.quote(rest) if rest else "")
    quoted = [part if number % 2 else re.sub(r'([\\"`$])', r"\\\1", part) for number, part in enumerate(parts)]
    return f'{tilde}"{"".join(quoted)}"'


def expand_home(path: str, home: str) -> str:
    """Return a path of a configuration with a ``~`` in front replaced by the home directory on the cluster."""
    return home + path[1:] if path == "~" or path.startswith("~/") else path


def warning_seconds(config: KernelConfig) -> int:
    """Return how many seconds before its end the job is warned: never more than half its time; 0 for no warning."""
    return int(min(config.warn_before_end, seconds_allowed(config.time) / 2))


# The log


def log_path(pattern: str, *, job_id: str, job_name: str, user: str) -> str | None:
    """Return the path of a job's log; None if it holds patterns that only the node can fill in.

    Parameters
    ----------
    pattern : str
        What `log_pattern` returned.
    job_id, job_name, user : str
        Id, name and owner of the job; the id may be "" where it is not known.
    """
    parts = _filled(pattern, job_id, job_name, user)
    return None if None in parts else "".join(filter(None, parts))


def log_glob(pattern: str, *, job_id: str, job_name: str, user: str) -> str:
    """Return a pattern of the shell for a job's log, quoted but for what only the node could fill in."""
    return "".join("*" if part is None else shlex.quote(part) for part in _filled(pattern, job_id, job_name, user))


def _filled(pattern: str, job_id: str, job_name: str, user: str) -> list[str | None]:
    """Return the parts of a log's path, None for what is not known."""
    known = {"x": job_name, "u": user, "%": "%", **({"j": job_id, "A": job_id} if job_id else {})}
    parts: list[str | None] = []
    for text, width, letter in re.findall("([^%]*)(?:%([0-9]*)(.))?", pattern):
        filling = known.get(letter) if letter else ""
        if filling is not None and letter in ("j", "A"):
            filling = filling.zfill(int(width or 0))
        parts += [each for each in (text, filling) if each != ""]
    return parts


def log_directory(config: KernelConfig, *, run_dir: str, home: str) -> str | None:
    """Return the folder of the job's log; None if its name depends on the job.

    A job whose log cannot be opened dies without a trace, so the folder is to be made before the job is submitted.
    """
    folder = log_pattern(config, run_dir, home).rpartition("/")[0].replace("%%", "\0")
    return None if "%" in folder else folder.replace("\0", "%") or "/"


def log_pattern(config: KernelConfig, run_dir: str, home: str) -> str:
    """Return where a job's log is, with sbatch's %-patterns."""
    if config.log is None:
        return f"{_plain(run_dir)}/job.log"
    return _plain(home) + config.log[1:] if config.log.startswith("~/") else config.log


def _plain(path: str) -> str:
    """Return a path in which Slurm finds no pattern."""
    if "\\" in path:
        raise ConfigError(f"Slurm cannot write a log to a path with a backslash: {path!r}", hint="Set `log`.")
    return path.replace("%", "%%")


# The parts of the script


def _directives(config: KernelConfig, job_name: str, run_dir: str, home: str, delay: int) -> list[str]:
    lines = [
        sbatch_line("job-name", job_name),
        sbatch_line("chdir", home),
        sbatch_line("output", log_pattern(config, run_dir, home)),
        sbatch_line("open-mode", "append" if config.log else "truncate"),
        sbatch_line("no-requeue"),
    ]
    if seconds := warning_seconds(config):
        lines.append(sbatch_line("signal", f"B:USR1@{seconds}"))
    options: dict[str, object] = {name.replace("_", "-"): getattr(config, name) for name in _OPTIONS}
    # The free options come last: one that lacks its value would take the next line for it.
    for option, value in [*options.items(), *config.sbatch.items()]:
        if value is True:
            lines.append(sbatch_line(option))
        elif isinstance(value, tuple):
            lines += [sbatch_line(option, item) for item in value]
        elif value is not None and value is not False:
            lines.append(sbatch_line(option, str(value)))
    if delay:
        lines.append(sbatch_line("begin", f"now+{delay}"))
    return lines


def _environment(config: KernelConfig) -> list[str]:
    """Return the steps that set up the environment; each says what it does, and ends the job if it fails."""
    steps = []
    if config.modules:
        say = _say(f"loading modules {' '.join(config.modules)}")
        steps.append(_MODULES.format(say=say, names=" ".join(map(shlex.quote, config.modules))))
    if config.conda_env:
        say = _say(f"activating the conda environment {config.conda_env}")
        steps.append(_CONDA.format(say=say, env=shell_path(config.conda_env)))
    if config.venv:
        say = _say(f"activating the virtual environment {config.venv}")
        steps.append(_VENV.format(say=say, script=shell_path(f"{config.venv.rstrip('/')}/bin/activate")))
    if any(re.match(r"\s*[^#\s]", line) for line in config.prologue):
        steps.append(_PROLOGUE.format(say=_say("running the prologue"), lines="\n".join(config.prologue)))
    return steps


def _say(text: str) -> str:
    return f"say {shlex.quote(text)}"


_SIGNALS = """\
# Signals are for the supervisor; until it is there, nobody takes them.
trap '' INT QUIT USR1 USR2"""

_SUPERVISOR = "# The supervisor takes the place of this script: it starts the kernel and answers for it."

_SAY = """\
# What comes next: for the log, and for those who wait
say() {{
    echo "slurm-provisioner: $*"
    echo "$*" >> {progress}
}}"""

_FAIL = f"""\
fail() {{
    echo "slurm-provisioner: failed: $*" >&2
    exit {SETUP_FAILED}
}}"""

_MODULES = """\
# Modules
{say}
for file in "$LMOD_PKG/init/bash" /etc/profile.d/lmod.sh /etc/profile.d/modules.sh \\
    /usr/share/lmod/lmod/init/bash /usr/share/modules/init/bash; do
    type module >/dev/null 2>&1 && break
    [ -r "$file" ] && . "$file"
done
type module >/dev/null 2>&1 || fail "there is no module command on $HOSTNAME"
module load {names} || fail module load {names}"""

_CONDA = """\
# Conda environment
{say}
for program in "$(type -P conda)" "$CONDA_EXE" ~/miniforge3/bin/conda ~/mambaforge/bin/conda \\
    ~/miniconda3/bin/conda ~/anaconda3/bin/conda /opt/conda/bin/conda; do
    [ "$(type -t conda)" = function ] && break
    [ -x "$program" ] && eval "$("$program" shell.bash hook)"
done
if [ "$(type -t conda)" = function ]; then
    conda activate {env} || fail conda activate {env}
elif type "${{MAMBA_EXE:-micromamba}}" >/dev/null 2>&1; then
    eval "$("${{MAMBA_EXE:-micromamba}}" shell hook --shell bash)"
    micromamba activate {env} || fail micromamba activate {env}
else
    fail "there is no conda on $HOSTNAME"
fi"""

_VENV = """\
# Virtual environment
{say}
. {script} || fail "cannot activate" {script}"""

# Bash reads the braces as a whole before it runs any of it: a quote that is left open is a syntax error then, and what
# follows is not taken for commands.
_PROLOGUE = """\
# Prologue: a line that fails ends the job; what fails within a file that a line reads does not
{say}
trap '[ ${{#BASH_SOURCE[@]}} -gt 1 ] || fail "prologue: $BASH_COMMAND"' ERR
{{
{lines}
}}
trap - ERR"""


def _container(container: Container, home: str) -> list[str]:
    binds = ["{connection_dir}", *(expand_home(bind, home) for bind in container.binds)]
    options = [part for bind in binds for part in ("--bind", bind)]
    return [container.runtime, "exec", *options, *container.args, expand_home(container.image, home)]


def _sbatch_word(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./\[\]~*-]+", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
