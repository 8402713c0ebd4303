"""A front with real sockets while there is no kernel, while one comes, and once it is gone."""

from __future__ import annotations

import asyncio
import queue

import pytest
import zmq
from conftest import ENDED, FAILED, PATIENCE, brief
from jupyter_client.asynchronous.client import AsyncKernelClient
from wire import INFO, make, party, read

from slurm_provisioner.front import front as front_module
from slurm_provisioner.front import standin


def test_a_client_is_ready_without_a_kernel(client):
    client.wait_for_ready(timeout=PATIENCE)
    reply = client.answer(client.kernel_info())
    assert reply["content"] == INFO


def test_an_async_client_is_ready_too(served):
    async def story():
        client = AsyncKernelClient()
        client.load_connection_info(served.connection)
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=PATIENCE)
            return await client.complete("x", reply=True, timeout=PATIENCE)
        finally:
            client.stop_channels()

    assert asyncio.run(story())["content"]["matches"] == []


def test_an_async_client_waits_for_its_kernel(served, kernels):
    """Its cell runs once there is one."""
    kernel = kernels()

    def serve():
        served.run(kernel)
        kernel.finish(kernel.take(), execution_count=7)

    async def story():
        client = AsyncKernelClient()
        client.load_connection_info(served.connection)
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=PATIENCE)
            cell = asyncio.ensure_future(client.execute_interactive("1", output_hook=outputs.append, timeout=PATIENCE))
            await asyncio.to_thread(serve)
            return await cell
        finally:
            client.stop_channels()

    outputs = []
    assert asyncio.run(story())["content"]["execution_count"] == 7


@pytest.fixture
def said(monkeypatch):
    """What is said before anybody can listen."""
    said = queue.Queue()
    monkeypatch.setattr(standin, "QUIET", 0.2)
    monkeypatch.setattr(standin.StandIn, "_status", lambda _, *what: said.put(what))
    return said


def test_starting_is_said_by_itself(said, served):
    assert said.get(timeout=PATIENCE) == ("starting",)


@pytest.fixture
def quick(served, client, monkeypatch):
    """A stand-in that speaks soon, but not before its client listens."""
    monkeypatch.setattr(standin, "QUIET", 0.2)
    served.detach()


def test_starting_is_said(quick, served, client):
    (*_, message) = client.until(lambda each: brief(each) == "starting")
    assert message["parent_header"] == {}
    client.answer(client.kernel_info())
    client.until(lambda each: brief(each) == "starting")


def test_starting_is_said_again_after_an_interrupt(quick, served, client):
    client.until(lambda each: brief(each) == "starting")
    msg_id = client.execute("1")
    client.until(lambda each: brief(each).startswith("display_data"))
    assert served.on_loop(served.front.interrupt)
    assert client.answer(msg_id)["content"]["ename"] == "KeyboardInterrupt"
    client.until(lambda each: brief(each) == "starting")


def test_a_kernel_that_comes_late(served, client, kernels):
    served.tell("job 1 queued")
    first, second = client.execute("1"), client.execute("2")
    client.until(lambda each: brief(each) == "display_data: job 1 queued")
    served.tell("job 1 starts")
    client.until(lambda each: brief(each) == "update_display_data: job 1 starts")
    kernel = kernels(late=True)
    served.attach(kernel.endpoints)
    served.tell("its kernel starts")
    client.until(lambda each: brief(each) == "update_display_data: its kernel starts")
    assert client.answer(client.kernel_info())["content"]["implementation"] == "stand-in"
    kernel.bind()
    kernel.subscribed()
    for msg_id in (first, second):
        request = kernel.take()
        assert request.id == msg_id
        kernel.finish(request)
        assert client.answer(msg_id)["content"]["status"] == "ok"
    assert served.ups.get(timeout=PATIENCE)["implementation"] == "fake"
    told = client.told(first)
    assert told == ["clear_output", "busy", "idle"]
    assert client.told(second) == ["busy", "idle"]


