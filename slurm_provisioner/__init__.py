"""A Slurm job behind every Jupyter notebook."""

__version__ = "0.1.0"
