"""What clients hear from the stand-in, case by case. Messages alone: no sockets, no time."""

from __future__ import annotations

import pytest
from stage import ENDED, Stage
from wire import INFO, make, party

from slurm_provisioner.front import ledger, standin
from slurm_provisioner.front.standin import State


@pytest.fixture
def stage():
    return Stage()


def replies(stage, request):
    return [message for channel, message, _ in stage.sent if channel == "shell" and message.parent_id == request.id]


# ----------------------------------------------------------------------- no kernel yet


def test_kernel_info_is_answered_from_what_is_known(stage):
    request = stage.ask("a", "kernel_info_request")
    assert stage.news() == ["busy", "kernel_info_reply: ok", "idle"]
    (reply,) = replies(stage, request)
    assert reply.content == INFO
    assert reply.identities == [b"a"]


@pytest.mark.parametrize(
    ("kind", "content", "answer"),
    [
        ("complete_request", {"cursor_pos": 3}, {"matches": [], "cursor_start": 3, "cursor_end": 3}),
        ("complete_request", {}, {"matches": [], "cursor_start": 0, "cursor_end": 0}),
        ("inspect_request", {}, {"found": False}),
        ("is_complete_request", {"code": "1"}, {"status": "unknown"}),
        ("history_request", {}, {"history": []}),
        ("comm_info_request", {}, {"comms": {}}),
        ("shutdown_request", {"restart": True}, {"status": "ok", "restart": True}),
        ("shutdown_request", {}, {"status": "ok", "restart": False}),
        ("interrupt_request", {}, {"status": "ok"}),
    ],
)
@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("state", [State.WAITING, State.ATTACHING, State.ENDED])
def test_what_needs_no_kernel_is_answered_at_once(stage, *, kind, content, answer, state, channel):
    if state is State.ATTACHING:
        stage.standin.attach()
    elif state is State.ENDED:
        stage.standin.end(ENDED, ENDED)
    request = stage.ask("a", kind, channel, **content)
    ((there, reply),) = [(where, each) for where, each, _ in stage.sent if each.parent_id == request.id]
    assert (there, reply.kind) == (channel, kind.replace("_request", "_reply"))
    assert answer.items() <= reply.content.items()
    assert stage.forwarded == []


def test_a_waiting_cell_shows_one_live_line(stage):
    stage.standin.tell("job 1 queued")
    first = stage.execute("a")
    stage.execute("a")
    stage.standin.tell("job 1 queued")
    stage.standin.tell("job 1 starts on n1")
    assert stage.news() == ["busy", "display_data: job 1 queued", "update_display_data: job 1 starts on n1"]
    ids = {message.content["transient"]["display_id"] for _, message, _ in stage.sent if "data" in message.content}
    assert len(ids) == 1
    assert {message.parent_id for _, message, _ in stage.sent} == {first.id}


def test_each_client_has_its_line(stage):
    stage.standin.tell("queued")
    cells = [stage.execute("a"), stage.execute("b")]
    stage.standin.tell("starting")
    for cell in cells:
        assert [message.brief for _, message, _ in stage.sent if message.parent_id == cell.id] == [
            "busy",
            "display_data: queued",
            "update_display_data: starting",
        ]


def test_a_line_is_text_not_markup(stage):
    stage.standin.tell("<b>&\nmore")
    stage.execute("a")
    data = stage.sent[-1][1].content["data"]
    assert data["text/plain"] == "<b>&\nmore\n"
    assert "&lt;b&gt;&amp;<br>more" in data["text/html"]


def test_a_silent_execute_shows_nothing(stage):
    stage.execute("a", silent=True)
    assert stage.news() == []
    stage.run()
    assert stage.forwarded


def test_starting_is_said_when_nobody_waits_for_a_reply(stage):
    stage.standin.tick()
    ((_, message, _),) = stage.sent
    assert message.brief == "starting"
    assert message.parent == {}


def test_starting_is_put_off_by_every_kernel_info(stage):
    before = stage.standin.due
    stage.ask("a", "kernel_info_request")
    assert stage.standin.due > before


def test_starting_is_not_said_where_a_cell_waits(stage):
    stage.execute("a")
    stage.news()
    stage.standin.tick()
    assert stage.news() == ["busy"], "for who was not there before"


def test_a_reply_to_a_question_nobody_asked_is_dropped(stage):
    stage.ask("a", "input_reply", "stdin", value="x")
    stage.run()
    assert stage.forwarded == []


def test_too_much_is_refused_and_what_is_held_stays(stage, monkeypatch):
    monkeypatch.setattr(standin, "HELD_MESSAGES", 3)
    held = [stage.execute("a") for _ in range(3)]
    refused = stage.execute("a")
    assert stage.news(refused) == ["busy", "error: RuntimeError", "execute_reply: error", "idle"]
    stage.run()
    assert [message.id for _, message in stage.forwarded] == [each.id for each in held]


