"""What a kernel is, for people: the content of ``about.json`` in its run directory. Pure; nothing in it is secret."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace

__all__ = ["About", "Server"]

FORMAT = 1
#: Seconds that can still be told as a date; infinity and NaN are none.
_MOST = 1e11


@dataclass(frozen=True)
class Server:
    """A process that has kernels, most often a Jupyter server.

    Attributes
    ----------
    host, user : str
        Where it runs, and as whom.
    process : str
        Which process it is, in the words of `processes.this_process`.
    """

    host: str = ""
    user: str = ""
    process: str = ""


@dataclass(frozen=True)
class About:
    """A kernel, and the job that was submitted for it.

    Attributes
    ----------
    kernel_id : str
        Jupyter's id of the kernel.
    job_name : str
        The job's unique name.
    kernelspec, display_name : str
        The kernelspec's name, and what people pick it by.
    notebook : str
        The notebook's path as the server told it, relative or absolute; "" if there is none.
    server : Server
        Who submitted it.
    submitted : float
        When, in seconds since the epoch.
    lease : float or None
        Seconds that it lives without hearing of its server; None if it is persistent.
    clusters : str
        The cluster of several that it was submitted to (``--clusters``), or "".
    user : str
        Whose job it is on the cluster.
    log : str
        Where its log is, with sbatch's %-patterns.
    """

    kernel_id: str
    job_name: str
    kernelspec: str = ""
    display_name: str = ""
    notebook: str = ""
    server: Server = field(default_factory=Server)
    submitted: float = 0.0
    lease: float | None = None
    clusters: str = ""
    user: str = ""
    log: str = ""

    @property
    def persistent(self) -> bool:
        """Whether it outlives its server."""
        return self.lease is None

    def to_line(self) -> str:
        """Return the file's content, one line."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_line(cls, line: str) -> About | None:
        """Return what a file says; None if it is half there, somebody else's, or of a format that is not known."""
        try:
            document = json.loads(line)
            if document["format"] != FORMAT:
                return None
            known = cls(document["kernel_id"], document["job_name"])
            known = replace(known, **{name: document[name] for name in asdict(known)})
            known = replace(known, server=Server(**document["server"]))
            return known if _is_whole(known) else None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


def _is_whole(about: About) -> bool:
    """Whether all is of its kind: somebody else's file may say anything."""
    document = asdict(about)
    server, submitted, lease = (document.pop(name) for name in ("server", "submitted", "lease"))
    numbers = [submitted, *([] if lease is None else [lease])]
    return (
        all(isinstance(text, str) for text in (*document.values(), *server.values()))
        and all(isinstance(each, (int, float)) and 0 <= each < _MOST for each in numbers)
        and "" not in (about.kernel_id, about.job_name)
    )
