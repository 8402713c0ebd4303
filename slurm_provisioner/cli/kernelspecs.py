"""Kernelspecs: found, made, written and removed."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_core.paths import jupyter_data_dir
from traitlets import TraitError

from ..errors import ConfigError
from ..provisioner import SlurmProvisioner
from ..sbatch_options import nearest
from ..sources import HINTS, KERNELSPEC

__all__ = [
    "GROUP",
    "PROVISIONER",
    "Kernelspec",
    "NotFoundError",
    "find",
    "folder_for",
    "for_jupyter",
    "install",
    "names",
    "ours",
    "python_kernel",
    "remove",
    "rewrite",
]

PROVISIONER = "slurm-provisioner"
GROUP = "jupyter_client.kernel_provisioners"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Kernelspec:
    """A kernelspec.

    Attributes
    ----------
    name : str
        Its name, "" before it has one.
    document : dict
        What its kernel.json says.
    folder : Path or None
        Where it is, with its logos; None if it is nowhere.
    """

    name: str
    document: dict[str, Any]
    folder: Path | None = field(default=None, repr=False)

    @property
    def display_name(self) -> str:
        """What people pick it by."""
        return str(self.document.get("display_name", self.name))

    @property
    def stanza(self) -> dict[str, Any]:
        """What it says of its provisioner."""
        return _mapping(_mapping(self.document.get("metadata")).get("kernel_provisioner"))

    @property
    def config(self) -> dict[str, Any]:
        """The `config` of its provisioner, empty where that is none of ours.

        Raises
        ------
        ConfigError
            It is no mapping.
        """
        found = self.stanza.get("config") if is_ours(self) else None
        if not isinstance(found, dict | None):
            raise ConfigError(
                f"The `config` of the kernelspec {self.name} is no mapping of fields to values.", hint=HINTS[KERNELSPEC]
            )
        return {**(found or {})}

    def with_config(self, config: Mapping[str, Any], display_name: str) -> Kernelspec:
        """Return the same with another configuration, and run by us."""
        stanza = self.stanza if is_ours(self) else {"provisioner_name": PROVISIONER}
        spec = self.run_by({**stanza, "config": {**config}})
        return replace(spec, document={**spec.document, "display_name": display_name})

    def run_by(self, stanza: Mapping[str, Any]) -> Kernelspec:
        """Return the same with another stanza for its provisioner."""
        document = copy.deepcopy(self.document)
        document["metadata"] = {**_mapping(document.get("metadata")), "kernel_provisioner": {**stanza}}
        return replace(self, document=document)


class NotFoundError(ConfigError):
    """There is no such kernelspec, or none whose kernels we run."""

    exit_code = 1


def names(*, only_ours: bool = False) -> dict[str, str]:
    """Return the names of kernelspecs and their folders.

    Raises
    ------
    ConfigError
        A folder of kernelspecs cannot be read.
    """
    try:
        found = KernelSpecManager().find_kernel_specs()
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}.") from error
    if only_ours:
        found = {name: folder for name, folder in found.items() if is_ours(_read(name, Path(folder)))}
    return dict(sorted(found.items()))


def find(name: str) -> Kernelspec:
    """Return a kernelspec.

    Raises
    ------
    NotFoundError
        There is none of that name.
    ConfigError
        What is there is none.
    """
    known = names()
    if (folder := known.get(name.lower())) is None:
        raise NotFoundError(
            f"There is no kernelspec {name}{nearest(name, [*known])}",
            hint=f"There are: {', '.join(known) or 'none'}.",
        )
    path = Path(folder, "kernel.json")
    try:
        if not path.is_file():  # ipykernel's own, which need not be installed
            return Kernelspec(name.lower(), KernelSpecManager().get_kernel_spec(name).to_dict(), path.parent)
        spec = Kernelspec(name.lower(), _document(path), path.parent)
        for_jupyter(spec)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, TraitError, RecursionError) as error:
        raise ConfigError(f"{path} is no kernelspec: {str(error).rstrip('.')}.") from error
    return spec


def for_jupyter(spec: Kernelspec) -> KernelSpec:
    """Return a kernelspec as jupyter_client has it, without keys that it does not know.

    Raises
    ------
    TraitError
        A value is not of its kind.
    """
    known = KernelSpec.class_trait_names()
    document = {key: value for key, value in spec.document.items() if key in known}
    return KernelSpec(**{**document, "resource_dir": str(spec.folder or "")})


def ours(name: str, default: str = "") -> Kernelspec:
    """Return a kernelspec whose kernels run in Slurm jobs.

    Parameters
    ----------
    name : str
        Its name.
    default : str
        The provisioner of a kernelspec that names none.

    Raises
    ------
    NotFoundError
        There is none of that name.
    """
    try:
        spec = find(name)
        if default and "provisioner_name" not in spec.stanza:
            spec = spec.run_by({**spec.stanza, "provisioner_name": default})
        problem = "" if is_ours(spec) else f"The kernels of {name} do not run in Slurm jobs."
    except NotFoundError as error:
        problem = error.summary
    if problem:
        known = ", ".join(names(only_ours=True))
        hint = f"Those that do: {known}." if known else "None does: `jupyter slurm add` makes a kernelspec that does."
        raise NotFoundError(problem, hint=hint)
    return spec


def is_ours(spec: Kernelspec) -> bool:
    """Return whether a kernelspec names our provisioner, or one that a site made of it and gave the same `config`."""
    name = spec.stanza.get("provisioner_name")
    if name in (PROVISIONER, "", "local-provisioner") or not isinstance(name, str):
        return bool(name == PROVISIONER)
    with suppress(Exception):  # whatever a stranger's module does when it is imported
        return any(issubclass(entry.load(), SlurmProvisioner) for entry in entry_points(group=GROUP, name=name))
    return False


def python_kernel() -> Kernelspec:
    """Return a kernelspec of ipykernel, run by whatever `python` is in the job's environment."""
    argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    document = {"argv": argv, "display_name": "Python", "language": "python", "metadata": {"debugger": True}}
    logos = names().get("python3")
    return Kernelspec("", document, Path(logos) if logos else None)


