"""Run by one user: a login host for that user alone, until standard input ends; tells the configuration of ssh."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from login_host import Laptop, Sshd


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Sshd(Path(folder) / "hpc", environment={"SLURM_CONF": sys.argv[1]}) as sshd,
    ):
        laptop = Laptop(Path(folder) / "laptop")
        laptop.add("hpc", sshd)
        print(laptop.config, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
