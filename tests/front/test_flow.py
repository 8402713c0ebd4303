"""Much at once: nothing is lost, turned round, doubled or changed, and what is kept for slow ones has its bounds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq
from conftest import PATIENCE, brief, eventually

from slurm_provisioner.front import clients as clients_module


def numbered(first, count, size=0):
    return [make_number(number, size) for number in range(first, first + count)]


def make_number(number, size):
    return [b"number", b"%d" % number, bytes(size)]


@pytest.fixture
def subscriber(served, context):
    """Makes subscribers that keep next to nothing themselves."""
    made = []

    def make():
        sock = context.socket(zmq.SUB)
        sock.rcvhwm = 1
        sock.connect(f"ipc://{served.front.endpoints['ip']}-2")
        sock.subscribe(b"")
        assert sock.poll(PATIENCE * 1000)
        sock.recv_multipart()
        made.append(sock)
        return sock

    yield make
    for sock in made:
        sock.close(linger=0)


def publish_all(kernel, messages):
    for message in messages:
        kernel.send("iopub", message)


def publish_until_full(served, kernel, size):
    """Publish until nobody takes any more; return how many messages were taken."""
    iopub = kernel.sockets["iopub"]
    iopub.sndtimeo = 1000
    count = 0
    full = False
    while not full:
        try:
            kernel.send("iopub", make_number(count, size))
            count += 1
        except zmq.Again:
            full = served.on_loop(lambda: bool(served.front._publisher._slow))
    iopub.sndtimeo = -1
    return count


def take_until(sock, last, work=0.0):
    """The numbers that come, up to one; `work` is the seconds that each of them takes."""
    numbers = []
    while not numbers or numbers[-1] != last:
        assert sock.poll(PATIENCE * 1000), f"only {numbers[-1:]} of {last} came"
        frames = sock.recv_multipart()
        if frames[0] == b"number":  # others are welcomed, too
            numbers.append(int(frames[1]))
            time.sleep(work)
    return numbers


# ------------------------------------------------------------------------- in order, once


def test_ten_thousand_messages_come_in_order(served, kernel, subscriber):
    one, two = subscriber(), subscriber()
    with ThreadPoolExecutor() as pool:
        taken = [pool.submit(take_until, sock, 9_999) for sock in (one, two)]
        publish_all(kernel, numbered(0, 10_000))
        for each in taken:
            assert each.result() == list(range(10_000))


def test_five_thousand_requests_come_in_order(served, clients, kernel):
    """More than all sockets between keep: some wait at their sender's, none is lost."""

    def ask(client):
        for number in range(2_500):
            client.send("comm_msg", {"number": number})

    made = [clients() for _ in range(2)]
    threads = [threading.Thread(target=ask, args=[client]) for client in made]
    for thread in threads:
        thread.start()
    taken = {client.session.session: [] for client in made}
    for _ in range(5_000):
        message = kernel.take()
        taken[message.header["session"]].append(message.content["number"])
    for thread in threads:
        thread.join()
    assert list(taken.values()) == [list(range(2_500))] * 2


def test_replies_may_come_before_what_is_published(served, client, kernel):
    """And the other way round: each channel is for itself."""
    for number in range(50):
        msg_id = client.execute(str(number))
        request = kernel.take()
        if number % 2:
            kernel.reply(request, {"status": "ok"})
            assert client.answer(msg_id)["content"]["status"] == "ok"
            kernel.publish("status", request, execution_state="busy")
            kernel.publish("status", request, execution_state="idle")
            assert client.told(msg_id) == ["busy", "idle"]
        else:
            kernel.publish("status", request, execution_state="busy")
            kernel.publish("status", request, execution_state="idle")
            assert client.told(msg_id) == ["busy", "idle"]
            kernel.reply(request, {"status": "ok"})
            assert client.answer(msg_id)["content"]["status"] == "ok"


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_unknown_messages_pass_both_ways(served, client, kernel, channel):
    buffers = [b"", bytes(range(256)), os.urandom(100)]
    sent = client.send("never_heard_of", {"a": [1, None]}, channel, buffers=buffers)
    message = kernel.take(channel)
    assert (message.id, message.kind, message.content, message.buffers) == (
        sent,
        "never_heard_of",
        {"a": [1, None]},
        buffers,
    )
    kernel.to(message, channel, "nor_of_this", {"b": 2}, buffers=buffers)
    reply = client.answer(sent, channel)
    assert (reply["msg_type"], reply["content"]) == ("nor_of_this", {"b": 2})
    assert [bytes(each) for each in reply["buffers"]] == buffers
    kernel.publish("nor_of_that", message, buffers, c=3)
    (*_, heard) = client.until(lambda each: each["msg_type"] == "nor_of_that")
    assert [bytes(each) for each in heard["buffers"]] == buffers


