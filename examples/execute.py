"""Execute a notebook in a Slurm job and show what its cells print, as they do.

python execute.py --kernel slurm-python hello.ipynb
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

started = time.monotonic()


def tell(text: str) -> None:
    print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)


class Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(record.getMessage())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebook")
    parser.add_argument("--kernel", default="", help="name of the kernelspec (default: the notebook's own)")
    options = parser.parse_args()

    log = logging.getLogger("slurm_provisioner.example")
    log.setLevel(logging.INFO)
    log.addHandler(Teller())

    def show(cell: Any, cell_index: int, **_: Any) -> None:
        for output in cell.outputs:
            if output.output_type == "stream":
                print("".join(f"          {line}" for line in output.text.splitlines(keepends=True)), flush=True)
        tell(f"cell {cell_index} done")

    notebook = nbformat.read(options.notebook, as_version=4)
    where = {"metadata": {"path": str(Path(options.notebook).absolute().parent)}}
    client = NotebookClient(notebook, kernel_name=options.kernel, resources=where, on_cell_executed=show)
    client.create_kernel_manager()
    client.km.log = log
    tell("submitting a job for the kernel")
    client.execute()
    tell("the kernel is shut down and its job given back")


if __name__ == "__main__":
    main()
