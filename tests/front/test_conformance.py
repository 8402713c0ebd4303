"""Jupyter's own conformance tests for kernels: on ipykernel as it is, and on the same through a front.

The front's kernel begins to answer only after its client is there.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import jupyter_kernel_test
import pytest
from conftest import PATIENCE, Client, Served, ipykernel
from python_kernel import PythonKernel


class LocalKernel(PythonKernel):
    stack: contextlib.ExitStack

    @classmethod
    def setUpClass(cls):
        cls.stack = contextlib.ExitStack()
        folder = cls.stack.enter_context(tempfile.TemporaryDirectory())
        connection = cls.stack.enter_context(ipykernel(Path(folder)))
        cls.kc = cls.connect(connection)
        cls.stack.callback(cls.kc.stop_channels)
        cls.kc.wait_for_ready(timeout=PATIENCE)

    @classmethod
    def tearDownClass(cls):
        cls.stack.close()


class TestDirect(LocalKernel, jupyter_kernel_test.KernelTests):
    @classmethod
    def connect(cls, connection):
        return Client(connection)


class TestThroughAFront(LocalKernel, jupyter_kernel_test.KernelTests):
    @classmethod
    def connect(cls, connection):
        served = Served()
        cls.stack.callback(served.close)
        client = Client(served.connection)
        served.attach(connection)
        served.ups.get(timeout=PATIENCE)
        return client


@pytest.fixture(autouse=True, scope="module")
def folder_of_the_module(nothing_left):
    """Kernels go before it is looked what is left."""