def test_a_kernel_that_answers_before_anybody_hears_what_it_publishes(served, client, kernels):
    kernel = kernels()
    served.attach(kernel.endpoints)
    msg_id = client.execute("1")
    client.until(lambda each: brief(each).startswith("display_data"))
    probe = kernel.probed()
    kernel.reply(probe, {**INFO, "implementation": "fake"})  # shell alone: it is not yet heard
    assert kernel.probed().kind == "kernel_info_request"  # so it is asked again
    assert served.ups.empty()
    kernel.subscribed()
    kernel.publish("status", execution_state="idle")
    request = kernel.take()
    assert request.id == msg_id


def test_a_kernel_that_never_answers(served, client, kernels):
    """Clients have their answers, however often it is asked in vain."""
    kernel = kernels(marks=1)
    served.attach(kernel.endpoints)

    def ask_on():
        for _ in range(3_000):
            served.front._standin.tick()

    served.on_loop(ask_on)
    client.answer(client.kernel_info())
    msg_id = client.execute("1")
    client.until(lambda each: brief(each).startswith("display_data"))
    served.end()
    assert client.answer(msg_id)["content"]["ename"] == "JobEndedError"


def test_an_end_in_a_cell_keeps_its_output(served, client, kernel):
    running, waiting = client.execute("1"), client.execute("2")
    request = kernel.take()
    kernel.publish("status", request, execution_state="busy")
    for number in range(500):
        kernel.publish("stream", request, name="stdout", text=str(number))
    client.until(lambda each: brief(each) == "stdout: 499")
    kernel.close()
    served.end()
    assert client.told(running) == FAILED
    assert client.told(waiting) == ["busy", "idle"]
    replies = [client.get_shell_msg(timeout=PATIENCE)["content"] for _ in range(2)]
    assert [reply["status"] for reply in replies] == ["error", "aborted"]
    assert replies[0]["ename"] == "JobEndedError"
    assert replies[0]["evalue"] == ENDED.summary
    assert "Restart the kernel." in "\n".join(replies[0]["traceback"])
    for _ in range(2):
        again = client.execute("3")
        assert client.told(again) == FAILED
        assert client.answer(again)["content"]["status"] == "error"


def test_what_the_kernel_said_last_is_heard(served, client, kernel, monkeypatch):
    """It had been sent when the job ended, though nobody had looked yet."""
    monkeypatch.setattr(front_module, "LAST_WORDS", 3.0)
    msg_id = client.execute("1")
    request = kernel.take()

    async def end():
        kernel.publish("stream", request, name="stdout", text="last words")
        kernel.reply(request, {"status": "ok"})
        await served.front.hear_out()
        served.front.end(ENDED)

    served.ask(end())
    client.until(lambda each: brief(each) == "stdout: last words")
    assert client.answer(msg_id)["content"]["status"] == "ok"
    again = client.execute("2")
    assert client.told(again) == FAILED


def test_a_kernel_that_hangs_up_has_said_all(served, client, kernel, monkeypatch):
    monkeypatch.setattr(front_module, "LAST_WORDS", PATIENCE)

    async def hear_out():
        kernel.close()
        await served.front.hear_out()

    served.ask(hear_out())


def test_a_restart_with_the_same_clients(served, clients, kernels):
    one, two = clients(), clients()
    for number in range(3):
        kernel = kernels()
        served.run(kernel)
        for client in (one, two):
            msg_id = client.execute(str(number))
            request = kernel.take()
            assert request.id == msg_id
            kernel.finish(request, execution_count=number)
            assert client.answer(msg_id)["content"]["execution_count"] == number
            assert client.told(msg_id) == ["busy", "idle"]
        running = one.execute("1")
        kernel.take()
        kernel.close()
        served.detach("restarting")
        assert one.answer(running)["content"]["status"] == "aborted"
        assert one.told(running) == ["busy", "idle"]