def test_too_many_bytes_are_refused_too(stage, monkeypatch):
    monkeypatch.setattr(standin, "HELD_BYTES", 10_000)
    stage.ask("a", "comm_msg", buffers=[bytes(9_000)])
    stage.ask("a", "comm_msg", buffers=[bytes(9_000)])  # not a request: nobody to tell
    refused = stage.ask("a", "debug_request", "control", buffers=[bytes(9_000)])
    assert stage.news() == ["debug_reply: error"]
    assert stage.sent[-1][1].parent_id == refused.id
    stage.run()
    assert [message.kind for _, message in stage.forwarded] == ["comm_msg"]
    stage.standin.detach("", None)
    stage.ask("a", "comm_msg", buffers=[bytes(9_000)])
    stage.run()
    assert [message.kind for _, message in stage.forwarded] == ["comm_msg", "comm_msg"]


# ---------------------------------------------------------------------------- hand-over


def test_hand_over(stage):
    stage.standin.tell("queued")
    first, second = stage.execute("a"), stage.execute("a")
    comm = stage.ask("b", "comm_msg", buffers=[b"\0\xff"], data=1)
    debug = stage.ask("b", "debug_request", "control")
    stage.news()
    stage.run()
    assert stage.news() == ["clear_output"]
    assert stage.sent[-1][1].content == {"wait": False}
    assert stage.sent[-1][1].parent_id == first.id
    expected = [("shell", first), ("shell", second), ("shell", comm), ("control", debug)]
    assert [(channel, message.frames) for channel, message in stage.forwarded] == [(c, m.frames) for c, m in expected]
    assert [info["implementation"] for info in stage.ups] == ["kernel"]


def test_idle_is_said_where_nothing_runs(stage):
    stage.ask("a", "comm_msg")
    stage.run()
    assert stage.news() == ["idle"]
    assert stage.sent[-1][1].parent == {}


@pytest.mark.parametrize("shell_first", [True, False])
def test_a_kernel_is_up_once_both_ways_are(stage, shell_first):
    stage.execute("a")
    stage.standin.attach()
    for shell in (shell_first, not shell_first):
        assert stage.standin.state is State.ATTACHING
        if shell:
            stage.answer_probe()
        else:
            stage.publish()
    assert stage.standin.state is State.RUNNING
    assert len(stage.forwarded) == 1


def test_a_kernel_that_does_not_answer_is_asked_again(stage):
    stage.standin.attach()
    for count in range(2, 9):
        assert stage.standin.due is not None
        stage.standin.tick()
        assert len(stage.probes) == count
    stage.publish()
    stage.answer_probe()
    stage.news()
    stage.answer_probe()  # those of the others come late
    assert stage.news() == []


def test_nobody_else_can_pass_for_the_kernel(stage):
    stage.standin.attach()
    stranger = party("stranger", b"another key")
    parent = stage.probes[-1].header
    stage.from_kernel("iopub", make(stranger, "status", {"execution_state": "idle"}))
    stage.from_kernel("shell", make(stranger, "kernel_info_reply", INFO, parent, identities=[b"slurm-provisioner"]))
    stage.answer_probe()
    assert stage.standin.state is State.ATTACHING
    stage.publish()
    assert stage.standin.state is State.RUNNING


def test_it_speaks_with_the_kernels_session_and_words(stage):
    stage.run()
    stage.standin.end(ENDED, ENDED)
    request = stage.ask("a", "kernel_info_request")
    (reply,) = replies(stage, request)
    assert reply.content["implementation"] == "kernel"
    assert reply.header["session"] == "kernel"


# ------------------------------------------------------------------------ with a kernel


@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
@pytest.mark.parametrize(
    "kind", ["execute_request", "kernel_info_request", "input_reply", "comm_msg", "never heard of"]
)
def test_what_clients_say_reaches_the_kernel_as_it_is(stage, channel, kind):
    stage.run()
    message = stage.ask("a", kind, channel, buffers=[b"", b"\0\xff"], value="x")
    assert [(where, each.frames) for where, each in stage.forwarded] == [(channel, message.frames)]


@pytest.mark.parametrize("kind", ["execute_reply", "kernel_info_reply", "never heard of"])
def test_what_the_kernel_says_reaches_clients_as_it_is(stage, kind):
    stage.run()
    stage.news()
    frames = make(stage.kernel, kind, {"status": "ok"}, {"msg_id": "unknown"}, identities=[b"a"], buffers=[b"", b"\0"])
    stage.from_kernel("shell", frames)
    assert stage.sent[-1][1].frames == frames


