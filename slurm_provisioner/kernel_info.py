"""What a kernel says of itself, kept from one start to the next: its stand-in says so before there is a kernel.

Frontends ask once, as they connect, and take from it how to highlight and how to export a notebook.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

__all__ = ["load", "save"]

#: As long as nothing better is known. Source: "Kernel info" in jupyter_client's documentation of messaging.
_UNKNOWN: dict[str, Any] = {
    "status": "ok",
    "protocol_version": "5.3",
    "implementation": "",
    "implementation_version": "",
    "banner": "",
    "help_links": [],
}
#: What a notebook's metadata should say even after the first start. Source: ipykernel's own reply.
_PYTHON = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "codemirror_mode": {"name": "ipython", "version": 3},
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}


def load(kernelspec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a ``kernel_info_reply`` for a kernel of some kernelspec that was not started yet."""
    with suppress(OSError, ValueError):
        info = json.loads(_path(kernelspec).read_bytes())
        if isinstance(info, dict) and isinstance(info.get("language_info"), dict):
            return info
    language = str(kernelspec.get("language", ""))
    language_info: dict[str, Any] = {"name": language, "version": "", "mimetype": "", "file_extension": ""}
    return {**_UNKNOWN, "language_info": {**language_info, **(_PYTHON if language == "python" else {})}}


def save(kernelspec: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Keep what a kernel said; where that is not possible, the next start does without."""
    path = _path(kernelspec)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, new = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "w") as file:
            json.dump(dict(info), file)
        Path(new).replace(path)


def _path(kernelspec: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(kernelspec, sort_keys=True, default=str).encode()).hexdigest()
    return user_cache_path("slurm-provisioner") / "kernel_info" / f"{digest[:32]}.json"
