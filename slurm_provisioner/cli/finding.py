"""Kernels by what people call them: a job, a kernel's id, a notebook."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from .. import kernels
from ..books import Kernel
from ..cluster import Cluster
from ..errors import SlurmProvisionerError
from ..processes import is_gone
from . import show
from .completing import silent
from .main import CLUSTER, NOT_SO
from .places import Where, ask_all, wheres
from .words import name_of

__all__ = ["Found", "NotFoundError", "choose", "complete_kernel", "look", "on_clusters", "server_is_gone"]

F = TypeVar("F", bound=Callable[..., Any])

_PLAIN = re.compile(r"[\w.+/-]+")
#: Characters of a kernel's id that are enough, if they are nobody else's.
ID_BEGINNING = 4


@dataclass(frozen=True)
class Found:
    """A kernel, and the cluster where it is."""

    where: Where
    kernel: Kernel


class NotFoundError(click.ClickException):
    """There is no such kernel, or more than one."""

    def __init__(self, summary: str, evidence: Sequence[str] = (), hint: str = "", *, code: int = NOT_SO) -> None:
        super().__init__(summary)
        self.exit_code = code  # type: ignore[misc]
        self._error = SlurmProvisionerError(summary, evidence=evidence, hint=hint)

    def show(self, file: Any = None) -> None:
        """Print it as all errors are."""
        show.error(self._error)


def on_clusters(command: F) -> F:
    """Add the options that choose a cluster."""
    command = click.option("--kernelspec", metavar="NAME", help="Only on the cluster of this kernelspec.")(command)
    return click.option("--ssh", metavar="HOST", help="Only on the cluster behind this login host.")(command)


def look(
    where: list[Where], *, ended: bool = True, surely: bool = False, words: str = "Asking for kernels …"
) -> tuple[list[Found], bool]:
    """Return the kernels of clusters, and whether all have answered: who has not is told of.

    Parameters
    ----------
    where : list of Where
        The clusters.
    ended : bool
        Whether to find out how those ended that the controllers have forgotten.
    surely : bool
        Whether a cluster has not answered where that cannot be found out.
    words : str
        What is shown meanwhile, "" for nothing.
    """
    if not where:
        hint = "`jupyter slurm add` makes a kernelspec; `--ssh HOST` names a login host."
        raise NotFoundError(
            "There is no cluster to ask: no kernelspec names one, and there is no sbatch here.", hint=hint
        )

    async def question(cluster: Cluster, each: Where) -> list[Kernel]:
        return await kernels.find(cluster.slurm, each.state_dirs, ended=ended, surely=surely)

    answers, complete = ask_all(where, question, words)
    found: dict[str, Found] = {}
    for each, answer in answers:
        for kernel in answer:  # two ways may lead to one cluster
            before = found.get(kernel.about.job_name)
            if before is None or before.kernel.job is None:
                found[kernel.about.job_name] = Found(each, kernel)
    newest_first = sorted(found.values(), key=lambda one: one.kernel.about.submitted, reverse=True)
    return newest_first, complete


def choose(found: Sequence[Found], word: str, *, complete: bool = True) -> Found:
    """Return the kernel that is called so; of several, the only one that lives.

    Raises
    ------
    NotFoundError
        There is none, or more than one.
    """
    matching = next(filter(None, ([each for each in found if test(each.kernel, word)] for test in _TESTS)), [])
    living = [each for each in matching if each.kernel.alive]
    chosen = living or matching
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        raise NotFoundError(
            f"There is no kernel {word}{'' if complete else ' on the clusters that answered'}.",
            hint="`jupyter slurm list --all` shows those there are. Name one by its job, its id or its notebook.",
            code=NOT_SO if complete else CLUSTER,
        )
    raise NotFoundError(
        f"{word} is more than one kernel:",
        [f"job {_job_id(each.kernel) or '?'} on {each.where.name}: {each.kernel.about.kernel_id}" for each in chosen],
        "Name it by its job or its id; --ssh chooses a cluster.",
    )


def _job_id(kernel: Kernel) -> str:
    return kernel.job.job_id if kernel.job is not None else ""


#: What a word may be, the surest first.
_TESTS: tuple[Callable[[Kernel, str], bool], ...] = (
    lambda kernel, word: word == _job_id(kernel),
    lambda kernel, word: word in (kernel.about.kernel_id, kernel.about.job_name),
    lambda kernel, word: len(word) >= ID_BEGINNING and kernel.about.kernel_id.startswith(word),
    lambda kernel, word: word == kernel.about.notebook,
    lambda kernel, word: word in (kernel.notebook, kernel.notebook.removesuffix(".ipynb")) and word != "",
)


def server_is_gone(kernel: Kernel) -> bool:
    """Return whether the server that started a kernel has ended; False where that cannot be known from here."""
    server = kernel.about.server
    return server.host == socket.gethostname() and is_gone(server.process)


@silent
def complete_kernel(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the job of a kernel, or its notebook."""
    items = {}
    found, _ = look(wheres(ssh=ctx.params.get("ssh"), kernelspec=ctx.params.get("kernelspec")), ended=False)
    for each in found:
        for word in (_job_id(each.kernel), each.kernel.notebook):
            # Shells take what is completed as it is: a name that means more to them is left out.
            if _PLAIN.fullmatch(word) and word.startswith(incomplete) and (each.kernel.alive or incomplete):
                items[word] = CompletionItem(word, help=name_of(each.kernel))
    return [*items.values()]
