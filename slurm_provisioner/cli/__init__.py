"""`jupyter slurm`: kernels in Slurm jobs, from the command line."""
