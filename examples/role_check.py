"""A provisioner that lets only members of a role use GPUs; after the RBAC example in jupyter_client's docs.

Register it under a name of your own in the entry point group ``jupyter_client.kernel_provisioners``.
"""

from __future__ import annotations

import grp
import os
from typing import Any

from slurm_provisioner.provisioner import SlurmProvisioner


class RoleCheckingProvisioner(SlurmProvisioner):
    """Refuses kernels whose config asks for GPUs to users outside the group `role`."""

    role = "gpu-users"

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        groups = {grp.getgrgid(gid).gr_name for gid in os.getgroups()}
        if self.job_config.gpus and self.role not in groups:
            raise PermissionError(f"Kernels with GPUs are for members of {self.role!r}; ask support to join.")
        return kwargs
