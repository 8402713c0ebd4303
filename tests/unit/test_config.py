"""What a kernelspec may say, what it becomes, and what a user reads when it is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_provisioner.config import KERNELSPEC_ONLY, Container, KernelConfig, overrides_from_env
from slurm_provisioner.errors import ConfigError, LimitError
from slurm_provisioner.login_host import LoginHost

FIELDS = [*KernelConfig.model_fields]


def refused(kernelspec=None, *, kind=ConfigError, **sources) -> str:
    """The text of the error."""
    with pytest.raises(ConfigError) as caught:
        KernelConfig.load(kernelspec or {}, **sources)
    assert type(caught.value) is kind
    return str(caught.value)


# Fields


@pytest.mark.parametrize("model", [KernelConfig, Container])
def test_every_field_is_described_for_users(model):
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert field.is_required() or "efault" in field.description, name


def test_nothing_is_asked_for_by_default():
    config = KernelConfig.load({})
    resources = FIELDS[: FIELDS.index("exclusive")]
    assert {getattr(config, name) for name in resources} == {None}
    assert (config.login_shell, config.python, config.kernel_transport) == (True, "python3", "ipc")
    assert (config.queue_timeout, config.start_timeout, config.lease, config.crash_grace) == (None, 300, 900, 60)
    assert (config.state_dir, config.persistent) == ("~/.slurm_provisioner", False)


@pytest.mark.parametrize(
    ("field", "given_as", "kept"),
    [
        ("partition", ["gpu", "long"], "gpu,long"),
        ("account", 1234, "1234"),
        ("time", 90, "01:30:00"),
        ("nodes", 2, "2"),
        ("cpus_per_task", "8", 8),
        ("mem", "16GB", "16G"),
        ("gpus", 2, "2"),
        ("gpus", 0, None),
        ("gres", ["gpu:1", "shard:2"], "gpu:1,shard:2"),
        ("exclusive", "user", "user"),
        ("log", "~/logs/%x-%j.log", "~/logs/%x-%j.log"),
        ("modules", "gcc/12 cuda", ("gcc/12", "cuda")),
        ("modules", "gcc/12,cuda", ("gcc/12", "cuda")),
        ("conda_env", "~/envs/my env", "~/envs/my env"),
        ("venv", "$WORK/venv", "$WORK/venv"),
        ("prologue", "ulimit -c 0\n\nexport A='x y'\n", ("ulimit -c 0", "", "export A='x y'")),
        ("env", {"A": "x", "N": 4, "NO": None}, {"A": "x", "N": "4"}),
        ("env", {"MULTI": "a\nb"}, {"MULTI": "a\nb"}),
        ("env_pass", ["LANG"], ("LANG",)),
        ("python", "/opt/python/bin/python3.9", "/opt/python/bin/python3.9"),
        ("srun", True, ()),
        ("srun", False, None),
        ("srun", ["--cpu-bind=none"], ("--cpu-bind=none",)),
        ("port_range", "50000-50100", (50000, 50100)),
        ("port_range", [50000, 50100], (50000, 50100)),
        ("address", "::1", "::1"),
        ("queue_timeout", "2h", 7200),
        ("queue_timeout", None, None),
        ("lease", 600, 600),
        ("ssh", "hpc", LoginHost(host="hpc")),
        ("ssh", {"host": "hpc", "user": r"DOM\ann", "port": "2222"}, LoginHost(host="hpc", user=r"DOM\ann", port=2222)),
        ("container", "~/images/torch.sif", Container(image="~/images/torch.sif")),
        (
            "container",
            {"image": "docker://python:3.12", "args": "--nv"},
            Container(image="docker://python:3.12", args=["--nv"]),
        ),
        (
            "sbatch",
            {"mail_type": "END", "--nice": 5, "contiguous": True},
            {"mail-type": "END", "nice": "5", "contiguous": True},
        ),
        ("sbatch", {"dependency": ["after:1", "after:2"]}, {"dependency": ("after:1", "after:2")}),
        ("sbatch", {"comment": None, "reboot": False}, {}),
        ("sbatch", {"site-plugin": "x", "own_option": True}, {"site-plugin": "x", "own_option": True}),
    ],
)
def test_a_value_is_kept_in_one_form(field, given_as, kept):
    assert getattr(KernelConfig.load({field: given_as}), field) == kept


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("partition", "", "it is empty"),
        ("partition", ["a", ""], "it is empty"),
        ("account", "a\nb", r"'a\nb' has a character that cannot be printed"),
        ("qos", True, "True is not text"),
        ("time", "4 hours", "'4 hours' is not a time: give minutes (90)"),
        ("ntasks", 0, "0 is not a whole number of at least 1"),
        ("mem", "lots", "'lots' is not a size"),
        ("gpus", "a100 2", "is not a number of GPUs"),
        ("exclusive", "mine", '"user"'),
        ("exclusive", 1, "1 is not true, false"),
        ("job_name", "a,b", "'a,b' is not a job name"),
        ("log", "job.log", "'job.log' is not an absolute path: begin it with / or ~/"),
        ("log", "/a\\b", "without backslashes"),
        ("log", "/logs/", "not the path of a file"),
        ("login_shell", "yes", "'yes' is neither true nor false"),
        ("modules", ["-q"], "'-q' is not a single name"),
        ("conda_env", "my env", "'my env' is not a single name"),
        ("venv", "envs/x", "begin it with /, ~/ or $NAME"),
        ("venv", "/envs/$(id)", "$ that is neither $NAME nor ${NAME}"),
        ("work_dir", "/scratch/$USER", "variables are not known here"),
        ("container", {}, "it must be given"),
        ("ssh", {}, "it must be given"),
        ("ssh", "-oProxyCommand=x", "'-oProxyCommand=x' is not a host's name"),
        ("ssh", "a b", "'a b' is not a host's name"),
        ("ssh", {"host": "hpc", "user": "-l"}, "'-l' is not a user's name"),
        ("ssh", {"host": "hpc", "port": 70000}, "70000 is not a port"),
        ("ssh", {"host": "hpc", "transport": "telnet"}, "'telnet' is not 'asyncssh' or 'openssh'"),
        ("ssh", {"host": "hpc", "program": "-x"}, "'-x' is not a single name"),
        ("ssh", {"host": "hpc", "config": "config"}, "begin it with / or ~/"),
        ("container", "torch.sif", "begin it with / or ~/"),
        ("container", {"image": "/x.sif", "args": ["--containall"]}, "need its process id outside"),
        ("container", {"image": "/x.sif", "runtime": "docker"}, "'docker' is not 'apptainer' or 'singularity'"),
        ("prologue", ["a\nb"], "is not a line of shell"),
        ("prologue", [3], "3 is not a line of shell"),
        ("prologue", ["#PBS -l walltime=99:00:00"], "sbatch would read"),
        ("prologue", ["#BSUB -W 99"], "sbatch would read"),
        ("env", {"A B": "x"}, "'A B' is not the name of a variable"),
        ("env_pass", ["AWS_*"], "'AWS_*' is not the name of a variable"),
        ("python", "python3 -X dev", "is not a single name"),
        ("srun", "--exclusive", "is not a list"),
        ("srun", ["hostname"], "is not a long option of srun"),
        ("srun", ["--nodes=2"], "one task on the job's first node"),
        ("port_range", "80-90", "from 1024 up to 65535"),
        ("port_range", [50100, 50000], "is not a range of ports"),
        ("port_range", [1, 2, 3], "is not a range of ports"),
        ("kernel_transport", "udp", "'udp' is not 'ipc' or 'tcp'"),
        ("lease", "300", "has no unit"),
        ("warn_before_end", "2d", "more than the 65535 seconds"),
        ("clusters", "a,b", "is not the name of one cluster"),
        ("slurm_bin", "bin", "is not an absolute path"),
        ("interface", "ib0; id", "is not the name of a network interface"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_reason(field, value, reason):
    text = refused({field: value})
    assert f"`{field}" in text
    assert reason in text
    assert "(kernelspec)" in text
    assert "pydantic" not in text


def test_the_error_says_what_to_do():
    text = refused({"time": "4 hours"})
    sentence, _, hint = text.partition("\n")
    assert sentence == (
        "The kernel's Slurm settings cannot be used: `time`: '4 hours' is not a time: give minutes (90), HH:MM:SS, "
        "D-HH:MM:SS, 4h, 1h30m, 2d or UNLIMITED (kernelspec)"
    )
    assert " ".join(hint.split()) == (
        "→ Correct kernel.json, under metadata.kernel_provisioner.config: `jupyter kernelspec list` shows where it is."
    )


def test_all_problems_are_told_at_once():
    text = refused({"tim": "4h", "mem": "lots", "sbatch": {"wrap": "x", "output": "y"}}, overrides={"nodes": "many"})
    assert "\n  `tim`: there is no such key; did you mean `time`? (kernelspec)\n" in text
    assert "\n  `mem`: 'lots' is not a size" in text
    assert "\n  `sbatch`: --wrap cannot be given: the provisioner brings the script (kernelspec)\n" in text
    assert "\n  `sbatch`: --output has a field of its own: set `log` (kernelspec)\n" in text
    assert "(KERNEL_SLURM_NODES)" in text


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("tim", "`time`"),
        ("partion", "`partition`"),
        ("cpus-per-task", "`cpus_per_task`"),
        ("--ntasks-per-node", "`ntasks_per_node`"),
        ("Partition", "`partition`"),
        ("cpus", "`cpus_per_task`"),
        ("memory", "`mem`"),
        ("walltime", "`time`"),
        ("mail-type", 'give options of sbatch in `sbatch`: {"mail-type": …}'),
    ],
)
def test_an_unknown_key_is_refused_with_the_right_one(key, meant):
    text = refused({key: "x"})
    assert f"`{key}`: there is no such key; " in text
    assert meant in text


def test_an_unknown_key_that_is_like_no_other_is_refused():
    assert "`zzz`: there is no such key (kernelspec)" in refused({"zzz": 1})


def test_a_machine_that_sleeps_is_waited_for_longer():
    assert KernelConfig(ssh="hpc").lease == 7200
    assert KernelConfig(ssh="hpc", lease=60).lease == 60
    assert KernelConfig.load({"lease": None}, defaults={"lease": 60, "ssh": "hpc"}).lease == 7200


def test_a_configuration_survives_a_takeover():
    config = KernelConfig(ssh={"host": "hpc", "via": "node"}, container="/x.sif")
    assert KernelConfig(**json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_an_unknown_key_of_a_login_host_is_refused_with_the_right_one():
    text = refused({"ssh": {"host": "hpc", "username": "ann"}})
    assert "`ssh.username`: there is no such key; did you mean `user`?" in text


def test_an_unknown_key_of_a_container_is_refused_with_the_right_one():
    assert "`container.bind`: there is no such key; did you mean `binds`?" in refused(
        {"container": {"image": "/x", "bind": []}}
    )


def test_values_of_variables_are_not_told():
    text = refused({"env": {"TOKEN": ["s3cret"], "A B": "s3cret"}})
    assert "the value of TOKEN is not text" in text
    assert "s3cret" not in text
    assert "s3cret" not in refused({"env": "TOKEN=s3cret"})


def test_what_is_built_without_sources_is_refused_in_the_same_way():
    with pytest.raises(ConfigError, match="`tim`: there is no such key; did you mean `time`"):
        KernelConfig(tim="4h")


def test_a_configuration_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        KernelConfig.load({}).time = "1h"


# Options of sbatch


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("output", "set `log`"),
        ("job-name", "set `job_name`"),
        ("--time", "set `time`"),
        ("cpus_per_task", "set `cpus_per_task`"),
        ("tasks", "set `ntasks`"),
        ("chdir", "set `work_dir`"),
        ("signal", "set `warn_before_end`"),
        ("clusters", "set `clusters`"),
        ("error", "set `log`"),
        ("export", "clean environment"),
        ("export_file", "clean environment"),
        ("get-user-env", "clean environment"),
        ("requeue", "a second kernel"),
        ("no-requeue", "a second kernel"),
        ("array", "a kernel is one job"),
        ("hold", "does not start by itself"),
        ("test-only", "instead of submitting a job"),
        ("help", "instead of submitting a job"),
        ("parsable", "sbatch's answer"),
        ("wait", "only when the job has ended"),
        ("wrap", "brings the script"),
        ("uid", "the user who submits it"),
        ("batch", "first node"),
        ("outp", "not the whole name of an option: --output"),
        ("gpus-per-n", "not the whole name of an option: --gpus-per-node"),
        ("t", "not the whole name of an option"),
        ("-t", "is not the name of an option"),
        ("comment=x", "is not the name of an option"),
        ("a b", "is not the name of an option"),
        ("", "is not the name of an option"),
        (3, "is not the name of an option"),
    ],
)
def test_an_option_that_is_ours_is_refused_with_the_reason(option, reason):
    assert reason in refused({"sbatch": {option: "x"}})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"comment": True}, "--comment needs a value"),
        ({"contiguous": "yes"}, "--contiguous is a flag: give true or false"),
        ({"comment": "a\nb"}, "--comment has a character that cannot be printed"),
        ({"comment": ["a", "b\0"]}, "--comment has a character that cannot be printed"),
        ({"comment": {"a": 1}}, "--comment takes text"),
        ({"comment": 1.5}, "--comment takes text"),
        ({"mail-type": "END", "mail_type": "ALL"}, "--mail-type is given twice"),
        (["--comment=x"], "is not a mapping"),
    ],
)
def test_an_option_with_a_wrong_value_is_refused(options, reason):
    assert reason in refused({"sbatch": options})


@given(st.text(min_size=1, max_size=12))
def test_no_name_reaches_an_option_that_is_ours(name):
    """sbatch completes names: none that is let through may be the beginning of one that is not."""
    try:
        (kept,) = KernelConfig.load({"sbatch": {name: "1"}}).sbatch
    except ConfigError:
        return
    for ours in ("time", "output", "partition", "wrap", "gpus", "requeue", "exclusive", "nodes", "export"):
        assert not ours.startswith(kept)


# Sources


def test_the_kernelspec_goes_before_the_defaults_and_the_start_before_both():
    config = KernelConfig.load(
        {"time": "2h", "mem": "8G"},
        defaults={"time": "1h", "mem": "4G", "partition": "debug"},
        overrides={"time": "3h"},
    )
    assert (config.time, config.mem, config.partition) == ("03:00:00", "8G", "debug")


def test_null_gives_a_default_back():
    config = KernelConfig.load({"partition": None, "lease": None}, defaults={"partition": "debug", "lease": 60})
    assert (config.partition, config.lease) == (None, 900)


def test_variables_and_options_of_all_sources_come_together():
    config = KernelConfig.load(
        {"env": {"B": "spec"}, "sbatch": {"mail-type": "END", "reboot": False}},
        defaults={"env": {"A": "site", "B": "site"}, "sbatch": {"mail_type": "ALL", "reboot": True, "wckey": "w"}},
        overrides={"env": {"A": None, "C": "start"}},
    )
    assert config.env == {"B": "spec", "C": "start"}
    assert config.sbatch == {"mail-type": "END", "wckey": "w"}


def test_a_source_replaces_what_excludes_its_word():
    config = KernelConfig.load({"mem_per_cpu": "2G", "venv": "~/v"}, defaults={"mem": "8G", "conda_env": "base"})
    assert (config.mem, config.mem_per_cpu, config.conda_env, config.venv) == (None, "2G", None, "~/v")


def test_one_source_cannot_say_both():
    assert "`mem` and `mem_per_cpu` cannot be set together" in refused({"mem": "8G", "mem_per_cpu": "2G"})


def test_an_error_names_its_source():
    text = refused({"mem": "x"}, defaults={"time": "x"}, overrides={"nodes": "x"})
    assert "(kernelspec)" in text
    assert "(c.SlurmProvisioner.defaults)" in text
    assert "(KERNEL_SLURM_NODES)" in text
    assert "administrators" in text


def test_a_wrong_default_is_told_though_the_kernelspec_goes_before_it():
    text = refused({"sbatch": {"mail-type": "END"}}, defaults={"sbatch": ["--mail-type=ALL"]})
    assert "is not a mapping such as" in text
    assert "(c.SlurmProvisioner.defaults)" in text


def test_a_source_that_is_no_mapping_is_refused():
    assert "['time'] is not a mapping of fields to values (kernelspec)" in refused(["time"])


def test_a_key_that_is_no_text_is_unknown():
    assert "`3`: there is no such key" in refused({3: "x"})


# Overrides


@pytest.mark.parametrize(
    ("variable", "text", "field", "kept"),
    [
        ("TIME", "30m", "time", "00:30:00"),
        ("TIME", "90", "time", "01:30:00"),
        ("ACCOUNT", "null", "account", "null"),
        ("ACCOUNT", "123", "account", "123"),
        ("PARTITION", "a,b", "partition", "a,b"),
        ("PARTITION", '["a", "b"]', "partition", "a,b"),
        ("CPUS_PER_TASK", "8", "cpus_per_task", 8),
        ("EXCLUSIVE", "true", "exclusive", True),
        ("EXCLUSIVE", "user", "exclusive", "user"),
        ("PERSISTENT", "True", "persistent", True),
        ("LEASE", "600", "lease", 600),
        ("LEASE", "10m", "lease", 600),
        ("QUEUE_TIMEOUT", "null", "queue_timeout", None),
        ("MODULES", "gcc,cuda", "modules", ("gcc", "cuda")),
        ("MODULES", '["gcc", "cuda"]', "modules", ("gcc", "cuda")),
        ("SBATCH", '{"comment": "hi there"}', "sbatch", {"comment": "hi there"}),
        ("ENV", '{"A": "1"}', "env", {"A": "1"}),
    ],
)
def test_a_variable_overrides_a_field(variable, text, field, kept):
    overrides = overrides_from_env({f"KERNEL_SLURM_{variable}": text, "KERNEL_USERNAME": "x", "PATH": "/bin"})
    assert [*overrides] == [field]
    assert getattr(KernelConfig.load({"time": "1h", "queue_timeout": 5}, overrides=overrides), field) == kept


def test_an_empty_variable_is_not_set():
    assert overrides_from_env({"KERNEL_SLURM_TIME": ""}) == {}


@pytest.mark.parametrize(
    ("variable", "text"), [("PERSISTENT", "yes"), ("SBATCH", "--comment=x"), ("ENV", "[1]"), ("LEASE", "true")]
)
def test_a_variable_of_the_wrong_kind_is_refused(variable, text):
    assert f"(KERNEL_SLURM_{variable})" in refused({}, overrides=overrides_from_env({f"KERNEL_SLURM_{variable}": text}))


def test_a_misspelt_variable_is_refused_with_the_right_field():
    with pytest.raises(ConfigError, match=r"KERNEL_SLURM_TIEM: there is no such field; did you mean `time`\?"):
        overrides_from_env({"KERNEL_SLURM_TIEM": "3"})


@pytest.mark.parametrize("field", KERNELSPEC_ONLY)
def test_a_start_cannot_change_where_and_how_the_supervisor_runs(field):
    with pytest.raises(ConfigError, match=f"`{field}` can be set in the kernelspec and the site's defaults only"):
        overrides_from_env({f"KERNEL_SLURM_{field.upper()}": "x"})


# Limits


@pytest.mark.parametrize(
    ("limits", "within"),
    [
        ({"time": "8h"}, {"time": "8h"}),
        ({"nodes": 2}, {"nodes": "1-2"}),
        ({"ntasks": 4}, {"nodes": 2, "ntasks_per_node": 2}),
        ({"cpus_per_task": 4}, {"cpus_per_task": 4}),
        ({"mem": "8G"}, {"mem": "8192M"}),
        ({"mem": "8G"}, {"mem_per_cpu": "2G", "cpus_per_task": 4}),
        ({"mem_per_cpu": "2G"}, {"mem": "8G", "cpus_per_task": 4}),
        ({"gpus": 2}, {"gpus": "a100:1,v100:1"}),
        ({"gpus": 2}, {"gres": "gpu:1", "nodes": 2}),
        ({"gpus": 0}, {"gpus": 0}),
        ({"gpus": False}, {"gres": "shard:1"}),
        ({"lease": "1h"}, {"lease": 3600}),
        ({"partition": ["a", "b"]}, {"partition": "b,a"}),
        ({"partition": "a"}, {"partition": "a"}),
        ({"partition": "a,b"}, {"partition": "b"}),
        ({"qos": ["x"], "constraint": ["intel&ib"]}, {"constraint": "intel&ib"}),
        ({"cpus_per_task": [1, 2, 4]}, {"cpus_per_task": 4}),
        ({"time": ["1h", "4h"]}, {"time": 240}),
        ({"exclusive": False, "persistent": False, "container": False}, {"exclusive": False}),
        ({"cpus_per_task": 4, "exclusive": True}, {"exclusive": True}),
        ({"sbatch": ["mail_type", "comment"]}, {"sbatch": {"mail-type": "END"}}),
        ({"modules": ["gcc", "cuda"]}, {"modules": ["cuda"]}),
        ({"container": ["/site/torch.sif"]}, {"container": "/site/torch.sif"}),
        ({"ssh": ["hpc"]}, {"ssh": {"host": "hpc", "via": "node"}}),
        ({"sbatch": False, "prologue": False}, {"env": {"A": "1"}}),
    ],
)
def test_what_is_within_the_limits_stays_as_it_is(limits, within):
    limited, free = KernelConfig.load(within, limits=limits), KernelConfig.load(within)
    for name in within:
        assert getattr(limited, name) == getattr(free, name)


@pytest.mark.parametrize(
    ("limits", "above", "field"),
    [
        ({"time": "8h"}, {"time": "8:00:01"}, "time"),
        ({"time": "8h"}, {"time": 0}, "time"),
        ({"time": "8h"}, {"time": "UNLIMITED"}, "time"),
        ({"time": ["1h", "4h"]}, {"time": "2h"}, "time"),
        ({"ssh": ["hpc"]}, {"ssh": "elsewhere"}, "ssh"),
        ({"nodes": 2}, {"nodes": "1-3"}, "nodes"),
        ({"ntasks": 4}, {"nodes": 5}, "ntasks"),
        ({"ntasks": 4}, {"nodes": 2, "ntasks_per_node": 3}, "ntasks"),
        ({"ntasks": 4}, {"nodelist": "c[1-5]"}, "ntasks"),
        ({"ntasks_per_node": 4}, {"ntasks": 5}, "ntasks_per_node"),
        ({"cpus_per_task": 4}, {"cpus_per_task": 5}, "cpus_per_task"),
        ({"mem": "8G"}, {"mem": "9G"}, "mem"),
        ({"mem": "8G"}, {"mem": 0}, "mem"),
        ({"mem": "8G"}, {"mem_per_cpu": "2G", "cpus_per_task": 5}, "mem"),
        ({"mem": "8G"}, {"mem_per_cpu": "2G", "ntasks": 5}, "mem"),
        ({"mem": ["4G", "8G"]}, {"mem_per_cpu": "9G"}, "mem"),
        ({"mem_per_cpu": "2G"}, {"mem": "4G"}, "mem_per_cpu"),
        ({"mem_per_cpu": "2G"}, {"mem": 0}, "mem_per_cpu"),
        ({"gpus": 2}, {"gpus": "a100:2,v100:1"}, "gpus"),
        ({"gpus": 2}, {"gres": "gpu:2", "nodes": 2}, "gpus"),
        ({"gpus": 2}, {"gres": "gpu:a100:2", "ntasks": 2}, "gpus"),
        ({"gpus": 2}, {"gres": "gpu:2", "nodelist": "c[1-2]"}, "gpus"),
        ({"gpus": 2}, {"gres": "gpu:1", "nodelist": "/a/file"}, "gpus"),
        ({"gpus": False}, {"gpus": 1}, "gpus"),
        ({"gpus": [1, 2]}, {"gres": "gpu:4"}, "gpus"),
        ({"lease": "1h"}, {"lease": "2h"}, "lease"),
        ({"partition": ["a", "b"]}, {"partition": "a,c"}, "partition"),
        ({"constraint": ["intel"]}, {"constraint": "intel|amd"}, "constraint"),
        ({"persistent": False}, {"persistent": True}, "persistent"),
        ({"reservation": False}, {"reservation": "r"}, "reservation"),
        ({"container": False}, {"container": "/x.sif"}, "container"),
        ({"container": ["/site/torch.sif"]}, {"container": "/x.sif"}, "container"),
        ({"prologue": False}, {"prologue": ["id"]}, "prologue"),
        ({"srun": False}, {"srun": ["--exact"]}, "srun"),
        ({"modules": ["gcc"]}, {"modules": ["gcc", "cuda"]}, "modules"),
        ({"sbatch": ["comment"]}, {"sbatch": {"mail-type": "END"}}, "sbatch"),
        ({"sbatch": False}, {"sbatch": {"mail-type": "END"}}, "sbatch"),
        ({"exclusive": False}, {"exclusive": "user"}, "exclusive"),
        ({"cpus_per_task": 4}, {"exclusive": True}, "exclusive"),
        ({"gpus": 4}, {"sbatch": {"gpus-per-node": 8}}, "sbatch"),
        ({"gpus": 4}, {"sbatch": {"tres-per-task": "gres/gpu:8"}}, "sbatch"),
        ({"cpus_per_task": 4}, {"sbatch": {"mincpus": 64}}, "sbatch"),
        ({"cpus_per_task": 4}, {"sbatch": {"core-spec": 1}}, "sbatch"),
        ({"mem": "4G"}, {"gpus": 1, "sbatch": {"mem-per-gpu": "1T"}}, "sbatch"),
        ({"nodelist": ["c1"]}, {"sbatch": {"nodefile": "/etc/nodes"}}, "sbatch"),
    ],
)
def test_what_is_above_a_limit_is_refused_by_name(limits, above, field):
    text = refused(above, limits=limits, kind=LimitError)
    assert f"`{field}`" in text
    assert "c.SlurmProvisioner.limits" in text


def test_the_error_names_value_source_and_limit():
    text = refused({"time": "1h"}, overrides={"time": "2d"}, limits={"time": "8h"}, kind=LimitError)
    assert text.splitlines()[0] == (
        "The kernel asks for more than the site allows: `time` (KERNEL_SLURM_TIME) comes to 2-00:00:00; "
        "the site's limit is 08:00:00"
    )
    text = refused({"partition": "big"}, limits={"partition": ["a", "b"]}, kind=LimitError)
    assert "`partition` (kernelspec) is big; the site allows a, b" in text


@pytest.mark.parametrize(
    ("limits", "given_as", "field", "kept"),
    [
        ({"time": "8h"}, {}, "time", "08:00:00"),
        ({"time": "8h"}, {"time": None}, "time", "08:00:00"),
        ({"time": ["1h", "4h"]}, {}, "time", "01:00:00"),
        ({"queue_timeout": "1d"}, {}, "queue_timeout", 86400),
        ({"lease": 60}, {}, "lease", 60),
        ({"lease": 6000}, {}, "lease", 900),
        ({"lease": 6000}, {"ssh": "hpc"}, "lease", 6000),
        ({"nodes": 2}, {"ntasks": 64}, "nodes", "1"),
        ({"nodes": 2}, {"gpus": 8}, "nodes", "1"),
        ({"nodes": 2}, {}, "nodes", None),
        ({"partition": ["a", "b"]}, {}, "partition", "a"),
        ({"account": "teaching"}, {}, "account", "teaching"),
        ({"constraint": ["intel"]}, {}, "constraint", None),
        ({"mem": "8G"}, {}, "mem", None),
    ],
)
def test_what_nobody_set_is_kept_within_the_limits(limits, given_as, field, kept):
    assert getattr(KernelConfig.load(given_as, limits=limits), field) == kept


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"tim": "8h"}, "`tim`: there is no such field; did you mean `time`?"),
        ({"time": "8 hours"}, "`time`: '8 hours' is not a time"),
        ({"time": ["x"]}, "`time`: 'x' is not a time"),
        ({"gpus": "many"}, "`gpus`: 'many' is not a whole number"),
        ({"mem": "lots"}, "`mem`: 'lots' is not a size"),
        ({"partition": 5}, "`partition`: 5 is not a list"),
        ({"partition": []}, "`partition`: [] is not a list"),
        ({"exclusive": "user"}, "`exclusive`: 'user' is neither true nor false"),
        ({"sbatch": ["output"]}, "`sbatch`: --output has a field of its own"),
        ({"lease": "300"}, "`lease`: '300' has no unit"),
    ],
)
def test_a_limit_that_cannot_be_used_is_the_administrators_error(limits, reason):
    text = refused({}, limits=limits)
    assert "c.SlurmProvisioner.limits" in text
    assert reason in text


# Whatever comes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


SETTINGS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), JSON, max_size=4)


def names_a_key(kernelspec, **sources) -> bool:
    """Whether the answer is a configuration, or an error that names a key."""
    try:
        KernelConfig.load(kernelspec, **sources)
    except ConfigError as error:
        return "`" in str(error)
    return True


@given(SETTINGS, SETTINGS, SETTINGS)
def test_whatever_the_sources_say_the_answer_is_a_configuration_or_one_error(kernelspec, defaults, overrides):
    assert names_a_key(kernelspec, defaults=defaults, overrides=overrides)


@given(SETTINGS)
def test_whatever_the_limits_say_the_answer_is_a_configuration_or_one_error(limits):
    assert names_a_key({"time": "1h", "gres": "gpu:1", "exclusive": True}, limits=limits)


@given(st.sampled_from([field for field in FIELDS if field not in KERNELSPEC_ONLY]), st.text(max_size=30))
def test_whatever_a_variable_says_the_answer_is_a_configuration_or_one_error(field, text):
    assert names_a_key({}, overrides=overrides_from_env({f"KERNEL_SLURM_{field.upper()}": text}))


def test_reading_a_configuration_loads_nothing_but_pydantic():
    heavy = ["cryptography", "zmq", "traitlets", "jupyter_client"]
    script = f"import sys, slurm_provisioner.config; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
