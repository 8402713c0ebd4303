"""Jupyter's own conformance tests for kernels, on a local kernelspec and on the same one in a Slurm job."""

from __future__ import annotations

import json

import jupyter_kernel_test
import pytest
from conftest import ARGV, RESOURCES


@pytest.fixture(scope="module", autouse=True)
def kernelspecs(tmp_path_factory):
    data = tmp_path_factory.mktemp("jupyter")
    stanza = {"provisioner_name": "slurm-provisioner", "config": RESOURCES}
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


class PythonKernel:
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = ({"text": "zi", "matches": {"zip"}},)
    complete_code_samples = ("1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n")
    incomplete_code_samples = ("print('''hello", "def f(x):\n  x*2")
    invalid_code_samples = ("import = 7q",)
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result = ({"code": "1+2+3", "result": "6"},)
    code_display_data = (
        {
            "code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))",
            "mime": "text/html",
        },
    )
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "search")  # ipykernel 7 answers "range" with session 0, locally too
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"


class TestLocal(PythonKernel, jupyter_kernel_test.KernelTests):
    kernel_name = "local"


class TestSlurm(PythonKernel, jupyter_kernel_test.KernelTests):
    kernel_name = "slurm"
