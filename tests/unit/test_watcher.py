"""One poll for all, and no death without evidence."""

from __future__ import annotations

import asyncio
import logging

import pytest

from slurm_provisioner import watcher
from slurm_provisioner.errors import CommandError
from slurm_provisioner.status import JobStatus, Position
from slurm_provisioner.waiting import Notes
from slurm_provisioner.watcher import Watcher

log = logging.getLogger("test")


class Controller:
    """A controller that answers each squeue with the next of its answers, and then with the last one for ever."""

    def __init__(self, *answers: dict[str, JobStatus] | Exception, record: JobStatus | None = None) -> None:
        self.answers = list(answers)
        self.record = record
        self.asked: list[list[str]] = []

    async def queue(self, job_ids):
        self.asked.append(list(job_ids))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def look_up(self, job_id):
        return self.record


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watcher, "YOUNG_INTERVAL", 0.001)
    monkeypatch.setattr(watcher, "SILENCE_FIRST", 0.001)


def told(controller: Controller, until: int) -> list[JobStatus]:
    async def main():
        seen: list[JobStatus] = []
        enough = asyncio.Event()

        def see(status):
            seen.append(status)
            if len(seen) >= until:
                enough.set()

        watch = Watcher(controller, log).watch("1", "", see)
        await asyncio.wait_for(enough.wait(), 60)
        watch.close()
        return seen

    return asyncio.run(main())


def down() -> CommandError:
    return CommandError("squeue failed", argv=["squeue"], returncode=1)


RUNNING = JobStatus("1", "RUNNING", node="c1")


def test_a_controller_that_does_not_answer_is_no_news(caplog):
    controller = Controller(down(), down(), {"1": RUNNING}, down(), {"1": RUNNING})
    with caplog.at_level(logging.WARNING):
        assert told(controller, 2) == [RUNNING, RUNNING]
    warnings = [record for record in caplog.records if "could not be asked" in record.getMessage()]
    assert len(warnings) == 2, "one a silence, not one a poll"


def test_nothing_unforeseen_ends_the_watching(caplog):
    assert told(Controller(RuntimeError("can't start new thread"), {"1": RUNNING}), 1) == [RUNNING]
    assert "can't start new thread" in caplog.text


def test_an_empty_answer_alone_is_no_death():
    assert told(Controller({}, {}, {}, {"1": RUNNING}), 1) == [RUNNING]


def test_a_job_that_left_the_queue_is_settled_by_its_record():
    timeout = JobStatus("1", "TIMEOUT", "TimeLimit", "c1", 0, 15)
    assert told(Controller({}, record=timeout), 1) == [timeout]


def test_the_record_adds_the_exit_code():
    failed = JobStatus("1", "FAILED", "NonZeroExitCode", "c1", 110, None)
    assert told(Controller({"1": JobStatus("1", "FAILED")}, record=failed), 1) == [failed]


def test_a_job_nobody_knows_has_ended_after_a_while(monkeypatch):
    monkeypatch.setattr(watcher, "VANISHED_AFTER", 0.05)
    assert told(Controller({}), 1) == [JobStatus("1", "NOT_FOUND")]


def test_another_job_of_the_same_number_is_not_ours():
    other = JobStatus("1", "FAILED", name="other")
    assert told(Controller({"1": other}, {"1": RUNNING}, record=other), 1) == [RUNNING]


def test_a_slow_record_delays_no_other_job():
    class Slow(Controller):
        async def look_up(self, job_id):
            await asyncio.Event().wait()

    async def main():
        watcher_ = Watcher(Slow({"1": RUNNING}), log)
        told_often = asyncio.Event()
        seen = []

        def see(status):
            seen.append(status)
            if len(seen) > 3:
                told_often.set()

        watches = [watcher_.watch("1", "", see), watcher_.watch("2", "", see)]
        await asyncio.wait_for(told_often.wait(), 60)
        for watch in watches:
            watch.close()

    asyncio.run(main())


def test_a_controller_that_stays_silent_is_asked_less_and_less(monkeypatch):
    monkeypatch.setattr(watcher, "SILENCE_FIRST", 0.05)
    controller = Controller(down())

    async def main():
        watch = Watcher(controller, log).watch("1", "", lambda status: None)
        await asyncio.sleep(0.4)  # polls at 0, 50, 150, 350 ms
        watch.close()

    asyncio.run(main())
    assert len(controller.asked) <= 4


def test_one_poll_asks_for_all_jobs_and_none_is_made_for_nobody():
    async def main():
        controller = Controller({str(n): JobStatus(str(n), "RUNNING") for n in range(50)})
        watcher_ = Watcher(controller, log)
        seen: set[str] = set()
        all_told = asyncio.Event()

        def see(status):
            seen.add(status.job_id)
            if len(seen) == 50:
                all_told.set()

        watches = [watcher_.watch(str(n), "", see) for n in range(50)]
        await asyncio.wait_for(all_told.wait(), 60)
        polls = len(controller.asked)
        assert sorted(controller.asked[-1], key=int) == [str(n) for n in range(50)]
        for watch in watches:
            watch.close()
        before = len(controller.asked)
        await asyncio.sleep(0.05)
        return polls, len(controller.asked) - before

    polls, after_close = asyncio.run(main())
    assert polls < 10
    assert after_close == 0