def _read(name: str, folder: Path) -> Kernelspec:
    try:
        document = _document(folder / "kernel.json")
    except (OSError, ValueError, RecursionError):
        document = {}
    return Kernelspec(name, document, folder)


def _document(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError("it is no mapping")  # noqa: TRY004  (as for what is no JSON)
    return document


def _mapping(value: object) -> dict[str, Any]:
    """Return what is a mapping; an empty one for all else, which anybody may have written."""
    return value if isinstance(value, dict) else {}


def folder_for(name: str, prefix: str | None) -> Path:
    """Return where a kernelspec of some name is installed.

    Parameters
    ----------
    name : str
        Its name.
    prefix : str or None
        Where ``share/jupyter/kernels`` is; None for the user's own.

    Raises
    ------
    ConfigError
        The name is none: Jupyter's own rule for names lets ``..`` pass.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name of a kernelspec.",
            hint="It has letters, digits, `.`, `_` and `-`, and begins with a letter or a digit.",
        )
    parent = Path(jupyter_data_dir()) if prefix is None else Path(prefix, "share", "jupyter")
    return parent / "kernels" / name.lower()


def install(spec: Kernelspec, *, prefix: str | None) -> Path:
    """Install a kernelspec with its logos, in place of whatever is there; return its folder.

    Parameters
    ----------
    spec : Kernelspec
        The kernelspec; its folder is where its logos come from.
    prefix : str or None
        Where ``share/jupyter/kernels`` is; None for the user's own.

    Raises
    ------
    ConfigError
        The folder cannot be written, or the name is none.
    """
    folder_for(spec.name, prefix)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "kernel")
        try:
            if spec.folder is not None and spec.folder.is_dir():
                shutil.copytree(spec.folder, source)
            source.mkdir(exist_ok=True)
            source.chmod(source.stat().st_mode | stat.S_IRWXU)  # the one that it is made from may be read-only
            _write(source / "kernel.json", spec.document)
            return Path(
                KernelSpecManager().install_kernel_spec(
                    str(source), kernel_name=spec.name, user=prefix is None, prefix=prefix
                )
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        except OSError as error:
            where = prefix or jupyter_data_dir()
            raise ConfigError(
                f"The kernelspec cannot be written below {where}: {error.strerror or error}.",
                hint="Without --prefix and --sys-prefix it is installed for you alone."
                if prefix
                else "--sys-prefix and --prefix install it elsewhere.",
            ) from error


def rewrite(spec: Kernelspec) -> None:
    """Write a kernelspec's document in its place.

    Raises
    ------
    ConfigError
        It cannot be written.
    """
    assert spec.folder is not None
    try:
        _write(spec.folder / "kernel.json", spec.document)
    except OSError as error:
        raise ConfigError(f"{error.filename or spec.folder} cannot be written: {error.strerror}.") from error


def remove(spec: Kernelspec) -> str:
    """Remove a kernelspec, and return the folder that is gone.

    Raises
    ------
    ConfigError
        It cannot be removed.
    """
    try:
        return str(KernelSpecManager().remove_kernel_spec(spec.name))
    except KeyError as error:
        raise NotFoundError(f"The kernelspec {spec.name} is gone already.") from error
    except OSError as error:
        raise ConfigError(f"{error.filename or spec.folder} cannot be removed: {error.strerror}.") from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """Write a kernel.json as a whole: a server may read it at any time. Who could not read it before cannot after."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    path = path.resolve()  # what a link leads to
    scratch = path.with_name(f".{path.name}.new")
    try:
        scratch.unlink(missing_ok=True)
        scratch.touch(mode=0o600)
        scratch.write_text(text, encoding="utf-8")
        scratch.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
