"""What people do with a Python kernel, through a front."""

from __future__ import annotations

import os
import textwrap

import pytest
from conftest import FAILED, PATIENCE, Client, Served, brief, ipykernel


@pytest.fixture
def clients(python):
    made = []

    def make(**kwargs):
        made.append(Client(python.connection, **kwargs))
        return made[-1]

    yield make
    for client in made:
        client.stop_channels()


@pytest.fixture
def client(clients):
    return clients()


def run(client, code):
    """What a cell shows."""
    msg_id = client.execute(textwrap.dedent(code))
    told = client.told(msg_id)
    assert client.answer(msg_id)["content"]["status"] == "ok", told
    return told


def test_a_cell(client):
    assert run(client, "print('1\\n', end='')\n2") == ["busy", "execute_input", "stdout: 1\n", "execute_result", "idle"]
    assert client.answer(client.complete("zi"))["content"]["matches"]
    assert client.answer(client.inspect("zip"))["content"]["found"]


def test_two_clients_with_ten_questions_each(clients):
    first, second = clients(), clients()
    code = "[input(str(number)) for number in range(10)]"

    def asked(client, number):
        assert client.get_stdin_msg(timeout=PATIENCE)["content"]["prompt"] == str(number)

    one = first.execute(code)
    asked(first, 0)
    other = second.execute(code)  # it waits for the first one
    for client, msg_id in ((first, one), (second, other)):
        for number in range(10):
            if (client, number) != (first, 0):
                asked(client, number)
            client.input(f"{number} of {msg_id}")
        (result,) = [each for each in client.heard(msg_id) if each["msg_type"] == "execute_result"]
        answers = eval(result["content"]["data"]["text/plain"])
        assert answers == [f"{number} of {msg_id}" for number in range(10)]
        assert client.answer(msg_id)["content"]["status"] == "ok"


def test_comms_with_buffers_both_ways(client):
    """As ipywidgets have it, with megabytes."""
    run(
        client,
        """
        from ipykernel.comm import Comm
        def opened(comm, message):
            @comm.on_msg
            def _(message):
                comm.send({"sizes": [len(each) for each in message["buffers"]]}, buffers=message["buffers"])
        get_ipython().kernel.comm_manager.register_target("echo", opened)
        """,
    )
    client.send("comm_open", {"comm_id": "mine", "target_name": "echo", "data": {}})
    buffers = [os.urandom(2_000_000), os.urandom(10), b"\0"]
    for _ in range(3):
        msg_id = client.send("comm_msg", {"comm_id": "mine", "data": {}}, buffers=buffers)
        (echo,) = [message for message in client.heard(msg_id) if message["msg_type"] == "comm_msg"]
        assert echo["content"]["data"] == {"sizes": [len(each) for each in buffers]}
        assert [bytes(each) for each in echo["buffers"]] == buffers


def test_the_control_channel_while_a_cell_runs(client):
    msg_id = client.execute("input()")
    client.get_stdin_msg(timeout=PATIENCE)
    info = client.send("kernel_info_request", channel="control")
    assert client.answer(info, "control")["content"]["implementation"] == "ipython"
    debug = client.send("debug_request", {"type": "request", "seq": 1, "command": "debugInfo"}, "control")
    assert client.answer(debug, "control")["content"]["body"]["isStarted"] is False
    client.input("x")
    assert client.answer(msg_id)["content"]["status"] == "ok"


def test_subshells(client):
    created = client.send("create_subshell_request", channel="control")
    subshell = client.answer(created, "control")["content"]["subshell_id"]
    waits = client.execute("input()")
    client.get_stdin_msg(timeout=PATIENCE)
    beside = client.send(
        "execute_request",
        {"code": "print('beside', end='')", "silent": False, "stop_on_error": True},
        header={"subshell_id": subshell},
    )
    assert "stdout: beside" in client.told(beside)  # while the main shell is busy
    assert client.answer(beside)["content"]["status"] == "ok"
    client.input("x")
    assert client.answer(waits)["content"]["status"] == "ok"
    deleted = client.send("delete_subshell_request", {"subshell_id": subshell}, "control")
    assert client.answer(deleted, "control")["content"]["status"] == "ok"


def test_200_megabytes_come_once_and_in_order(clients):
    reader, other = clients(), clients()
    msg_id = reader.execute(
        "from IPython.display import display\n"
        "for n in range(20): display({'text/plain': f'{n} ' + 'x' * 10_000_000}, raw=True)"
    )
    for client in (reader, other):
        shown = [message for message in client.heard(msg_id) if message["msg_type"] == "display_data"]
        texts = [message["content"]["data"]["text/plain"] for message in shown]
        assert [text.split()[0] for text in texts] == [str(number) for number in range(20)]
        assert sum(map(len, texts)) > 200_000_000


def test_ten_thousand_lines(client):
    told = run(client, "for n in range(10_000): print(n)")
    text = "".join(each.removeprefix("stdout: ") for each in told if each.startswith("stdout: "))
    assert text == "".join(f"{number}\n" for number in range(10_000))


def test_it_comes_late_is_restarted_and_ends(tmp_path_factory, temporary, nothing_left):
    """One client through the life of a notebook."""
    served = Served()
    client = Client(served.connection)
    try:
        for number in range(2):
            served.tell("queued")
            msg_id = client.execute("print(1, end='')")
            client.until(lambda each: brief(each) == "display_data: queued")
            folder = tmp_path_factory.mktemp("k")
            with ipykernel(folder) as connection:
                served.attach(connection)
                told = client.told(msg_id)
                assert told == ["clear_output", "busy", "execute_input", "stdout: 1", "idle"]
                assert client.answer(msg_id)["content"]["execution_count"] == 1
                running = client.execute("print(2, end='', flush=True); input()")
                client.until(lambda each: brief(each) == "stdout: 2")
            if number == 0:
                served.detach("restarting")
                assert client.answer(running)["content"]["status"] == "aborted"
        served.end()
        assert client.told(running) == FAILED
        assert client.told(client.execute("3")) == FAILED
    finally:
        client.stop_channels()
        served.close()