def test_intervals_grow_with_age_and_rest_while_the_supervisor_speaks(monkeypatch):
    async def main():
        monkeypatch.setattr(watcher, "YOUNG_INTERVAL", 1.0)
        clock = [1000.0]
        monkeypatch.setattr(watcher.time, "monotonic", lambda: clock[0])
        watcher_ = Watcher(Controller({}), log)
        watch = watcher.Watch(watcher_, "1", "", lambda status: None, Notes())
        assert watch.interval == 1
        clock[0] += 100
        assert watch.interval == 10
        clock[0] += 10_000
        assert watch.interval == 30
        watch.linked = True
        assert watch.interval == 300
        watch.begins()
        assert watch.interval == 300, "it speaks for itself"
        watch.hurry()
        assert watch.interval == 1
        clock[0] += 20
        assert watch.interval == 300
        watch.ends()
        assert watch.interval == 0.2
        clock[0] += 1
        assert watch.interval == 1, "Slurm is not pestered"
        clock[0] += 20
        assert watch.interval == 300

    asyncio.run(main())


def test_a_job_that_speaks_for_itself_at_once_is_not_asked_for(monkeypatch):
    async def main():
        monkeypatch.setattr(watcher, "YOUNG_INTERVAL", 0.5)
        controller = Controller({})
        watcher_ = Watcher(controller, log)
        speaks = watcher_.watch("1", "", lambda status: None)
        await asyncio.sleep(0)
        speaks.linked = True
        await asyncio.sleep(1)
        asked = list(controller.asked)
        speaks.close()
        return asked

    assert asyncio.run(main()) == []


class Queue(Controller):
    """A controller whose queue can be looked at."""

    def __init__(self, *answers: dict[str, JobStatus] | Exception, positions: dict[str, Position] | Exception) -> None:
        super().__init__(*answers)
        self._positions = positions
        self.looked: list[tuple[set[str], set[str]]] = []

    async def positions(self, job_ids, partitions):
        self.looked.append((set(job_ids), set(partitions)))
        if isinstance(self._positions, Exception):
            raise self._positions
        return self._positions


def noted(controller: Queue, *notes: Notes, polls: int = 3) -> None:
    """Watch jobs 1, 2 and so on, until each was told its status so many times."""

    async def main():
        watcher_ = Watcher(controller, log)
        enough = asyncio.Event()

        def see(status):
            if len(controller.asked) > polls:
                enough.set()

        watches = [watcher_.watch(str(number), "", see, each) for number, each in enumerate(notes, 1)]
        await asyncio.wait_for(enough.wait(), 60)
        for watch in watches:
            watch.close()

    asyncio.run(main())


def queued(job_id: str = "1", reason: str = "Priority", **known) -> dict[str, JobStatus]:
    return {job_id: JobStatus(job_id, "PENDING", reason, **{"partition": "gpu", **known})}


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(watcher, "POSITION_AFTER", 0)


def test_one_question_tells_the_positions_of_all_who_are_waited_for(soon):
    queue = {**queued("1"), **queued("2", partition="low,gpu"), **queued("3")}
    controller = Queue(queue, positions={"1": Position(3, "gpu"), "2": Position(4, "gpu")})
    notes = [Notes(wanted=True), Notes(wanted=True), Notes()]
    noted(controller, *notes)
    assert controller.looked == [({"1", "2"}, {"gpu", "low"})], "one question an interval, however many polls"
    assert [each.position for each in notes] == [Position(3, "gpu"), Position(4, "gpu"), None]


@pytest.mark.parametrize(
    "queue",
    [
        queued(start=1795361286.0),
        queued(reason="QOSMaxJobsPerUserLimit"),
        queued(reason="JobHeldUser"),
        {"1": JobStatus("1", "RUNNING", node="c1", partition="gpu")},
    ],
    ids=["start expected", "limit", "held", "running"],
)
def test_the_queue_is_not_listed_where_the_position_says_nothing(queue, soon):
    controller = Queue(queue, positions={"1": Position(3, "gpu")})
    noted(controller, Notes(wanted=True))
    assert not controller.looked


def test_the_queue_is_not_listed_for_a_job_that_has_just_been_submitted():
    controller = Queue(queued(), positions={"1": Position(3, "gpu")})
    noted(controller, Notes(wanted=True))
    assert not controller.looked


def test_a_position_is_forgotten_once_the_job_has_left_the_line(soon):
    changes = []
    notes = Notes(wanted=True, changed=lambda: changes.append(notes.position))
    noted(Queue(queued(), queued(), queued(reason="JobHeldUser"), positions={"1": Position(3, "gpu")}), notes, polls=5)
    assert changes == [Position(3, "gpu"), None]


def test_a_queue_that_cannot_be_listed_is_no_trouble(soon):
    notes = Notes(wanted=True)
    controller = Queue(queued(), positions=down())
    noted(controller, notes)
    assert controller.looked
    assert notes.position is None


def test_a_queue_that_takes_long_to_list_is_listed_more_rarely(soon, monkeypatch):
    monkeypatch.setattr(watcher, "POSITION_INTERVAL", 0)
    clock = [1000.0]
    monkeypatch.setattr(watcher.time, "monotonic", lambda: clock[0])

    class Slow(Queue):
        async def positions(self, job_ids, partitions):
            clock[0] += 2
            return {}

    async def main():
        watcher_ = Watcher(Slow(queued(), positions={}), log)
        watch = watcher_.watch("1", "", lambda status: None)
        await watcher_._position({watch: queued()["1"]})
        watch.close()
        return watcher_._positions_due

    assert asyncio.run(main()) == 1002 + 2 * watcher.POSITION_REST


def test_the_silence_of_the_controller_is_noted_and_its_end():
    changes = []
    notes = Notes(changed=lambda: changes.append(bool(notes.silent)))
    noted(Queue(queued(), down(), down(), queued(), positions={}), notes, polls=5)
    assert changes == [True, False]
