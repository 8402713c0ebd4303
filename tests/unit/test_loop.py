"""The background loop serves callers on any loop, and gives back what they left."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from slurm_provisioner import loop as loop_module
from slurm_provisioner.loop import LoopThread, background_loop, beside, computed, within


def test_coroutines_run_on_the_background_loop_whatever_the_callers():
    async def where():
        return asyncio.get_running_loop()

    first = asyncio.run(background_loop().run(where()))
    second = asyncio.run(background_loop().run(where()))
    assert first is second is background_loop().loop


def test_a_cancelled_caller_cancels_and_clean_up_goes_on():
    async def main():
        cleaned = asyncio.Event()
        loop = background_loop()
        began = asyncio.Event()
        here = asyncio.get_running_loop()

        async def work():
            here.call_soon_threadsafe(began.set)
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                here.call_soon_threadsafe(cleaned.set)

        task = asyncio.ensure_future(loop.run(work()))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(cleaned.wait(), 60)

    asyncio.run(main())


def test_closing_waits_for_the_clean_up_of_what_was_cancelled():
    loop, began, done = LoopThread(), threading.Event(), []

    async def clean_up():
        await asyncio.sleep(0.2)
        done.append("clean")

    async def work():
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.ensure_future(clean_up())

    call = loop.submit(work())
    assert began.wait(60)
    call.cancel()
    loop.close()
    assert done == ["clean"]


def test_closing_twice_and_closers():
    loop = LoopThread()
    done = []

    async def closer():
        done.append("closed")

    async def unwanted():
        done.append("unwanted")

    loop.at_exit("a", closer)
    loop.at_exit("b", unwanted)
    loop.forget("b")
    loop.close()
    loop.close()
    assert done == ["closed"]


def test_the_end_of_the_interpreter_runs_closers_and_commands():
    script = """
import asyncio
from slurm_provisioner.loop import background_loop, within
from slurm_provisioner.transport.local import LocalTransport

async def closer():
    done = await LocalTransport().run(["echo", "given back"], timeout=60)
    print(done.stdout, end="", flush=True)

background_loop().at_exit("x", closer)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("given back\n", "")


def test_the_end_of_the_interpreter_ends_programs_that_run(tmp_path):
    script = f"""
import os
from slurm_provisioner.loop import background_loop
from slurm_provisioner.transport.local import LocalTransport

for _ in range(3):
    command = LocalTransport().run(["sh", "-c", "echo $$ > {tmp_path}/fifo; exec sleep 600"], timeout=600)
    background_loop().submit(command)
with open(os.open("{tmp_path}/fifo", os.O_RDWR)) as fifo:  # it does not end between two who write
    print(*(fifo.readline().strip() for _ in range(3)))
"""
    os.mkfifo(tmp_path / "fifo")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    pids = done.stdout.split()
    assert len(pids) == 3
    begin = time.monotonic()
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < begin + 60
        time.sleep(0.01)


def test_what_computes_does_so_one_at_a_time_and_holds_no_loop_up():
    story, threads = [], set()

    def work(number: int) -> int:
        threads.add(threading.get_ident())
        story.append(number)
        time.sleep(0.001)  # others could begin
        story.append(number)
        return number

    async def main():
        return await asyncio.gather(*(computed(work, number) for number in range(20)))

    assert asyncio.run(main()) == list(range(20))
    assert story == [number for number in range(20) for _ in "be"]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_what_stands_still_beside_a_loop_holds_nobody_up():
    async def main():
        loop, other, goes_on = background_loop(), [], threading.Event()

        async def stand_still():
            other.append(asyncio.get_running_loop())
            assert goes_on.wait(60)
            return "done"

        async def go_on():
            goes_on.set()

        task = asyncio.ensure_future(beside(stand_still()))
        while not other:
            await asyncio.sleep(0)
        await loop.run(go_on())
        assert await task == "done"
        assert other[0] not in (loop.loop, asyncio.get_running_loop())

    asyncio.run(main())


