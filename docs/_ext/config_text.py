"""The reference of the configuration, as Markdown, from the models themselves. Pure."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator, Sequence
from types import NoneType

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from slurm_provisioner import fields, limits, sbatch_options
from slurm_provisioner.config import KERNELSPEC_ONLY, SECTIONS, Container, KernelConfig
from slurm_provisioner.login_host import LoginHost
from slurm_provisioner.provisioner import SlurmProvisioner
from slurm_provisioner.sources import PREFIX

__all__ = ["config", "container", "limits_of_a_site", "login_host", "refused_options", "site"]

#: What a value is, in plain words. A kind of field that is missing here fails the build.
_KINDS = {
    fields.Address: "address, or a host's name",
    fields.Bind: "path, `path:inside` or `path:inside:ro`",
    fields.Cluster: "name",
    fields.Command: "program: a name, or a path",
    fields.CondaEnv: "name, or a path",
    fields.ContainerArgs: "list of options, or one text",
    fields.Count: "whole number, at least 1",
    fields.Duration: "duration",
    fields.Env: "mapping of names to texts",
    fields.EnvNames: "list of names, or a text with commas",
    fields.Exclusive: 'true, false, "user", "mcs" or "topo"',
    fields.Gpus: "number of GPUs, also by type",
    fields.Image: "path, or a URI",
    fields.Interface: "name",
    fields.JobName: "up to 64 letters, digits and `. _ + @ -`",
    fields.Line: "text",
    fields.Listed: "text, or a list of names",
    fields.LogPath: "path of a file",
    fields.Nodes: "number, or a range",
    fields.OwnLines: "list of lines, or one text",
    fields.Path: "path",
    fields.Port: "port",
    fields.Ports: "range of ports",
    fields.Program: "program: a name, or a path",
    fields.SbatchOptions: "mapping of options to values",
    fields.ShellPath: "path, also with $NAME",
    fields.Size: "size",
    fields.SshHost: "name, or an address",
    fields.SshUser: "name",
    fields.StepOptions: "true, false or a list of options",
    fields.Time: "time",
    fields.WarningTime: "duration",
    fields.Words: "list of names, or a text with commas or spaces",
    fields.YesOrNo: "true or false",
    Container: "image, or a mapping",
    LoginHost: "host, or a mapping",
}

_DEFAULT = re.compile(r"\s*Default: (.+?)\.(?=\s|$)")
_OPTION = re.compile(r"\s*sbatch (--?[\w-]+)\.$")


def config() -> str:
    """Return all fields of a kernelspec's ``config``, in their groups."""
    parts = []
    for name, field in KernelConfig.model_fields.items():
        if name in SECTIONS:
            parts.append(f"## {SECTIONS[name]}")
        parts.append(_field(KernelConfig, name, field, how=_override(name)))
    return "\n\n".join(parts)


def container() -> str:
    """Return the fields of `container`."""
    return _nested(Container, "container")


def login_host() -> str:
    """Return the fields of `ssh`."""
    return _nested(LoginHost, "ssh")


def site() -> str:
    """Return the settings of `SlurmProvisioner` that a site makes in Jupyter's configuration."""
    parts = []
    for name, trait in SlurmProvisioner.class_own_traits(config=True).items():
        words = " ".join(trait.help.split())
        parts.append(_entry(f"c.SlurmProvisioner.{name}", "mapping of fields to values", "none", words))
    return "\n\n".join(parts)


def limits_of_a_site() -> str:
    """Return what limits mean, in the words of the module that applies them."""
    return (limits.__doc__ or "").partition("\n\n")[2]


def refused_options() -> str:
    """Return the options of sbatch that `sbatch` does not take, with what there is in their place."""
    rows = [(f"`--{name}`", f"{{confval}}`{field}`") for name, field in sorted(sbatch_options.FIELD_OF_OPTION.items())]
    rows += [(f"`--{name}`", reason) for name, reason in _refused()]
    return table(["option", "in its place, or why not"], rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _refused() -> Iterator[tuple[str, str]]:
    for name in sorted(sbatch_options._REFUSED):
        try:
            sbatch_options.option_name(name)
        except ValueError as error:
            yield name, str(error).partition(" cannot be given: ")[2]


def _nested(model: type[BaseModel], prefix: str) -> str:
    return "\n\n".join(
        _field(model, name, field, shown=f"{prefix}.{name}") for name, field in model.model_fields.items()
    )


def _override(name: str) -> str:
    if name in KERNELSPEC_ONLY:
        return "Only the kernelspec and the site's defaults can set it."
    return f"One start: `{PREFIX}{name.upper()}`."


def _field(model: type[BaseModel], name: str, field: FieldInfo, *, shown: str = "", how: str = "") -> str:
    words = " ".join((field.description or "").split())
    option = _OPTION.search(words)
    words = _OPTION.sub("", words)
    default = _DEFAULT.search(words)
    words = _DEFAULT.sub("", words).strip()
    notes = [f"sbatch: `{option[1]}`." if option else "", how]
    return _entry(
        shown or name,
        _kind(typing.get_type_hints(model, include_extras=True)[name]),
        default[1] if default else _written(field),
        "\n\n".join(filter(None, [words, " ".join(filter(None, notes))])),
    )


def _entry(name: str, kind: str, default: str, words: str) -> str:
    # MyST reads options as YAML
    type_, default = (json.dumps(text, ensure_ascii=False) for text in (kind, default))
    return f"````{{confval}} {name}\n:type: {type_}\n:default: {default}\n\n{words}\n````"


def _written(field: FieldInfo) -> str:
    if field.is_required():
        return "none, it must be given"
    return f'"{field.default}"' if isinstance(field.default, str) else str(field.default)


def _kind(hint: typing.Any) -> str:
    """Return what a value is: for a choice its words, for all else those of `_KINDS`."""
    if hint in _KINDS:
        return _KINDS[hint]
    origin, args = typing.get_origin(hint), [arg for arg in typing.get_args(hint) if arg is not NoneType]
    if origin is typing.Literal:
        return " or ".join(f'"{arg}"' for arg in args)
    if origin is tuple:
        return f"list: {_kind(args[0])}"
    if origin is typing.Annotated or len(args) == 1:
        return _kind(args[0])
    raise LookupError(f"There are no words for {hint}: add them to _KINDS.")
