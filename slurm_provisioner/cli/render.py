"""`jupyter slurm render`: the batch script of a kernelspec, as it would be submitted."""

from __future__ import annotations

import os

import click

from .. import batch
from . import kernelspecs, site
from .completing import complete_ours
from .rendering import prepared

__all__ = ["render"]


@click.command()
@click.argument("kernelspec", shell_complete=complete_ours)
@click.option("--brief", is_flag=True, help="Leave out the supervisor's text, which is the same in all of them.")
def render(kernelspec: str, brief: bool) -> None:
    """Print the batch script of KERNELSPEC as it would be submitted.

    Only the kernel's id and the end of the job's name differ each time. KERNEL_SLURM_… variables count, as for a start.
    Nothing secret is in it: that goes into a file of mode 0600 in the run directory.
    """
    spec = kernelspecs.ours(kernelspec, site.default_provisioner())
    script = prepared(site.load(spec.config, os.environ)).script
    click.echo(batch.without_supervisor(script) if brief else script, nl=False)