def test_an_error_beside_a_loop_is_its_callers():
    async def fail():
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        asyncio.run(beside(fail()))


@pytest.mark.parametrize("how", ["at once", "at work"])
def test_who_is_cancelled_waits_for_the_clean_up_beside(how):
    async def main():
        story, here, began = [], asyncio.get_running_loop(), asyncio.Event()

        async def work():
            try:
                here.call_soon_threadsafe(began.set)
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                story.append("clean")

        task = asyncio.ensure_future(beside(work()))
        await (began.wait() if how == "at work" else asyncio.sleep(0))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return began.is_set(), story

    began, story = asyncio.run(main())
    assert story == (["clean"] if began else [])
    assert began or how == "at once"


def test_who_is_cancelled_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(loop_module, "CLEAN_UP", 0.05)
    goes_on = threading.Event()

    async def main():
        began = threading.Event()

        async def stand_still():
            began.set()
            assert goes_on.wait(60)
            await asyncio.sleep(0)

        task = asyncio.ensure_future(beside(stand_still()))
        assert await asyncio.to_thread(began.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    goes_on.set()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_gets_a_loop_of_its_own():
    parent = background_loop()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if background_loop() is not parent else 1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(loop_module, "ABANDONED_AFTER", 0.05)


def stopped_while(work, undo):
    """What a KeyboardInterrupt does to a blocking call: its loop stops, and what waits on it hears of nothing."""
    callers = asyncio.new_event_loop()
    task = callers.create_task(background_loop().run(work, undo=undo))
    callers.call_later(0.02, callers.stop)
    callers.run_forever()
    return task


def test_a_call_whose_caller_stands_still_is_cancelled(impatient):
    cancelled = threading.Event()

    async def work():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    task = stopped_while(work(), lambda: None)
    assert cancelled.wait(60)
    assert not task.done()
    task.get_loop().run_until_complete(asyncio.wait([task]))
    assert task.cancelled()
    task.get_loop().close()


def test_a_call_that_ended_well_for_nobody_is_undone(monkeypatch):
    monkeypatch.setattr(loop_module, "ABANDONED_AFTER", 1.0)  # it ends before that is seen
    undone, end = threading.Event(), threading.Event()

    async def work():
        await asyncio.to_thread(end.wait)

    task = stopped_while(work(), undone.set)
    end.set()
    assert undone.wait(60)
    task.get_loop().run_until_complete(task)
    task.get_loop().close()


def test_a_caller_that_is_busy_or_slow_is_no_deserter(impatient):
    async def main():
        async def work():
            await asyncio.sleep(0.5)
            return "done"

        task = asyncio.ensure_future(background_loop().run(work(), undo=lambda: undone.append(True)))
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251  (that is the point)
        return await task

    undone = []
    assert asyncio.run(main()) == "done"
    assert not undone


@pytest.mark.parametrize("how", ["in time", "late", "cancelled", "cancelled at its end", "failed"])
def test_what_has_a_time_limit_is_undone_where_nobody_takes_it(how):
    """Also where the end and the cancellation come in the same turn, which `asyncio.wait_for` may miss."""

    async def main():
        end, undone = asyncio.get_running_loop().create_future(), []

        async def work():
            try:
                return await end
            except asyncio.CancelledError:
                return "made all the same"

        task = asyncio.ensure_future(within(0.05 if how == "late" else 60, work(), undone.append))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if how in ("in time", "cancelled at its end"):
            end.set_result("made")
            await asyncio.sleep(0)
        if how == "failed":
            end.set_exception(OSError("no"))
        if how.startswith("cancelled"):
            task.cancel()
        await asyncio.wait([task])
        return task, undone

    task, undone = asyncio.run(main())
    match how:
        case "in time":
            assert (task.result(), undone) == ("made", [])
        case "late":
            assert isinstance(task.exception(), asyncio.TimeoutError)
            assert undone == ["made all the same"]
        case "failed":
            assert isinstance(task.exception(), OSError)
        case _:
            assert task.cancelled()
            assert len(undone) == 1
