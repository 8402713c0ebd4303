"""The real thing: ipykernel behind the port, jupyter_client before the link to it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from queue import Empty

from jupyter_client import BlockingKernelClient
from supervisors import PATIENCE
from wire import Linked

from slurm_provisioner.front import Front
from slurm_provisioner.loop import background_loop


def run(coro):
    return background_loop().submit(coro).result(PATIENCE)


async def served(linked, key, listener):
    """Have clients speak with the kernel."""
    front = Front(key, "hmac-sha256", {"status": "ok", "protocol_version": "5.3"}, listener)
    await front.open()
    front.attach(linked.link.connect)
    return front


async def anew(front, linked):
    """Have clients speak with the next kernel."""
    front.detach("", None)
    front.attach(linked.link.connect)


class Listener:
    """Waits for a kernel that answers: until then, cells show where it is."""

    def __init__(self):
        self.heard = threading.Event()

    def up(self, info):
        self.heard.set()

    def wait(self):
        assert self.heard.wait(PATIENCE)
        self.heard.clear()

    def watched(self, whether):
        pass


def run_code(client, code):
    outputs = []
    reply = client.execute_interactive(code, timeout=PATIENCE, output_hook=outputs.append, allow_stdin=False)
    return reply["content"], [message["content"] for message in outputs]


COUNT = """
import pathlib, time
for number in range(10_000):
    print(number, flush=True)
    if number >= 199 and pathlib.Path({enough!r}).exists(): break
    time.sleep(0.005)
print("end", flush=True)
"""


def interrupted(supervisor, client, number):
    """Interrupt a cell; its reply."""
    for _ in range(3):
        assert supervisor.call("signal", signum=signal.SIGINT)["ok"]
        with contextlib.suppress(Empty):  # one in a hundred is lost on ipykernel while it prints, locally too
            while (message := client.get_shell_msg(timeout=10))["parent_header"]["msg_id"] != number:
                pass
            return message["content"]
    raise AssertionError("interrupts are lost")


def test_ipykernel_through_the_port(make_job):
    job = make_job(kernel={"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]}).start()
    with contextlib.ExitStack() as stack:
        supervisor = stack.enter_context(job.supervisor())
        linked = Linked(job)
        run(linked.__aenter__())
        stack.callback(lambda: run(linked.__aexit__()))
        client, listener = BlockingKernelClient(), Listener()
        front = run(served(linked, job.key.encode(), listener))
        stack.callback(lambda: run(front.aclose()))
        client.load_connection_info({**job.session, **front.endpoints})
        client.start_channels()
        stack.callback(client.stop_channels)
        client.wait_for_ready(PATIENCE)
        listener.wait()

        reply, outputs = run_code(client, "import os; print('x' * 3_000_000); os.getpid()")
        assert reply["status"] == "ok"
        assert sum(len(output.get("text", "")) for output in outputs) == 3_000_001
        (result,) = [output["data"]["text/plain"] for output in outputs if "data" in output]
        assert int(result) == supervisor.first["pid"]

        enough = job.base / "enough"
        client.execute(COUNT.format(enough=str(enough)))
        text = ""
        while not text.endswith("end\n"):
            text += client.get_iopub_msg(timeout=PATIENCE)["content"].get("text", "")
            if text.endswith("0\n"):
                background_loop().loop.call_soon_threadsafe(lambda: linked.wire.cut(up=True))
            if linked.wire.carried > 10:
                enough.touch()
        count = text.count("\n") - 1
        assert count >= 200
        assert text == "".join(f"{number}\n" for number in range(count)) + "end\n"
        assert client.get_shell_msg(timeout=PATIENCE)["content"]["status"] == "ok"
        assert linked.wire.carried > 10

        number = client.execute("print('running', flush=True)\nwhile True: pass")
        while client.get_iopub_msg(timeout=PATIENCE)["content"].get("text") != "running\n":
            pass
        assert interrupted(supervisor, client, number)["ename"] == "KeyboardInterrupt"

        client.shutdown(restart=True)
        supervisor.event("exited", code=0, expected=False)
        assert supervisor.call("restart", kernel=job.kernel, session=job.session)["ok"]
        supervisor.event("ready", generation=2)
        run(anew(front, linked))
        listener.wait()
        client.wait_for_ready(PATIENCE)
        reply, _ = run_code(client, "1 + 1")
        assert reply["status"] == "ok"
        assert reply["execution_count"] == 1

        assert supervisor.call("stop")["ok"]
        assert supervisor.until_end()[-1] == {"event": "bye", "reason": "stop"}
    assert job.wait() == 0
