"""What jupyter_kernel_test is to try on a Python kernel: samples for a `KernelTests`, and patience."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import jupyter_kernel_test
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_kernel_test.msgspec_v5 import validate_message
from kernels import PATIENCE

jupyter_kernel_test.TIMEOUT = PATIENCE


class PythonKernel:
    kc: BlockingKernelClient

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

    def flush_channels(self) -> None:
        """Take what came before the end of a request: that nothing comes for 0.1 s tells little on a busy machine."""
        asked = self.kc.kernel_info()
        ends = {
            "shell_channel": lambda msg: True,
            "iopub_channel": lambda msg: msg["content"] == {"execution_state": "idle"},
        }
        for channel, is_end in ends.items():
            msg: dict[str, Any] = {}
            while not (msg and msg["parent_header"].get("msg_id") == asked and is_end(msg)):
                msg = getattr(self.kc, channel).get_msg(timeout=PATIENCE)
                validate_message(msg)

    def history_helper(self, execute_first: Any, timeout: float = PATIENCE, **kwargs: Any) -> Any:
        """As it is, but for the time of the reply."""
        return super().history_helper(execute_first, timeout=timeout, **kwargs)  # type: ignore[misc]

    def execute_helper(self, *args: Any, timeout: float = PATIENCE, **kwargs: Any) -> Any:
        """As it is, but for the 0.1 s that there are for each message."""
        channel, get_msg = self.kc.iopub_channel, self.kc.iopub_channel.get_msg
        with patch.object(channel, "get_msg", lambda timeout: get_msg(timeout=PATIENCE)):
            return super().execute_helper(*args, timeout=timeout, **kwargs)  # type: ignore[misc]
