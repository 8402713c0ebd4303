"""The batch script: read as a whole, read back as sbatch reads it, and run by a real bash."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_provisioner.batch import (
    PROGRESS,
    SETUP_FAILED,
    expand_home,
    kernel_wrapper,
    log_directory,
    log_path,
    log_pattern,
    render,
    sbatch_line,
    shell_path,
    warning_seconds,
)
from slurm_provisioner.config import KernelConfig
from slurm_provisioner.errors import ConfigError

HOME = "/home/alice"
RUN_DIR = "/home/alice/.slurm_provisioner/4f0c"
LAUNCHER = 'import sys\nprint("launched with", sys.argv[1:])\n'
JOB = {"job_id": "1234", "job_name": "jupyter-1", "user": "alice"}


def script_of(launcher: str = LAUNCHER, run_dir: str = RUN_DIR, home: str = HOME, **fields) -> str:
    return render(KernelConfig.load(fields), job_name="jupyter-1", run_dir=run_dir, home=home, launcher=launcher)


def words(line: str) -> list[str]:
    """Split a line as sbatch's get_argument does."""
    found, word, quote, escaped, inside = [], "", "", False, False
    for character in line:
        if escaped:
            word, escaped = word + character, False
        elif character == "\\":
            escaped = inside = True
        elif quote:
            word, quote = (word, "") if character == quote else (word + character, quote)
        elif character in "\"'":
            quote, inside = character, True
        elif character == "#":
            break
        elif character.isspace():
            found += [word] if inside else []
            word, inside = "", False
        else:
            word, inside = word + character, True
    assert not quote
    return found + ([word] if inside else [])


def options_of(script: str) -> list[str]:
    """What sbatch reads from a script."""
    found = []
    for line in script.split("\n"):
        if line.startswith(("#PBS", "#BSUB", "#SLURM")):
            found.append(line)
        elif line.startswith("#SBATCH"):
            found += words(line.removeprefix("#SBATCH"))
        elif line.strip() and not line.startswith("#"):
            break
    return found


def run(script: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script as Slurm does: as a file, without input."""
    path = home / "slurm_script"
    path.write_text(script, encoding="utf-8")
    return subprocess.run(
        ["bash", str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=home,
        env={"PATH": os.defpath, "HOME": str(home), "LC_ALL": "C.UTF-8", **env},
    )


def run_with(home: Path, functions: str = "", **fields) -> subprocess.CompletedProcess[str]:
    """Run the script of `fields` after `functions` were defined in its shell."""
    startup = home / "functions"
    startup.write_text(functions, encoding="utf-8")
    (home / "run").mkdir(exist_ok=True)
    fields = {"python": sys.executable, **fields}
    script = script_of(home=str(home), run_dir=str(home / "run"), **fields)
    return run(script, home, BASH_ENV=str(startup))


def progress(home: Path) -> list[str]:
    """The steps that a script told those who wait."""
    return (home / "run" / PROGRESS).read_text(encoding="utf-8").splitlines()


# The whole script


def test_a_script_without_wishes_is_short():
    assert script_of() == (
        """\
#!/bin/bash -l
#SBATCH --job-name=jupyter-1
#SBATCH --chdir=/home/alice
#SBATCH --output=/home/alice/.slurm_provisioner/4f0c/job.log
#SBATCH --open-mode=truncate
#SBATCH --no-requeue
#SBATCH --signal=B:USR1@300

# Signals are for the supervisor; until it is there, nobody takes them.
trap '' INT QUIT USR1 USR2

# The supervisor takes the place of this script: it starts the kernel and answers for it.
echo 'starting the supervisor' >> /home/alice/.slurm_provisioner/4f0c/progress
exec python3 -I - /home/alice/.slurm_provisioner/4f0c <<'SLURM_PROVISIONER_LAUNCHER'
import sys
print("launched with", sys.argv[1:])
SLURM_PROVISIONER_LAUNCHER
"""
    )


def test_a_script_asks_for_resources_in_a_stable_order():
    script = script_of(
        sbatch={
            "mail-type": "END",
            "comment": "for Bob's class",
            "contiguous": True,
            "dependency": ["after:1", "after:2"],
        },
        licenses="matlab:1",
        exclusive=True,
        exclude="c9",
        nodelist=["c1", "c2"],
        constraint="intel&ib",
        gres="shard:2",
        gpus="a100:2",
        mem="16GB",
        cpus_per_task=4,
        ntasks_per_node=2,
        ntasks=4,
        nodes="2-4",
        time="1d",
        reservation="class",
        qos="high",
        account="physics",
        partition=["gpu", "long"],
        log="~/logs/%x-%j.log",
        warn_before_end=0,
        login_shell=False,
    )
    assert (
        script.partition("\n\n")[0]
        == """\
#!/bin/bash
#SBATCH --job-name=jupyter-1
#SBATCH --chdir=/home/alice
#SBATCH --output=/home/alice/logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --no-requeue
#SBATCH --partition=gpu,long
#SBATCH --account=physics
#SBATCH --qos=high
#SBATCH --reservation=class
#SBATCH --time=1-00:00:00
#SBATCH --nodes=2-4
#SBATCH --ntasks=4
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --gpus=a100:2
#SBATCH --gres=shard:2
#SBATCH --constraint="intel&ib"
#SBATCH --nodelist=c1,c2
#SBATCH --exclude=c9
#SBATCH --exclusive
#SBATCH --licenses=matlab:1
#SBATCH --mail-type=END
#SBATCH --comment="for Bob's class"
#SBATCH --contiguous
#SBATCH --dependency=after:1
#SBATCH --dependency=after:2"""
    )


