"""The site's settings, as a Jupyter server on this machine would have them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_core.application import JupyterApp
from traitlets import TraitError

from ..config import KernelConfig, overrides_from_env
from ..errors import ConfigError
from ..provisioner import SlurmProvisioner
from ..sources import DEFAULTS, HINTS

__all__ = ["default_provisioner", "load", "only", "provisioner"]


class _Server(JupyterApp):
    """Reads the configuration files of jupyter_server, which need not be installed here."""

    name = "jupyter-server"
    config_file_name = "jupyter_server_config"
    raise_config_file_errors = True


def provisioner() -> SlurmProvisioner:
    """Return a provisioner with the site's `defaults` and `limits`, and no kernel.

    Raises
    ------
    ConfigError
        One of them is not of its kind.
    """
    app = _server()
    try:
        return SlurmProvisioner(parent=app, kernel_id="")
    except TraitError as error:
        raise ConfigError(
            f"A setting of this Jupyter server cannot be used: {str(error).rstrip('.')}.", hint=HINTS[DEFAULTS]
        ) from error


def default_provisioner() -> str:
    """Return the name of the provisioner of kernelspecs that name none.

    Raises
    ------
    ConfigError
        The configuration cannot be read.
    """
    return str(KernelProvisionerFactory(parent=_server()).default_provisioner_name)


def _server() -> _Server:
    app = _Server()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a file prints is not our answer
            app.load_config_file(suppress_errors=False)
    except Exception as error:  # whatever a file of somebody's own does
        raise ConfigError(
            f"The configuration of this Jupyter server cannot be read: {type(error).__name__}: {error}.",
            hint=f"`jupyter --paths` lists the folders of {app.config_file_name}.py and jupyter_config.py.",
        ) from error
    return app


def load(config: Mapping[str, object], environ: Mapping[str, str] | None = None) -> KernelConfig:
    """Return the configuration of a kernelspec on this site.

    Parameters
    ----------
    config : mapping
        The ``config`` of the kernelspec.
    environ : mapping, optional
        Variables that change one start. Default: none.

    Raises
    ------
    ConfigError
        It cannot be used, or asks for more than the site allows.
    """
    site: Any = provisioner()
    overrides = overrides_from_env(environ or {})
    return KernelConfig.load(config, defaults=site.defaults, overrides=overrides, limits=site.limits)


def only(names: Collection[str]) -> Callable[[Mapping[str, object]], KernelConfig]:
    """Return what loads configurations of kernelspecs in some fields alone, beyond all limits.

    What the site does not allow, or not any more, may run nevertheless.

    Raises
    ------
    ConfigError
        The site's settings cannot be used.
    """

    def chosen(config: Mapping[str, object]) -> dict[str, object]:
        return {name: config[name] for name in names if name in config}

    site: Any = provisioner()
    defaults = chosen(site.defaults)
    return lambda config: KernelConfig.load(chosen(config), defaults=defaults)
