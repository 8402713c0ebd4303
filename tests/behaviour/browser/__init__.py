"""What people see: JupyterLab in a browser, with kernels in real Slurm jobs."""
