"""The real thing: ipykernel behind the port, jupyter_client before the link to it."""

from __future__ import annotations

import contextlib
import signal
import sys

from jupyter_client import BlockingKernelClient
from supervisors import PATIENCE
from wire import Linked

from slurm_provisioner.front import Front
from slurm_provisioner.loop import background_loop


def run(coro):
    return background_loop().submit(coro).result(PATIENCE)


async def served(linked, key):
    """Have clients speak with the kernel."""
    front = Front(key, "hmac-sha256", {"status": "ok", "protocol_version": "5.3"}, Listener())
    await front.open()
    front.attach(linked.link.connect)
    return front


async def anew(front, linked):
    """Have clients speak with the next kernel."""
    front.detach("", None)
    front.attach(linked.link.connect)


class Listener:
    """Wants to know nothing."""

    def up(self, info):
        pass

    def watched(self, whether):
        pass


def run_code(client, code):
    outputs = []
    reply = client.execute_interactive(code, timeout=PATIENCE, output_hook=outputs.append, allow_stdin=False)
    return reply["content"], [message["content"] for message in outputs]


def test_ipykernel_through_the_port(make_job):
    job = make_job(kernel={"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]}).start()
    with contextlib.ExitStack() as stack:
        supervisor = stack.enter_context(job.supervisor())
        linked = Linked(job)
        run(linked.__aenter__())
        stack.callback(lambda: run(linked.__aexit__()))
        client = BlockingKernelClient()
        front = run(served(linked, job.key.encode()))
        stack.callback(lambda: run(front.aclose()))
        client.load_connection_info({**job.session, **front.endpoints})
        client.start_channels()
        stack.callback(client.stop_channels)
        client.wait_for_ready(PATIENCE)

        reply, outputs = run_code(client, "import os; print('x' * 3_000_000); os.getpid()")
        assert reply["status"] == "ok"
        assert sum(len(output.get("text", "")) for output in outputs) == 3_000_001
        (result,) = [output["data"]["text/plain"] for output in outputs if "data" in output]
        assert int(result) == supervisor.first["pid"]

        loop = "import time\nfor number in range(200): print(number, flush=True); time.sleep(0.005)"
        client.execute(loop)
        text = ""
        while not text.endswith("199\n"):
            text += client.get_iopub_msg(timeout=PATIENCE)["content"].get("text", "")
            if text.endswith("0\n"):
                background_loop().loop.call_soon_threadsafe(lambda: linked.wire.cut(up=True))
        assert text == "".join(f"{number}\n" for number in range(200))
        assert client.get_shell_msg(timeout=PATIENCE)["content"]["status"] == "ok"
        assert linked.wire.carried > 10

        number = client.execute("print('running', flush=True)\nwhile True: pass")
        while client.get_iopub_msg(timeout=PATIENCE)["content"].get("text") != "running\n":
            pass
        assert supervisor.call("signal", signum=signal.SIGINT)["ok"]
        while (message := client.get_shell_msg(timeout=PATIENCE))["parent_header"]["msg_id"] != number:
            pass
        assert message["content"]["ename"] == "KeyboardInterrupt"

        client.shutdown(restart=True)
        supervisor.event("exited", code=0, expected=False)
        assert supervisor.call("restart", kernel=job.kernel, session=job.session)["ok"]
        supervisor.event("ready", generation=2)
        run(anew(front, linked))
        client.wait_for_ready(PATIENCE)
        reply, _ = run_code(client, "1 + 1")
        assert reply["status"] == "ok"
        assert reply["execution_count"] == 1

        assert supervisor.call("stop")["ok"]
        assert supervisor.until_end()[-1] == {"event": "bye", "reason": "stop"}
    assert job.wait() == 0