def test_a_script_sets_up_its_environment_step_by_step():
    script = script_of(
        modules=["gcc/12", "cuda"], venv="$WORK/my venv", prologue=["ulimit -c 0", "export OMP_NUM_THREADS=4"]
    )
    assert (
        script.partition("USR2\n\n")[2].partition("\n\n# The supervisor")[0]
        == """\
# What comes next: for the log, and for those who wait
say() {
    echo "slurm-provisioner: $*"
    echo "$*" >> /home/alice/.slurm_provisioner/4f0c/progress
}

fail() {
    echo "slurm-provisioner: failed: $*" >&2
    exit 110
}

# Modules
say 'loading modules gcc/12 cuda'
for file in "$LMOD_PKG/init/bash" /etc/profile.d/lmod.sh /etc/profile.d/modules.sh \\
    /usr/share/lmod/lmod/init/bash /usr/share/modules/init/bash; do
    type module >/dev/null 2>&1 && break
    [ -r "$file" ] && . "$file"
done
type module >/dev/null 2>&1 || fail "there is no module command on $HOSTNAME"
module load gcc/12 cuda || fail module load gcc/12 cuda

# Virtual environment
say 'activating the virtual environment $WORK/my venv'
. "$WORK/my venv/bin/activate" || fail "cannot activate" "$WORK/my venv/bin/activate"

# Prologue: a line that fails ends the job; what fails within a file that a line reads does not
say 'running the prologue'
trap '[ ${#BASH_SOURCE[@]} -gt 1 ] || fail "prologue: $BASH_COMMAND"' ERR
{
ulimit -c 0
export OMP_NUM_THREADS=4
}
trap - ERR"""
    )