@pytest.mark.parametrize("held", [False, True])
def test_comms_carry_megabytes_both_ways(served, client, kernels, held):
    kernel = kernels()
    if not held:
        served.run(kernel)
    buffers = [os.urandom(3_000_000), b"", os.urandom(70_000)]
    ids = [client.send("comm_msg", {"comm_id": "c", "data": {}}, buffers=buffers) for _ in range(3)]
    if held:
        client.answer(client.kernel_info())  # by now they are held
        served.run(kernel)
    for msg_id in ids:
        message = kernel.take()
        assert (message.id, message.buffers) == (msg_id, buffers)
        kernel.publish("comm_msg", message, message.buffers, comm_id="c", data={})
    heard = client.until(lambda each: each["parent_header"].get("msg_id") == ids[-1])
    comms = [each for each in heard if each["msg_type"] == "comm_msg"]
    assert [each["parent_header"]["msg_id"] for each in comms] == ids
    assert all([bytes(buffer) for buffer in each["buffers"]] == buffers for each in comms)


def test_who_is_asked_answers(served, clients, kernel):
    """Two clients with ten questions each, asked in turns."""
    pair = [clients(), clients()]
    requests = {}
    for client in pair:
        client.execute("input()")
        request = kernel.take()
        requests[request.header["session"]] = request
    for number in range(10):
        for client in pair:
            request = requests[client.session.session]
            kernel.to(request, "stdin", "input_request", {"prompt": f"{number}?", "password": False})
        for client in reversed(pair):
            question = client.get_stdin_msg(timeout=PATIENCE)
            assert question["content"]["prompt"] == f"{number}?"
            assert question["parent_header"]["session"] == client.session.session
            client.input(f"{number} of {client.session.session}")
        answers = {
            message.header["session"]: message.content["value"] for message in [kernel.take("stdin") for _ in pair]
        }
        assert answers == {session: f"{number} of {session}" for session in requests}


# --------------------------------------------------------------------------------- bounds


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(clients_module, "BACKLOG_BYTES", 1_000_000)


SIZE = 10_000


def test_one_slow_client_loses_nothing_and_what_is_kept_is_bounded(small, served, kernels, subscriber):
    kernel = kernels(marks=10)
    served.run(kernel)
    slow = subscriber()
    count = publish_until_full(served, kernel, SIZE)
    (waiting,) = served.on_loop(lambda: [peer.size for peer in served.front._publisher._slow])
    turn = 2**18  # bytes that are read at once
    assert 0 <= waiting - clients_module.BACKLOG_BYTES < turn + 2 * SIZE
    kept = (clients_module.BACKLOG_BYTES + turn) / SIZE + 2 * 10  # and what is in the sockets' buffers on both sides
    assert kept / 2 < count < kept + 200
    assert served.on_loop(lambda: not served.front._kernel._peers["iopub"]._transport.is_reading())
    assert take_until(slow, count - 1) == list(range(count))
    publish_all(kernel, numbered(count, 10))  # and it goes on
    assert take_until(slow, count + 9) == list(range(count, count + 10))


def test_a_client_that_goes_away_full_is_of_no_harm(small, served, kernels, subscriber):
    kernel = kernels(marks=10)
    served.run(kernel)
    slow = subscriber()
    count = publish_until_full(served, kernel, SIZE)
    slow.close(linger=0)
    late = subscriber()
    with ThreadPoolExecutor() as pool:
        taken = pool.submit(take_until, late, count + 999)
        publish_all(kernel, numbered(count, 1_000, SIZE))
        numbers = taken.result()
    assert numbers == list(range(numbers[0], count + 1_000))


