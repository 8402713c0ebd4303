"""The command `jupyter slurm`, its parts by name, and how they end.

Jupyter finds it as the program ``jupyter-slurm``. Each part is imported when it is called: completing a word in a shell
must not wait for all of them.
"""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module

import click

from ..errors import ConfigError, SlurmProvisionerError
from . import show

__all__ = ["main", "run"]

#: Exit codes, as the help tells them; 2 is click's own for a wrong command line.
NOT_SO, WRONG, CLUSTER, INTERRUPTED = 1, 2, 3, 130

_EXIT_CODES = """\b
Exit codes:
  0  done, or all is well
  1  what was asked for is not there, or a check failed
  2  the command line, a kernelspec or a setting of the site is wrong
  3  the cluster said no, or could not be asked"""

#: Where each part is, and its line of help.
_PARTS = {
    "add": ("add", "Make a kernelspec whose kernels run in Slurm jobs."),
    "edit": ("edit", "Change such a kernelspec."),
    "remove": ("edit", "Remove such a kernelspec."),
    "doctor": ("doctor", "Check all that a start needs, and say what is wrong."),
    "list": ("jobs", "List your kernels and their jobs."),
    "info": ("jobs", "Tell all that is known of a kernel."),
    "logs": ("logs", "Print what a kernel and its job have printed."),
    "stop": ("jobs", "Cancel the jobs of kernels."),
    "clean": ("clean", "Remove what kernels left behind that ended."),
    "render": ("render", "Print the batch script of a kernelspec."),
    "completion": ("completion", "Print what makes a shell complete these commands."),
}


class _Parts(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_PARTS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _PARTS:
            return None
        command = getattr(import_module(f".{_PARTS[cmd_name][0]}", __package__), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in _PARTS.items()])


@click.group(cls=_Parts, epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "-V", "--version", package_name="slurm_provisioner", message="%(version)s")
def main() -> None:
    """Kernels in Slurm jobs.

    \b
    jupyter slurm add python3 --gpus 1 --time 4h    make a kernelspec
    jupyter slurm doctor                            see whether all is well
    """


def run() -> None:
    """Run the command of this process's command line, and end the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what the terminal's encoding does not have
    sys.exit(call(sys.argv[1:]))


def call(argv: list[str]) -> int:
    """Run a command and return its exit code."""
    try:
        with show.told_plainly():
            code = main.main(argv, "jupyter slurm", "_JUPYTER_SLURM_COMPLETE", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_SO
    except SlurmProvisionerError as error:
        show.error(error)
        return getattr(error, "exit_code", WRONG if isinstance(error, ConfigError) else CLUSTER)
    return code if isinstance(code, int) else 0