# --------------------------------------------------------------------------------- ends


def test_the_running_cell_gets_the_error_and_the_others_are_aborted(stage):
    stage.run()
    cells = [stage.execute("a"), stage.execute("a"), stage.execute("b")]
    comm_info = stage.ask("a", "comm_info_request")
    stage.standin.end(ENDED, ENDED)
    told = {
        number: [each.brief for _, each, _ in stage.sent if each.parent_id == cell.id]
        for number, cell in enumerate(cells)
    }
    failed = ["busy", "error: JobEndedError", "execute_reply: error", "idle"]
    assert told == {0: failed, 1: ["busy", "execute_reply: aborted", "idle"], 2: failed}
    assert replies(stage, comm_info)[0].content["status"] == "error"
    assert stage.sent[-1][1].brief == "idle"
    assert stage.sent[-1][1].parent == {}


def test_every_later_cell_says_why_again(stage):
    stage.standin.end(ENDED, ENDED)
    stage.news()
    for _ in range(3):
        stage.execute("a")
        assert stage.news() == ["busy", "error: JobEndedError", "execute_reply: error", "idle"]
    stage.execute("a", silent=True)
    assert stage.news() == ["busy", "execute_reply: error", "idle"]
    stage.ask("a", "comm_msg")
    assert stage.news() == []


def test_an_end_while_cells_wait_takes_their_line_away(stage):
    cell = stage.execute("a")
    stage.standin.end(ENDED, ENDED)
    assert stage.news(cell)[-4:] == ["busy", "error: JobEndedError", "execute_reply: error", "idle"]
    assert [m.kind for _, m, _ in stage.sent if m.parent_id == cell.id].count("clear_output") == 1


def test_an_end_between_cells_is_told_in_the_last_one_once(stage):
    stage.run()
    cell = stage.execute("a")
    stage.finish("shell", cell)
    stage.news()
    stage.standin.end(ENDED, ENDED)
    assert stage.news() == ["stream", "idle"]
    assert stage.sent[-2][1].parent_id == cell.id
    stage.standin.end(ENDED, ENDED)
    assert stage.news() == ["idle"]


def test_an_end_in_a_cell_is_not_told_in_it_again(stage):
    stage.run()
    stage.execute("a")
    stage.standin.end(ENDED, ENDED)
    stage.news()
    stage.standin.end(ENDED, ENDED)
    assert stage.news() == ["idle"]


def test_a_crash_ends_the_cell_and_the_next_kernel_takes_over(stage):
    stage.run()
    running = stage.execute("a")
    stage.news()
    stage.standin.detach("restarting", ENDED)
    assert stage.news(running) == ["busy", "error: JobEndedError", "execute_reply: error", "idle"]
    waiting = stage.execute("a")
    assert stage.news() == ["busy", "display_data: restarting"]
    stage.run()
    assert stage.forwarded[-1][1].id == waiting.id
    assert [message.id for _, message in stage.forwarded].count(running.id) == 1


def test_a_cell_that_waits_keeps_its_line_when_a_kernel_fails_to_start(stage):
    first = stage.execute("a")
    stage.execute("a")
    stage.standin.attach()
    stage.news()
    stage.standin.detach("a new job", ENDED)
    assert stage.news() == ["clear_output", "busy", "display_data: a new job"]
    assert {message.parent_id for _, message, _ in stage.sent[-3:]} == {first.id}
    stage.standin.tell("queued")
    assert stage.news(first) == ["update_display_data: queued"]


def test_a_restart_drops_what_waits(stage):
    stage.run()
    running = stage.execute("a")
    stage.standin.detach("restarting", None)
    assert stage.news(running) == ["busy", "execute_reply: aborted", "idle"]
    held = [stage.execute("a"), stage.ask("a", "debug_request", "control")]
    stage.standin.detach("restarting", None)
    assert [m.content["status"] for _, m, _ in stage.sent if m.kind.endswith("_reply")] == ["aborted"] * 3
    stage.run()
    assert {message.id for _, message in stage.forwarded}.isdisjoint({each.id for each in held})


def test_a_restart_after_the_end(stage):
    stage.standin.end(ENDED, ENDED)
    stage.standin.detach("queued again", None)
    stage.news()
    stage.execute("a")
    assert stage.news() == ["busy", "display_data: queued again"]
    stage.run()
    assert len(stage.forwarded) == 1


# ---------------------------------------------------------------------------- interrupts


