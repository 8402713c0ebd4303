"""The package's layers: imports point one way, and a look at kernelspecs stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import slurm_provisioner

PACKAGE = Path(slurm_provisioner.__file__).parent

# Each layer may import those below it, never those above or beside it, but for pairs that are named here.
LAYERS = [
    {"cli", "cli.completion"},
    {"cli.add", "cli.edit", "cli.render", "cli.doctor", "cli.jobs", "cli.logs", "cli.clean"},
    {"cli.trial"},
    {"cli.checks"},
    {"cli.options", "cli.picker", "cli.rendering", "cli.request", "cli.source"},
    {"cli.finding"},
    {"cli.completing"},
    {"cli.places"},
    {"cli.asking", "cli.main", "cli.words"},
    {"cli.kernelspecs", "cli.naming", "cli.show", "cli.site"},
    {"provisioner"},
    {"job"},
    {"herald"},
    {"allocation"},
    {"cluster"},
    {"front"},
    {"front.front"},
    {"front.clients", "front.kernel", "front.standin"},
    {"front.ledger", "front.notice", "front.peer"},
    {"front.messages"},
    {"front.zmtp"},
    {"watcher", "record", "link", "arrival"},
    {"kernels"},
    {"explain", "waiting"},
    {"slurm", "fit"},
    {"listing"},
    {"books"},
    {"submission", "status", "offers", "checkup"},
    {"request"},
    {"batch"},
    {"sbatch"},
    {"transport.farewell"},
    {"transport.local", "transport.ssh"},
    {"transport.asyncssh", "transport.openssh"},
    {"transport.lasting", "transport.lookout"},
    {
        "transport.children",
        "transport.connection",
        "transport.forward",
        "transport.login",
        "transport.remote",
        "transport.scout",
        "transport.sessions",
    },
    {"transport"},
    {"config"},
    {"login_host"},
    {"limits"},
    {"sources"},
    {"fields"},
    {"quantities", "sbatch_options", "catalogue"},
    {"carrier", "credentials"},
    {"folder"},
    {"guard", "kernel_info", "processes", "stream", "tls"},
    {"about", "loop", "errors", "environment", "reasons"},
]
NOBODYS = {"launcher"}


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        name = name.removesuffix(".__init__") if name != "__init__" else ""
        if name:
            found[name] = path
    return found


def imports(name: str, path: Path) -> set[str]:
    """The modules of this package that a module imports, wherever in its text."""
    found = set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = ".".join([*base, *(node.module.split(".") if node.module else [])])
            inside = {".".join(filter(None, [target, alias.name])) for alias in node.names} & set(modules())
            found.update(inside or {target})
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(each.split(".")[0] == "slurm_provisioner" for each in names), "imports are relative here"
    return found


def layer(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


def test_every_module_has_its_layer():
    assert set(modules()) == set().union(*LAYERS) | NOBODYS


@pytest.mark.parametrize("name", sorted(set().union(*LAYERS)))
def test_imports_point_one_way(name):
    for imported in imports(name, modules()[name]):
        assert imported not in NOBODYS, f"{imported} runs on compute nodes only"
        assert layer(imported) > layer(name), f"{name} imports {imported}"


def test_the_launcher_imports_the_standard_library_alone():
    tree = ast.parse(modules()["launcher"].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module]
        for name in names:
            assert name.split(".")[0] in sys.stdlib_module_names


def test_a_look_at_kernelspecs_loads_nothing_heavy():
    heavy = ["pydantic", "cryptography", "asyncssh", "slurm_provisioner.job", "slurm_provisioner.config"]
    script = f"import sys, slurm_provisioner.provisioner; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_kernel_without_ssh_does_not_pay_for_it():
    script = "import sys, slurm_provisioner.job; print('asyncssh' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_jupyter_finds_the_provisioner():
    found = metadata.entry_points(group="jupyter_client.kernel_provisioners", name="slurm-provisioner")
    assert [entry.value for entry in found] == ["slurm_provisioner.provisioner:SlurmProvisioner"]