PROGRAM = textwrap.dedent("""
    import sys, zmq
    with zmq.Context() as context, context.socket(zmq.SUB) as sock:
        sock.connect(sys.argv[1])
        sock.subscribe(b"")
        sock.recv_multipart()
        print("is welcome", flush=True)
        while sock.recv_multipart()[0] != b"end":
            pass
""")


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_beside_a_client_that_does_not_read_the_others_lose_nothing(
    small, monkeypatch, served, kernels, subscriber, *, how
):
    """Though all that waited is sent at once when that one is cut off, and they are slow."""
    monkeypatch.setattr(clients_module, "BACKLOG_BYTES", 2_000 * SIZE)
    readers = [subscriber(), subscriber()]
    kernel = kernels()
    served.run(kernel)
    count = 3_000
    with contextlib.ExitStack() as stack:
        if how == "stopped":
            argv = [sys.executable, "-c", PROGRAM, f"ipc://{served.front.endpoints['ip']}-2"]
            process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout.readline() == b"is welcome\n"
            process.send_signal(signal.SIGSTOP)
        else:
            subscriber()
        pool = stack.enter_context(ThreadPoolExecutor())
        taken = [pool.submit(take_until, reader, count - 1, work=0.0005) for reader in readers]
        publish_all(kernel, numbered(0, count, SIZE))
        for each in taken:
            assert each.result() == list(range(count))
        assert served.on_loop(lambda: not served.front._publisher._slow)
        if how == "stopped":
            process.send_signal(signal.SIGCONT)  # it comes back by itself, and hears what is new

            def ends():
                kernel.send("iopub", [b"end"])
                return process.poll() is not None

            eventually(ends, "that it hears the end")
            assert process.returncode == 0


def test_the_next_kernel_waits_for_a_slow_client_as_well(small, served, kernels, subscriber):
    first, following = kernels(marks=10), kernels(marks=10)
    served.run(first)
    slow = subscriber()
    publish_until_full(served, first, SIZE)
    served.detach("restarting")
    served.run(following)
    with pytest.raises(zmq.Again):
        following.sockets["iopub"].sndtimeo = 1000
        publish_all(following, numbered(10_000, 2_000, SIZE))
    following.sockets["iopub"].sndtimeo = -1
    with ThreadPoolExecutor() as pool:
        taken = pool.submit(take_until, slow, 20_000)
        publish_all(following, numbered(20_000, 1))
        assert taken.result()[-1] == 20_000


def test_where_nobody_reads_nobody_is_cut_off(small, served, kernels, subscriber):
    """As when a server that holds all clients is busy with something else."""
    pair = subscriber(), subscriber()
    kernel = kernels(marks=10)
    served.run(kernel)
    count = publish_until_full(served, kernel, SIZE)
    look = served.front._publisher._look
    eventually(lambda: served.front._publisher._look is not look, "a second look")
    with ThreadPoolExecutor() as pool:
        for taken in [pool.submit(take_until, sock, count - 1) for sock in pair]:
            assert taken.result() == list(range(count))


def test_where_nobody_reads_the_one_with_most_to_read_is_not_cut_off(small, served, kernels, subscriber):
    first = subscriber()
    kernel = kernels(marks=10)
    served.run(kernel)
    publish_all(kernel, numbered(-60, 60, SIZE))
    publisher = served.front._publisher
    eventually(lambda: served.on_loop(lambda: max(peer.size for peer in publisher._topics)), "what waits")
    late = subscriber()
    count = publish_until_full(served, kernel, SIZE)
    assert served.on_loop(lambda: (len(publisher._slow), min(peer.size for peer in publisher._topics) > 0)) == (1, True)
    look = publisher._look
    eventually(lambda: publisher._look is not look, "a second look")
    with ThreadPoolExecutor() as pool:
        taken = [pool.submit(take_until, sock, count - 1) for sock in (first, late)]
        everything, rest = [each.result() for each in taken]
    assert everything == list(range(-60, count))
    assert rest == list(range(rest[0], count))