@pytest.mark.parametrize("by_message", [True, False])
def test_an_interrupt_ends_the_cells_that_wait(stage, by_message):
    stage.standin.tell("job 1 queued")
    cells = [stage.execute("a"), stage.execute("a"), stage.execute("b")]
    comm = stage.ask("a", "comm_msg")
    stage.news()
    if by_message:
        stage.ask("a", "interrupt_request", "control")
    else:
        assert stage.standin.interrupt()
    told = [[each.brief for _, each, _ in stage.sent if each.parent_id == cell.id][-4:] for cell in cells]
    failed = ["busy", "error: KeyboardInterrupt", "execute_reply: error", "idle"]
    assert told == [failed, ["busy", "execute_reply: aborted", "idle"], failed]
    assert any("job 1 queued" in m.content["traceback"] for _, m, _ in stage.sent if m.kind == "error")
    stage.run()
    assert [message.id for _, message in stage.forwarded] == [comm.id]


def test_an_interrupt_is_the_kernels_own_affair_once_it_runs(stage):
    stage.run()
    stage.execute("a")
    stage.news()
    assert not stage.standin.interrupt()
    assert stage.news() == []
    stage.ask("a", "interrupt_request", "control")
    assert stage.forwarded[-1][1].kind == "interrupt_request"


# --------------------------------------------------------------------- lost and warned


def test_a_lost_kernel_is_told_in_the_running_cell_on_one_line(stage):
    stage.run()
    cell = stage.execute("a")
    stage.news()
    stage.standin.lost("connection lost")
    stage.standin.lost("connection lost")
    assert stage.news(cell) == ["busy", "display_data: connection lost"]
    stage.standin.lost("connection lost, to be interrupted")
    assert stage.news(cell)[-1] == "update_display_data: connection lost, to be interrupted"
    assert stage.standin.is_lost
    late = stage.execute("b")
    assert stage.news(late) == ["busy", "display_data: connection lost, to be interrupted"]
    assert stage.forwarded[-1][1].id == late.id
    stage.standin.found("connected again")
    assert stage.news() == ["update_display_data: connected again"] * 2
    assert not stage.standin.is_lost
    stage.execute("c")
    assert stage.news() == []


def test_a_lost_kernel_that_ended(stage):
    stage.run()
    cell = stage.execute("a")
    stage.standin.lost("connection lost")
    stage.news()
    stage.standin.end(ENDED, ENDED)
    assert stage.news(cell) == ["busy", "error: JobEndedError", "execute_reply: error", "idle"]
    assert not stage.standin.is_lost


def test_a_warning_is_shown_where_it_is_seen(stage):
    stage.run()
    cell = stage.execute("a")
    stage.standin.warn(lambda: "5 minutes left")
    assert stage.news(cell) == ["display_data: 5 minutes left"]
    stage.finish("shell", cell)
    stage.news()
    stage.standin.warn(lambda: "1 minute left")
    stage.standin.tick()
    assert stage.news(cell) == ["display_data: 1 minute left"]


def test_a_warning_waits_for_a_cell_to_be_shown_in(stage):
    stage.run()
    left = "5 minutes left"
    stage.standin.warn(lambda: left)
    stage.standin.tick()
    assert stage.news() == ["idle"]
    cell = stage.execute("a")
    left = "4 minutes left"
    stage.standin.tick()
    assert stage.news(cell) == ["display_data: 4 minutes left"]
    stage.execute("b")
    stage.standin.tick()
    assert stage.news() == [], "once"


def test_a_warning_that_came_before_the_kernel_answered_is_shown(stage):
    cell = stage.execute("a")
    stage.standin.warn(lambda: "5 minutes left")
    assert "display_data: 5 minutes left" not in stage.news()
    stage.run()
    assert stage.news(cell)[-1] == "display_data: 5 minutes left"


def test_a_warning_goes_with_its_kernel(stage):
    stage.run()
    stage.standin.warn(lambda: "5 minutes left")
    stage.standin.detach("restarting", None)
    stage.news()
    stage.run()
    stage.execute("a")
    stage.standin.tick()
    assert [each for each in stage.news() if "minutes" in each] == []


# -------------------------------------------------------------------------------- ledger


def test_of_too_many_open_requests_the_cells_are_remembered(stage, monkeypatch):
    monkeypatch.setattr(ledger, "REMEMBERED", 3)
    stage.run()
    cell = stage.execute("a")
    others = [stage.ask("a", "odd_request") for _ in range(4)]
    stage.standin.end(ENDED, ENDED)
    assert len(replies(stage, cell)) == 1
    assert [len(replies(stage, each)) for each in others] == [0, 0, 1, 1]


def test_a_client_is_welcomed(stage):
    stage.standin.welcome(b"")
    stage.standin.welcome(b"topic")
    first, second = (message for _, message, _ in stage.sent)
    assert (first.kind, first.content, first.identities) == ("iopub_welcome", {"subscription": ""}, [])
    assert (second.content, second.identities) == ({"subscription": "topic"}, [b"topic"])
