"""Jupyter's own conformance tests for kernels, on a local kernelspec and on the same one in a Slurm job."""

from __future__ import annotations

import json

import jupyter_kernel_test
import pytest
from conftest import ARGV, RESOURCES, VIA
from python_kernel import PythonKernel


@pytest.fixture(scope="module", autouse=True)
def kernelspecs(tmp_path_factory, login):
    data = tmp_path_factory.mktemp("jupyter")
    place = login.stanza(VIA) if login else {}
    config = {
        **RESOURCES,
        **place,
        "start": "block",
    }  # the kernel is tested, not the line that says where it is
    stanza = {"provisioner_name": "slurm-provisioner", "config": config}
    for name, metadata in {"local": {}, "slurm": {"kernel_provisioner": stanza}}.items():
        folder = data / "kernels" / name
        folder.mkdir(parents=True)
        spec = {"display_name": name, "language": "python", "argv": ARGV, "metadata": metadata}
        (folder / "kernel.json").write_text(json.dumps(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_DATA_DIR", str(data))
        patch.setenv("IPYTHONDIR", str(data / "ipython"))
        yield


@pytest.fixture
def nothing_left():
    """These tests share one kernel."""


class TestLocal(PythonKernel, jupyter_kernel_test.KernelTests):
    kernel_name = "local"


class TestSlurm(PythonKernel, jupyter_kernel_test.KernelTests):
    kernel_name = "slurm"