def test_a_crash_and_a_kernel_after_it(served, client, kernels):
    kernel = kernels()
    served.run(kernel)
    running = client.execute("1")
    kernel.take()
    kernel.close()
    served.detach("restarting", ENDED)
    assert client.told(running) == FAILED
    waiting = client.execute("2")
    client.until(lambda each: brief(each) == "display_data: restarting")
    kernel = kernels()
    served.run(kernel)
    request = kernel.take()
    assert request.id == waiting
    kernel.finish(request)
    assert client.told(waiting) == ["clear_output", "busy", "idle"]


def test_a_restart_after_the_end(served, client, kernels):
    served.end()
    assert client.told(client.execute("1")) == FAILED
    served.detach("queued again")
    msg_id = client.execute("2")
    waits = client.until(lambda each: brief(each) == "display_data: queued again")
    assert [brief(each) for each in waits if each["parent_header"].get("msg_id") == msg_id][:-1] == ["busy"]
    kernel = kernels()
    served.run(kernel)
    kernel.finish(kernel.take())
    assert client.told(msg_id) == ["clear_output", "busy", "idle"]


def test_a_lost_kernel(served, client, kernel):
    running = client.execute("1")
    request = kernel.take()
    served.lost("connection lost")
    client.until(lambda each: brief(each) == "display_data: connection lost")
    served.found("connected again")
    kernel.finish(request)
    assert client.told(running) == ["update_display_data: connected again", "busy", "idle"]
    served.warn(lambda: "5 minutes left")
    client.until(lambda each: brief(each) == "display_data: 5 minutes left")


@pytest.fixture
def heart(served, context):
    with context.socket(zmq.REQ) as sock:
        sock.linger = 0
        sock.connect(f"ipc://{served.front.endpoints['ip']}-5")
        yield sock


@pytest.mark.parametrize("ended", [False, True])
def test_the_heart_beats_without_a_kernel(served, heart, ended):
    if ended:
        served.end()
    for number in range(3):
        heart.send(b"%d" % number)
        assert heart.poll(PATIENCE * 1000)
        assert heart.recv() == b"%d" % number


def test_a_hung_kernels_heart_does_not(served, heart, kernel):
    heart.send(b"ping")
    beat = kernel.receive("hb")  # it is the kernel's to answer
    assert not heart.poll(0)
    kernel.send("hb", beat)
    assert heart.poll(PATIENCE * 1000)
    assert heart.recv() == b"ping"
    served.lost("connection lost")  # nobody's fault if it cannot be heard
    heart.send(b"pong")
    assert heart.poll(PATIENCE * 1000)
    assert heart.recv() == b"pong"


@pytest.fixture
def stranger(served, context):
    """One that came as near as the sockets, and has another key."""
    with context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        sock.connect(f"ipc://{served.front.endpoints['ip']}-1")
        yield sock


EXECUTE = make(party("stranger", b"another key"), "execute_request", {"code": "1"})


def test_of_a_client_that_is_not_known_nothing_is_held(served, client, stranger, kernels):
    stranger.send_multipart(EXECUTE)
    stranger.send_multipart(make(party("known"), "kernel_info_request"))
    assert stranger.poll(PATIENCE * 1000)  # it came, and what was before it
    assert read(stranger.recv_multipart()).kind == "kernel_info_reply"
    mine = client.execute("2")
    kernel = kernels()
    served.run(kernel)
    assert kernel.take().id == mine


def test_a_kernel_that_runs_judges_a_client_that_is_not_known(served, client, stranger, kernel):
    """As a local one does; when it dies, nobody else answers."""
    stranger.send_multipart(EXECUTE)
    assert kernel.take_frames()[1:] == EXECUTE
    mine = client.execute("2")
    assert kernel.take().id == mine
    served.end()
    assert client.told(mine) == FAILED
    assert not stranger.poll(0)