def test_one_that_is_slow_is_waited_for(small, served, kernels, subscriber):
    """Longer than for one that takes nothing, in all."""
    slow, quick = subscriber(), subscriber()
    kernel = kernels(marks=10)
    served.run(kernel)
    count = 3_000
    with ThreadPoolExecutor() as pool:
        taken = [pool.submit(take_until, slow, count - 1, work=0.001), pool.submit(take_until, quick, count - 1)]
        publish_all(kernel, numbered(0, count, SIZE))
        for each in taken:
            assert each.result() == list(range(count))


def test_a_client_that_was_stopped_goes_on(small, served, kernels, subscriber):
    stopped, reader = subscriber(), subscriber()
    kernel = kernels(marks=10)
    served.run(kernel)
    published = [*range(2_000)]
    heard = []

    def hears_what_is_new():
        published.append(len(published))
        kernel.send("iopub", make_number(published[-1], SIZE))
        while stopped.poll(10):
            if (frames := stopped.recv_multipart())[0] == b"number":
                heard.append(int(frames[1]))
        return heard and heard[-1] >= 2_000

    with ThreadPoolExecutor() as pool:
        all_heard = pool.submit(take_until, reader, 999_999)
        publish_all(kernel, numbered(0, 2_000, SIZE))
        eventually(lambda: served.on_loop(lambda: not served.front._publisher._slow), "an end")
        eventually(hears_what_is_new, "that it hears what is new")
        rest = pool.submit(take_until, stopped, 999_999)
        first = len(published)
        published += [*range(first, first + 1_000), 999_999]
        publish_all(kernel, [make_number(number, SIZE) for number in published[first:]])
        assert rest.result()[-1001:] == published[first:]  # no more is lost
        assert all_heard.result() == published
    assert heard == sorted(set(heard))
    assert len(heard) < len(published)


@pytest.fixture
def full(served, clients, kernels):
    """A kernel that takes no more, and what it was sent."""
    kernel = kernels(marks=1)
    served.run(kernel)
    client = clients()
    sent = [client.send("odd_request", buffers=[bytes(100_000)]) for _ in range(500)]
    eventually(lambda: served.front._routers["shell"]._held, "a full kernel")
    return kernel, client, sent


def test_where_a_kernel_takes_nothing_clients_wait(served, clients, full):
    """Requests wait with their senders; other channels go on."""
    kernel, client, sent = full
    late = clients().send("late_request")
    by_control = client.send("debug_request", channel="control")
    assert kernel.take("control").id == by_control
    taken = [kernel.take().id for _ in range(len(sent) + 1)]
    assert [msg_id for msg_id in taken if msg_id != late] == sent
    assert len(set(taken)) == len(sent) + 1


def test_what_a_full_kernel_had_yet_to_take_is_answered(served, full):
    kernel, client, sent = full
    served.end()
    replies = [client.get_shell_msg(timeout=PATIENCE) for _ in sent]
    assert [reply["parent_header"]["msg_id"] for reply in replies] == sent


def test_what_a_full_kernel_had_yet_to_take_is_not_the_next_ones(served, kernels, full):
    kernel, client, sent = full
    ledger = served.front._standin._ledger

    def detach():
        ledger.settle()
        given = set(ledger._open)
        served.front.detach("restarting", None)
        return given

    given = served.on_loop(detach)
    following = kernels()
    served.attach(following.endpoints)
    taken = [following.take().id for _ in range(len(sent) - len(given))]
    assert taken == [msg_id for msg_id in sent if msg_id not in given]
    aborted = {client.get_shell_msg(timeout=PATIENCE)["parent_header"]["msg_id"] for _ in given}
    assert aborted == given


def test_what_waits_for_a_kernel_outlives_a_burst(served, clients, kernels):
    """A thousand cells, held, then run in order."""
    client = clients()
    ids = [client.execute(str(number)) for number in range(1000)]
    client.until(lambda each: brief(each).startswith("display_data"))
    kernel = kernels(marks=10)
    served.attach(kernel.endpoints)
    for msg_id in ids:
        request = kernel.take()
        assert request.id == msg_id
        kernel.finish(request)
        assert client.answer(msg_id)["content"]["status"] == "ok"
    told = client.told(ids[-1])
    assert told == ["busy", "idle"]
