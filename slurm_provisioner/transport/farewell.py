"""What the guard of a process that died runs: logs in to a login host, and runs commands there.

    python -m slurm_provisioner.transport.farewell LOGIN ARGV...

LOGIN and each ARGV are JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys

from ..errors import CommandError, LoginHostError
from ..login_host import LoginHost
from .ssh import SshTransport

__all__ = ["main"]

#: Seconds for one command. Nobody waits for it.
TIMEOUT = 30.0


async def main(login: str, *argvs: str) -> None:
    """Run commands, whatever becomes of each."""
    transport = SshTransport(LoginHost.model_validate_json(login))
    try:
        for argv in argvs:
            try:
                await transport.run(json.loads(argv), timeout=TIMEOUT)
            except LoginHostError:
                return  # no more tries than there have to be: they may be taken for an attack
            except CommandError:
                continue
    finally:
        await transport.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
