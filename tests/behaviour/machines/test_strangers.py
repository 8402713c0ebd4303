"""What another user of the cluster can see of a kernel, on any of its machines: nothing."""

from __future__ import annotations

import secrets

from conftest import OUTSIDE

HOSTS = ("login", "c1", "c2", *(["laptop"] if OUTSIDE else []))
#: Of SSH, MariaDB and Slurm.
KNOWN_PORTS = [22, 3306, 6817, 6818, 6819]
FOLDERS = ["/tmp", "/var/tmp", "/dev/shm", "/var/spool", "/run", "/home"]


def at_work(kernel) -> dict[str, str]:
    """Have a kernel print a secret for ever; all there is to be found of it."""
    marker = f"output-{secrets.token_hex(8)}"
    kernel.begin(
        f"import time\nprint('begun', flush=True)\nwhile True: print({marker!r}, flush=True); time.sleep(0.05)"
    )
    return {"output": marker, "session key": kernel.manager.session.key.decode()}


def scan(hands, host: str, texts: dict[str, str], job_id: str) -> list[list[str]]:
    return hands.scan(host, {"secrets": texts, "job_id": job_id, "known_ports": KNOWN_PORTS, "folders": FOLDERS})


def test_the_scan_finds_what_a_plain_kernel_shows(kernelspec, start, hands):
    found = scan(hands, "laptop" if OUTSIDE else "login", at_work(start(kernelspec(stanza=False))), "")
    assert any(name == "output" and where.startswith("tcp://") for name, where in found)


def test_nothing_of_a_kernel_can_be_read(kernelspec, start, hands):
    value = f"environment-{secrets.token_hex(8)}"
    kernel = start(kernelspec(env={"API_TOKEN": value}))
    texts = at_work(kernel)
    texts |= {
        "environment": value,
        "private key": kernel.manager.provisioner.allocation._theirs.private_key.splitlines()[1],
    }
    for host in HOSTS:
        assert scan(hands, host, texts, kernel.job_id) == [], host
