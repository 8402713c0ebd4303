"""What kernelspecs are called, by what they ask for. Pure."""

from __future__ import annotations

import re

from ..config import KernelConfig
from ..quantities import count_gpus, parse_size, parse_time, span

__all__ = ["display_name", "kernel_name"]


def display_name(base: str, config: KernelConfig) -> str:
    """Return a name for people, such as "Python 3 · gpu · 1 GPU · 4 h".

    Parameters
    ----------
    base : str
        The display name of the kernelspec it was made from.
    config : KernelConfig
        What it asks for.
    """
    where = config.ssh.host if config.ssh is not None else ""
    return " · ".join(filter(None, [language(base), where, *_asked(config)]))


def kernel_name(base: str, config: KernelConfig) -> str:
    """Return a name for programs, such as ``python3-gpu-1gpu``."""
    gpus = f"{count_gpus(config.gpus)}gpu" if config.gpus else ""
    where = config.ssh.host if config.ssh is not None else ""
    parts = [base or "python", where, config.partition or "", gpus]
    name = "-".join(filter(None, parts)) if any(parts[1:]) else f"{base or 'python'}-slurm"
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.")


def language(base: str) -> str:
    """Return a display name without what was added to it: "Python 3" of "Python 3 (ipykernel)"."""
    return re.sub(r"\s*\([^)]*\)$", "", base.partition(" · ")[0]).strip() or base


def _asked(config: KernelConfig) -> list[str]:
    parts = [config.conda_env or "", config.venv or "", config.container.image if config.container else ""]
    environment = [re.sub(r"\.sif$", "", part.rstrip("/").rpartition("/")[2]) for part in parts]
    nodes = config.nodes if config.nodes and config.nodes != "1" else ""
    return [
        *environment,
        config.partition or "",
        f"{nodes} nodes" if nodes else "",
        _cpus(config),
        _memory(config.mem),
        _gpus(config.gpus),
        span(parse_time(config.time), parts=4) if config.time is not None else "",
    ]


def _cpus(config: KernelConfig) -> str:
    count = config.cpus_per_task or 0
    return f"{count} CPUs" if count > 1 else ""


def _memory(size: str | None) -> str:
    megabytes = parse_size(size) if size is not None else 0
    if not megabytes:
        return ""
    return f"{megabytes // 1024} GB" if megabytes % 1024 == 0 else f"{megabytes} MB"


def _gpus(gpus: str | None) -> str:
    if not gpus:
        return ""
    kinds = dict.fromkeys(part.rpartition(":")[0] for part in gpus.split(","))
    count = count_gpus(gpus)
    kind = next(iter(kinds)).upper() if len(kinds) == 1 else ""
    return f"{count} {kind or ('GPU' if count == 1 else 'GPUs')}"
