"""Which clusters may have kernels of this user, and how all of them are asked."""

from __future__ import annotations

import concurrent.futures
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ..cluster import Cluster, Place, acquire, release
from ..config import KernelConfig
from ..errors import CommandError, ConfigError
from ..loop import background_loop
from . import kernelspecs, show, site
from .asking import place_of

__all__ = ["Where", "ask_all", "lasting", "wheres"]

T = TypeVar("T")
Load = Callable[[Mapping[str, object]], KernelConfig]

#: The fields of a config that say where its kernels are.
_FIELDS = ("ssh", "clusters", "slurm_bin", "state_dir")


@dataclass(frozen=True)
class Where:
    """A cluster, and the folders in which kernels may have left something.

    Attributes
    ----------
    place : Place
        The cluster.
    state_dirs : tuple of str
        The folders, as configurations name them.
    """

    place: Place
    state_dirs: tuple[str, ...]

    @property
    def name(self) -> str:
        """What people call it."""
        host = self.place.login.address if self.place.login is not None else ""
        return ":".join(filter(None, [host, self.place.clusters])) or "local"


def wheres(*, ssh: str | None = None, kernelspec: str | None = None) -> list[Where]:
    """Return the clusters that kernelspecs name, and this machine's own if it has one.

    Parameters
    ----------
    ssh : str, optional
        The login host of the only one that is wanted.
    kernelspec : str, optional
        The kernelspec of the only one that is wanted.

    Raises
    ------
    ConfigError
        There is no such kernelspec, or what is asked for by name cannot be used.
    """
    load = site.only(_FIELDS)
    if kernelspec is not None:
        return _of([kernelspecs.ours(kernelspec).config], load)
    known = _of([*_installed(), *_default(load)], load, forgiving=True)
    if ssh is None:
        return known
    chosen = [
        where for where in known if where.place.login and ssh in (where.place.login.host, where.place.login.address)
    ]
    return chosen or _of([{"ssh": ssh}], load)


def _installed() -> list[dict[str, object]]:
    found = []
    for name in kernelspecs.names(only_ours=True):
        try:
            found.append(kernelspecs.ours(name).config)
        except ConfigError as error:
            _pass_over(error)
    return found


def _pass_over(error: ConfigError) -> None:
    show.note(f"warning: a kernelspec is passed over: {error}")


def _default(load: Load) -> list[dict[str, object]]:
    """Return the site's own config, if there is a cluster where it says."""
    config = load({})
    folder = config.slurm_bin
    here = shutil.which("sbatch", path=folder) if folder else shutil.which("sbatch")
    return [{}] if config.ssh is not None or here else []


def _of(configs: list[dict[str, object]], load: Load, *, forgiving: bool = False) -> list[Where]:
    folders: dict[Place, dict[str, None]] = {}
    for config in configs:
        try:
            loaded = load(config)
        except ConfigError as error:
            if not forgiving:
                raise
            _pass_over(error)
            continue
        folders.setdefault(place_of(loaded), {})[loaded.state_dir] = None
    return [Where(place, (*found,)) for place, found in folders.items()]


def ask_all(
    where: list[Where], question: Callable[[Cluster, Where], Awaitable[T]], words: str = "Asking the cluster …"
) -> tuple[list[tuple[Where, T]], bool]:
    """Ask clusters at the same time; return their answers, and whether all have answered: who has not is told of."""

    async def go(each: Where) -> T:
        cluster = acquire(each.place)
        try:
            return await question(cluster, each)
        finally:
            await release(cluster)

    asked = [(each, background_loop().submit(go(each))) for each in where]
    answers, complete = [], True
    try:
        with show.working(words):
            concurrent.futures.wait([answer for _, answer in asked])
        for each, answer in asked:
            try:
                answers.append((each, answer.result()))
            except CommandError as error:
                complete = False
                show.error(error)
    except BaseException:
        for _, answer in asked:
            answer.cancel()
        raise
    return answers, complete


class lasting:  # noqa: N801  (a context manager, as contextlib has them)
    """Keeps connections to clusters while something is asked again and again."""

    def __init__(self, where: list[Where]) -> None:
        self._where = where
        self._clusters: list[Cluster] = []

    def __enter__(self) -> None:
        async def hold() -> list[Cluster]:
            return [acquire(each.place) for each in self._where]

        self._clusters = background_loop().submit(hold()).result()

    def __exit__(self, *_: object) -> None:
        async def give_back() -> None:
            for cluster in self._clusters:
                await release(cluster)

        background_loop().submit(give_back()).result()