def test_nothing_secret_is_in_the_script():
    script = script_of(env={"TOKEN": "s3cret"}, env_pass=["OTHER_TOKEN"], work_dir="/data/private")
    assert not re.search("s3cret|TOKEN|private", script)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"modules": ["a"], "conda_env": "base", "prologue": ["if true; then", "echo", "fi"]},
        {"venv": "~/v", "prologue": ["case x in", "x) echo;;", "esac"]},
        {"prologue": ["# only a remark", ""]},
        {"python": "~/bin/my python3"},
    ],
)
def test_bash_can_read_the_script(fields, tmp_path):
    (tmp_path / "script").write_text(script_of(**fields), encoding="utf-8")
    done = subprocess.run(["bash", "-n", str(tmp_path / "script")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_supervisor_that_would_end_the_heredoc_is_refused():
    with pytest.raises(ValueError, match="SLURM_PROVISIONER_LAUNCHER"):
        script_of("print()\nSLURM_PROVISIONER_LAUNCHER\nid\n")


# sbatch's lines

HOSTILE = st.text(alphabet=st.characters() | st.sampled_from(list("\"'\\#;$`&|()<>!~*?[]{}=%@,: \t\r\n\0\x85\u2028")))


@given(HOSTILE)
def test_a_value_stays_in_its_line_or_is_refused(value):
    try:
        line = sbatch_line("comment", value)
    except ConfigError:
        assert not value.isprintable()
        return
    assert "\n" not in line
    assert words(line.removeprefix("#SBATCH")) == [f"--comment={value}"]


@pytest.mark.parametrize(
    "field",
    ["partition", "account", "qos", "reservation", "gres", "constraint", "nodelist", "exclude", "licenses", "log"],
)
@given(value=HOSTILE)
@settings(max_examples=50)
def test_no_value_of_a_field_becomes_another_option(field, value):
    value = f"/{value}" if field == "log" else value
    try:
        script = script_of(**{field: value})
    except ConfigError:
        return
    options = options_of(script)
    assert f"--{'output' if field == 'log' else field}={value.strip(' ')}" in options
    assert len(options) == (6 if field == "log" else 7)


@given(
    st.dictionaries(
        HOSTILE, HOSTILE | st.booleans() | st.none() | st.integers() | st.lists(HOSTILE, max_size=2), max_size=2
    )
)
def test_no_option_of_sbatch_becomes_another_one(sbatch):
    try:
        options = options_of(script_of(sbatch=sbatch))
    except ConfigError:
        return
    given_options = KernelConfig.load({"sbatch": sbatch}).sbatch
    expected = []
    for name, value in given_options.items():
        values = value if isinstance(value, tuple) else [value]
        expected += [f"--{name}" if each is True else f"--{name}={each}" for each in values]
    assert options[6:] == expected


@given(HOSTILE)
def test_the_run_directory_is_one_word_for_sbatch_and_for_the_shell(name):
    try:
        script = script_of(run_dir=f"/home/{name}")
    except ConfigError:
        assert "\\" in name or not name.isprintable()
        return
    assert f"--output=/home/{name.replace('%', '%%')}/job.log" in options_of(script)
    (line,) = [line for line in script.splitlines() if line.startswith("exec ")]
    done = subprocess.run(
        ["bash", "-c", line.replace("exec python3 -I -", "printf %s").partition("<<")[0]],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"/home/{name}"


@pytest.mark.parametrize(
    ("time", "warn", "seconds"),
    [("4h", 300, 300), ("4m", 300, 120), (None, 600, 600), ("UNLIMITED", 60, 60), ("1h", 0, 0)],
)
def test_the_warning_comes_in_the_second_half_of_the_time(time, warn, seconds):
    config = KernelConfig.load({"time": time, "warn_before_end": warn})
    assert warning_seconds(config) == seconds
    signals = [option for option in options_of(script_of(time=time, warn_before_end=warn)) if "--signal" in option]
    assert signals == ([f"--signal=B:USR1@{seconds}"] if seconds else [])


# The log


@pytest.mark.parametrize(
    ("log", "folder", "path"),
    [
        (None, RUN_DIR, f"{RUN_DIR}/job.log"),
        ("~/logs/%x-%j.log", "/home/alice/logs", "/home/alice/logs/jupyter-1-1234.log"),
        ("/scratch/%u/%6j/out", None, "/scratch/alice/001234/out"),
        ("/scratch/50%%/%A.log", "/scratch/50%", "/scratch/50%/1234.log"),
        ("/job-%N.log", "/", None),
    ],
)
def test_where_the_log_is(log, folder, path):
    config = KernelConfig.load({"log": log})
    assert log_directory(config, run_dir=RUN_DIR, home=HOME) == folder
    assert log_path(log_pattern(config, RUN_DIR, HOME), **JOB) == path


def test_a_percent_sign_in_the_run_directory_is_no_pattern():
    assert "--output=/home/100%%j/job.log" in options_of(script_of(run_dir="/home/100%j"))
    config = KernelConfig.load({})
    assert log_path(log_pattern(config, "/home/100%j", HOME), **JOB) == "/home/100%j/job.log"
    assert log_directory(config, run_dir="/home/100%j", home=HOME) == "/home/100%j"


def test_a_run_directory_that_slurm_cannot_write_to_is_refused():
    with pytest.raises(ConfigError, match="backslash"):
        script_of(run_dir="/home/a\\b")


# The environment, for real


def test_the_supervisor_is_started_with_the_run_directory(tmp_path):
    done = run_with(tmp_path)
    assert done.stdout == f"launched with ['{tmp_path}/run']\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_the_supervisor_is_not_confused_by_modules_at_home_or_of_other_pythons(tmp_path):
    (tmp_path / "socket.py").write_text("raise RuntimeError('not the standard library')")
    script = script_of("import socket; print('fine')", home=str(tmp_path), python=sys.executable)
    done = run(script, tmp_path, PYTHONPATH=str(tmp_path), PYTHONHOME="/nowhere")
    assert (done.stdout, done.returncode) == ("fine\n", 0)


def test_the_supervisor_is_the_scripts_own_process(tmp_path):
    script = script_of("import os; print(os.getpid())", home=str(tmp_path), python=sys.executable, prologue=["echo $$"])
    shell, supervisor = run(script, tmp_path).stdout.split("\n")[1:3]
    assert shell == supervisor


def test_signals_before_the_supervisor_is_there_do_not_end_the_job(tmp_path):
    done = run_with(tmp_path, prologue=["kill -USR1 $$", "kill -USR2 $$", "kill -INT $$"])
    assert "launched" in done.stdout


FAKE_MODULE = """
module() {
    [ "$1" = load ] && shift
    for name; do
        case "$name" in *missing*) echo "ERROR: Unable to locate a modulefile for '$name'" >&2; return 1;; esac
        printf '<%s>' "$name"
    done
}
"""


def test_modules_are_loaded(tmp_path):
    done = run_with(tmp_path, FAKE_MODULE, modules=["gcc/12", "cuda"])
    assert done.stdout.startswith("slurm-provisioner: loading modules gcc/12 cuda\n<gcc/12><cuda>launched")
    assert progress(tmp_path) == ["loading modules gcc/12 cuda", "starting the supervisor"]


def test_a_module_that_is_missing_ends_the_job_and_is_named(tmp_path):
    done = run_with(tmp_path, FAKE_MODULE, modules=["gcc/12", "missing/1"])
    assert done.returncode == SETUP_FAILED
    assert done.stderr.splitlines() == [
        "ERROR: Unable to locate a modulefile for 'missing/1'",
        "slurm-provisioner: failed: module load gcc/12 missing/1",
    ]
    assert "launched" not in done.stdout


def test_modules_are_found_where_the_shell_did_not_look(tmp_path):
    (tmp_path / "lmod" / "init").mkdir(parents=True)
    (tmp_path / "lmod" / "init" / "bash").write_text(FAKE_MODULE)
    done = run_with(tmp_path, f"LMOD_PKG={tmp_path}/lmod", modules=["gcc"])
    assert "<gcc>launched" in done.stdout


def test_a_node_without_modules_ends_the_job(tmp_path):
    no_file_is_there = 'function [ { builtin [ "$1" != -r ] && builtin [ "$@"; }'  # whatever this machine has
    done = run_with(tmp_path, no_file_is_there, modules=["gcc"])
    assert done.returncode == SETUP_FAILED
    assert "slurm-provisioner: failed: there is no module command on " in done.stderr


@given(names=st.lists(HOSTILE, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_names_of_modules_reach_the_command_as_they_are(names, tmp_path_factory):
    try:
        wanted = KernelConfig.load({"modules": names}).modules
    except ConfigError:
        return
    home = tmp_path_factory.mktemp("home")
    done = run_with(home, 'module() { shift; printf "<%s>" "$@"; return 1; }', modules=names)
    assert done.stdout.partition("\n")[2] == "".join(f"<{name}>" for name in wanted)
    assert progress(home) == [f"loading modules {' '.join(wanted)}"]
    assert done.returncode == SETUP_FAILED
    assert done.stderr == f"slurm-provisioner: failed: module load {' '.join(wanted)}\n"
    shutil.rmtree(home)


def make_activatable(folder: Path) -> None:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "activate").write_text('echo "<activated $VAR>"\n')


def test_a_virtual_environment_is_activated(tmp_path):
    make_activatable(tmp_path / "my envs" / "a$b")
    for venv in ["~/my envs/a${DOLLAR}b", "$HOME/my envs/a${DOLLAR}b", f"{tmp_path}/my envs/a${{DOLLAR}}b/"]:
        done = run_with(tmp_path, "DOLLAR='$' VAR=x", venv=venv)
        assert "<activated x>\nlaunched" in done.stdout, done.stderr


def test_a_virtual_environment_that_is_missing_ends_the_job_and_is_named(tmp_path):
    done = run_with(tmp_path, venv="~/nowhere")
    assert done.returncode == SETUP_FAILED
    assert done.stderr.endswith(f"slurm-provisioner: failed: cannot activate {tmp_path}/nowhere/bin/activate\n")


FAKE_CONDA = """
conda() {
    if [ "$1 $2" = "activate missing" ]; then echo "EnvironmentNameNotFound: $2" >&2; return 1; fi
    echo "<conda $*>"
}
"""


def test_a_conda_environment_is_activated(tmp_path):
    done = run_with(tmp_path, FAKE_CONDA, conda_env="~/my env")
    assert f"<conda activate {tmp_path}/my env>\nlaunched" in done.stdout


def test_a_conda_environment_that_is_missing_ends_the_job_and_is_named(tmp_path):
    done = run_with(tmp_path, FAKE_CONDA, conda_env="missing")
    assert done.returncode == SETUP_FAILED
    assert done.stderr.splitlines()[-1] == "slurm-provisioner: failed: conda activate missing"


@pytest.mark.parametrize("where", ["miniforge3", "anaconda3"])
def test_conda_is_found_in_the_home_directory(where, tmp_path):
    program = tmp_path / where / "bin" / "conda"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{FAKE_CONDA}\nEND\n")
    program.chmod(0o755)
    done = run_with(tmp_path, conda_env="torch")
    assert "<conda activate torch>\nlaunched" in done.stdout


def test_micromamba_will_do(tmp_path):
    program = tmp_path / "micromamba"
    program.write_text("#!/bin/sh\necho 'micromamba() { echo \"<micromamba $*>\"; }'\n")
    program.chmod(0o755)
    done = run_with(tmp_path, f"export MAMBA_EXE={program}", conda_env="torch")
    if shutil.which("conda"):
        pytest.skip("this machine has a conda")
    assert "<micromamba activate torch>\nlaunched" in done.stdout


def test_the_prologue_runs_in_the_scripts_own_shell(tmp_path):
    done = run_with(tmp_path, prologue=["A='x y'", 'f() { echo "<$A>"; }', "f", "cat <<END", "don't", "END"])
    assert done.stdout == f"slurm-provisioner: running the prologue\n<x y>\ndon't\nlaunched with ['{tmp_path}/run']\n"


def test_a_line_of_the_prologue_that_fails_ends_the_job_and_is_named(tmp_path):
    done = run_with(tmp_path, prologue=["false || true", "echo before", "cd /nowhere/at/all", "echo after"])
    assert done.returncode == SETUP_FAILED
    assert "before" in done.stdout
    assert "after" not in done.stdout
    assert done.stderr.splitlines()[-1] == "slurm-provisioner: failed: prologue: cd /nowhere/at/all"
    assert progress(tmp_path) == ["running the prologue"]


def test_what_fails_within_a_file_that_the_prologue_reads_is_that_files_business(tmp_path):
    (tmp_path / "setup.sh").write_text("false\nexport SET=yes\n")
    done = run_with(tmp_path, prologue=['. "$HOME/setup.sh"', 'echo "<$SET>"'])
    assert "<yes>\nlaunched" in done.stdout


@pytest.mark.parametrize(
    "line", ['echo "', "echo '", "cat <<END", "echo \\", "if true; then", "}", "(", "echo $(", "echo `"]
)
def test_a_prologue_that_does_not_end_never_runs_the_supervisor_as_shell(line, tmp_path):
    launcher = "".join(f"{text}\ntouch hacked\n" for text in inspect.getsource(shlex).splitlines())
    script = script_of(launcher, home=str(tmp_path), prologue=["echo", line])
    done = run(script, tmp_path)
    assert done.returncode != 0
    assert done.stderr
    assert not (tmp_path / "hacked").exists()


@given(HOSTILE)
@settings(max_examples=60, deadline=None)
def test_a_path_is_expanded_by_the_shell_as_promised_and_no_further(text):
    path = f"~/{text}"
    if not text.isprintable() or "$" in text:
        return
    done = subprocess.run(
        ["bash", "-c", f"printf %s {shell_path(path)}"],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": "/home/alice", "LC_ALL": "C.UTF-8"},
        timeout=60,
    )
    assert done.stdout == expand_home(path, "/home/alice")


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        ("$WORK/a b", "/work dir/a b"),
        ("${WORK}x", "/work dirx"),
        ('~/"$WORK`id`\\', '/home/alice/"/work dir`id`\\'),
        ("~", "/home/alice"),
        ("/a/~/b", "/a/~/b"),
    ],
)
def test_variables_in_a_path_are_expanded_once(path, expanded):
    done = subprocess.run(
        ["bash", "-c", f"printf %s {shell_path(path)}"],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": "/home/alice", "WORK": "/work dir"},
        timeout=60,
    )
    assert done.stdout == expanded


# The kernel's wrapper


def wrapper_of(**fields) -> tuple[list[str], bool]:
    return kernel_wrapper(KernelConfig.load(fields), home=HOME)


STEP = ["srun", "--overlap", "--nodes=1", "--ntasks=1", "--relative=0", "--mem=0", "--preserve-env"]


def test_a_kernel_is_the_supervisors_child_unless_something_stands_between():
    assert wrapper_of() == ([], True)
    assert wrapper_of(srun=True) == (STEP, False)
    assert wrapper_of(srun=["--cpu-bind=none"], slurm_bin="~/bin") == (
        ["/home/alice/bin/srun", *STEP[1:], "--cpu-bind=none"],
        False,
    )


def test_a_container_sees_the_kernels_private_folder():
    container = {"image": "~/torch.sif", "binds": ["/data:/in:ro", "~/x"], "args": ["--nv"], "runtime": "singularity"}
    inside = [
        "singularity",
        "exec",
        "--bind",
        "{connection_dir}",
        "--bind",
        "/data:/in:ro",
        "--bind",
        "/home/alice/x",
        "--nv",
    ]
    assert wrapper_of(container=container) == ([*inside, "/home/alice/torch.sif"], False)
    assert wrapper_of(container=container, srun=True)[0] == [*STEP, *inside, "/home/alice/torch.sif"]
