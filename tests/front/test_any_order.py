"""Whatever clients, a kernel and a job do, in whatever order: no request is lost, none is answered twice.

hypothesis makes up stories of three clients, of kernels that come and go, and of noise. What must hold is looked at
after every step, and at the end of each story, once the job has ended.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stage import ENDED, WAITING, Stage
from wire import Read, make, party, read, signature

from slurm_provisioner.front.standin import State

CLIENTS = ("a", "b", "c")
AT_ONCE = (
    "kernel_info_request",
    "complete_request",
    "inspect_request",
    "is_complete_request",
    "history_request",
    "comm_info_request",
    "shutdown_request",
    "interrupt_request",
)
FOR_KERNELS = ("debug_request", "create_subshell_request", "odd_request")
NO_REQUESTS = ("comm_open", "comm_msg", "comm_close", "odd")
lines = st.sampled_from(["", "job 1 queued", "starting on n1", "loading modules"])

clients = st.sampled_from(CLIENTS)
channels = st.sampled_from(["shell", "control"])


def running(self) -> bool:
    return self.stage.standin.state is State.RUNNING


def waiting(self) -> bool:
    return self.stage.standin.state in WAITING


def attaching(self) -> bool:
    return self.stage.standin.state is State.ATTACHING


class Stories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage()
        self.asked: dict[str, tuple[str, Read, bool]] = {}  # by id: channel, request, silent
        self.messages: list[tuple[str, Read]] = []  # all that may be forwarded
        self.to_forward: list[Read] = []  # held, and to be forwarded unless something happens
        self.open: dict[str, list[Read]] = {"shell": [], "control": []}  # the kernel's, to be answered in order
        self.looked_at = 0
        self.forwarded_before = 0
        self.statuses: dict[str, list[str]] = {}
        self.answers: Counter[str] = Counter()
        self.displays: dict[str, str] = {}  # those of waiting cells: by id, the request

    # ------------------------------------------------------------------- clients

    def send(self, client: str, channel: str, kind: str, **content) -> Read:
        standin = self.stage.standin
        frames = make(party(client), kind, content, identities=[client.encode()], buffers=[b"", b"\0\xff"])
        message = read(frames)
        if kind.endswith("_request"):
            self.asked[message.id] = (channel, message, bool(content.get("silent")))
        self.messages.append((channel, message))
        if channel != "stdin" and standin.state in WAITING and kind not in AT_ONCE:
            self.to_forward.append(message)
        if kind == "interrupt_request":
            self.interrupted()
        self.stage.from_client(channel, frames)
        if standin.state is State.RUNNING:
            assert self.stage.forwarded[-1] == (channel, message)
        return message

    @rule(client=clients, channel=channels, silent=st.booleans())
    def execute(self, client, channel, silent):
        self.send(client, channel, "execute_request", code="1", silent=silent)

    @rule(client=clients, channel=channels, kind=st.sampled_from([*AT_ONCE, *FOR_KERNELS, *NO_REQUESTS]))
    def ask(self, client, channel, kind):
        self.send(client, channel, kind)

    @rule(client=clients)
    def answer_a_question(self, client):
        self.send(client, "stdin", "input_reply", value="x")

    @rule(
        client=clients,
        channel=st.sampled_from(["shell", "control", "stdin"]),
        kind=st.sampled_from(["execute_request", "kernel_info_request", "interrupt_request", "shutdown_request"]),
        how=st.sampled_from(["stranger", "unsigned", "changed", "cut", "no delimiter", "no header", "empty"]),
    )
    def noise(self, client, channel, kind, how):
        """Nobody answers it, and a kernel that runs is left to judge it."""
        before = len(self.stage.sent), len(self.stage.forwarded), len(self.stage.probes)
        self.stage.noise.clear()
        frames = make(party(client), kind, {"code": "1"}, identities=[client.encode()])
        if how == "stranger":
            frames = make(party(client, b"another key"), kind, {"code": "1"}, identities=[client.encode()])
        elif how == "unsigned":
            frames[2] = b""
        elif how == "changed":
            frames[-1] = b'{"code": "2"}'
        elif how == "cut":
            del frames[-2:]
        elif how == "no delimiter":
            del frames[1]
        elif how == "no header":
            frames[3] = b"[]"
            frames[2] = signature(frames[3:])
        else:
            frames = [b""]
        self.stage.from_client(channel, frames)
        assert before == (len(self.stage.sent), len(self.stage.forwarded), len(self.stage.probes))
        assert self.stage.noise == ([(channel, frames)] if running(self) else [])

    # -------------------------------------------------------------------- kernel

    @precondition(attaching)
    @rule()
    def probe_is_answered(self):
        self.stage.answer_probe()

    @precondition(attaching)
    @rule()
    def kernel_publishes(self):
        self.stage.publish()

    @precondition(attaching)
    @rule(channel=st.sampled_from(["shell", "iopub"]))
    def stranger_speaks(self, channel):
        stranger = party("stranger", b"another key")
        probe = self.stage.probes[-1]
        frames = make(stranger, "kernel_info_reply", {"status": "ok"}, probe.header, identities=probe.identities)
        self.stage.from_kernel(channel, frames)
        assert self.stage.standin.state is State.ATTACHING

    @precondition(lambda self: any(self.open.values()))
    @rule(channel=channels, status=st.sampled_from(["ok", "error", "aborted"]))
    def kernel_answers(self, channel, status):
        if self.open[channel]:
            request = self.open[channel].pop(0)
            if request.kind != "odd_request":  # kernels may leave those without an answer
                self.stage.finish(channel, request, status)

    @precondition(lambda self: not running(self))
    @rule(channel=channels)
    def late_reply(self, channel):
        """Of a kernel that is no more."""
        before = len(self.stage.sent)
        frames = make(party("an old kernel"), "execute_reply", {"status": "ok"}, {"msg_id": "old"}, identities=[b"a"])
        self.stage.from_kernel(channel, frames)
        assert len(self.stage.sent) == before

    # ----------------------------------------------------------------------- job

    @rule(line=lines)
    def tell(self, line):
        self.stage.standin.tell(line)

    @precondition(lambda self: self.stage.standin.state is State.WAITING)
    @rule()
    def attach(self):
        self.stage.standin.attach()

    @rule(line=lines, wanted=st.booleans())
    def detach(self, line, wanted):
        self.kernel_is_gone()
        if wanted:
            self.to_forward.clear()
        self.stage.standin.detach(line, None if wanted else ENDED)
        assert self.stage.standin.state is State.WAITING

    @rule()
    def end(self):
        self.kernel_is_gone()
        self.to_forward.clear()
        self.stage.standin.end(ENDED, ENDED)
        assert self.stage.standin.state is State.ENDED

    def kernel_is_gone(self) -> None:
        for requests in self.open.values():
            requests.clear()

    @rule(line=lines)
    def lost(self, line):
        self.stage.standin.lost(line)

    @precondition(running)
    @rule(line=lines)
    def found(self, line):
        self.stage.standin.found(line)

    @rule(line=lines)
    def warn(self, line):
        self.stage.standin.warn(lambda: line)

    @rule()
    def interrupt(self):
        self.interrupted()
        assert self.stage.standin.interrupt() is not running(self)

    def interrupted(self) -> None:
        if waiting(self):
            self.to_forward = [message for message in self.to_forward if message.kind != "execute_request"]

    @precondition(lambda self: self.stage.standin.due is not None)
    @rule()
    def tick(self):
        self.stage.standin.tick()

    # ------------------------------------------------------------ what must hold

    @invariant()
    def it_holds(self) -> None:
        self.what_was_sent_is_right()
        self.what_was_forwarded_is_right()
        self.each_client_that_waits_has_one_live_line()

        standin = self.stage.standin
        assert standin._held_bytes == sum(message.size for _, message, _ in standin._held)

    def what_was_sent_is_right(self) -> None:
        new, self.looked_at = self.stage.sent[self.looked_at :], len(self.stage.sent)
        for channel, message, state in new:  # Stage has read them: their signatures are right
            if channel == "iopub":
                self.published(message, state)
                continue
            assert message.kind.endswith("_reply")
            where, request, _ = self.asked[message.parent_id]
            assert (channel, message.identities) == (where, request.identities)
            assert message.kind == request.kind.replace("_request", "_reply")
            self.answers[request.id] += 1
            assert self.answers[request.id] == 1
            if request.kind == "execute_request":
                assert self.statuses[request.id][-1] == "busy"

    def published(self, message: Read, state: State) -> None:
        about = message.parent_id
        assert about is None or about in self.asked or about in {each.id for _, each in self.messages}
        if message.kind == "status":
            self.statuses.setdefault(about or "", []).append(message.brief)
        elif about is not None and message.kind in ("display_data", "update_display_data", "stream", "error"):
            assert not self.asked[about][2], "a silent execute shows nothing"
        if message.kind == "display_data" and state in WAITING:
            self.displays[message.content["transient"]["display_id"]] = about
        elif message.kind == "clear_output":
            self.displays = {display: request for display, request in self.displays.items() if request != about}

    def what_was_forwarded_is_right(self) -> None:
        new = self.stage.forwarded[self.forwarded_before :]
        self.forwarded_before = len(self.stage.forwarded)
        for each in new:
            assert each in self.messages, "changed, or on another channel"
            channel, message = each
            if channel in self.open and message.kind.endswith("_request"):
                self.open[channel].append(message)
        places = [self.messages.index(each) for each in self.stage.forwarded]
        assert all(one < next_one for one, next_one in pairwise(places)), "twice, or out of order"
        if running(self):
            ids = {message.id for _, message in self.stage.forwarded}
            assert all(message.id in ids for message in self.to_forward)
            self.to_forward.clear()

    def each_client_that_waits_has_one_live_line(self) -> None:
        shown = Counter(self.asked[request][1].header["session"] for request in self.displays.values())
        cells = {
            message.header["session"]: message.id
            for message in reversed(self.to_forward)
            if message.kind == "execute_request" and not message.content["silent"]
        }
        assert shown == Counter(cells.keys()), "one line for each, and none where none waits"
        assert set(self.displays.values()) == set(cells.values()), "in the first cell that waits"

    def teardown(self) -> None:
        self.end()
        self.it_holds()
        assert set(self.answers) == set(self.asked), "every request has its answer"
        for _, request, _ in self.asked.values():
            if request.kind == "execute_request":
                told = self.statuses[request.id]
                assert told[0] == "busy"
                assert told[-1] == "idle"
                assert told.count("idle") == 1
        assert self.displays == {}, "no line is left in a cell"
        standin = self.stage.standin
        assert standin._ledger.take_all() == []
        assert (len(standin._held), standin._held_bytes) == (0, 0)
        assert standin._notices == {}


TestStories = Stories.TestCase
TestStories.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
