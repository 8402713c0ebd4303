# A site's settings; put them in /etc/jupyter/jupyter_server_config.py of the login nodes.
c = get_config()  # type: ignore[name-defined]  # noqa: F821

# what a kernelspec need not say
c.SlurmProvisioner.defaults = {"partition": "debug", "time": "2h", "mem": "2G"}
# what it may ask for at most
c.SlurmProvisioner.limits = {"time": "12h", "gpus": 2, "partition": ["debug", "gpu"]}
# kernelspecs that say nothing about provisioners run in Slurm, too
c.KernelProvisionerFactory.default_provisioner_name = "slurm-provisioner"
