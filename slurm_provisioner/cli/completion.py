"""Completion by the shell."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from .main import main

__all__ = ["completion"]

#: `jupyter` has no completion of its own, so a function of ours takes the two words as one; what is not ours is left
#: to the shell.
_TWO_WORDS = {
    "bash": """
_jupyter_slurm_of_jupyter() {
    [ "${COMP_WORDS[1]}" = slurm ] && [ "$COMP_CWORD" -gt 1 ] || return
    COMP_WORDS=(jupyter-slurm "${COMP_WORDS[@]:2}")
    COMP_CWORD=$((COMP_CWORD - 1))
    _jupyter_slurm_completion jupyter-slurm
}
complete -o default -F _jupyter_slurm_of_jupyter jupyter
""",
    "zsh": """
_jupyter_slurm_of_jupyter() {
    if [[ $words[2] == slurm ]] && (( CURRENT > 2 )); then
        words=(jupyter-slurm "${words[@]:2}")
        (( CURRENT -= 1 ))
        _jupyter_slurm_completion
    else
        _default
    fi
}
compdef _jupyter_slurm_of_jupyter jupyter
""",
    "fish": """
complete --no-files --command jupyter --condition '__fish_seen_subcommand_from slurm' \\
    --arguments '(_jupyter_slurm_completion)'
""",
}


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
def completion(shell: str | None) -> None:
    """Print what makes a shell complete these commands. Default: for the shell that $SHELL names.

    \b
    bash:  jupyter slurm completion bash >> ~/.bashrc
    zsh:   jupyter slurm completion zsh >> ~/.zshrc
    fish:  jupyter slurm completion fish > ~/.config/fish/completions/jupyter-slurm.fish
    """
    name = shell or Path(os.environ.get("SHELL", "bash")).name
    kind = get_completion_class(name)
    if kind is None or name not in _TWO_WORDS:
        raise click.UsageError(f"{name} is none of bash, zsh and fish.")
    click.echo(kind(main, {}, "jupyter-slurm", "_JUPYTER_SLURM_COMPLETE").source() + _TWO_WORDS[name])
