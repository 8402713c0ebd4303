"""What clients hear: the stand-in's word while there is no kernel, the kernel's own once there is one.

Messages in, messages out, and the time of day; sockets are `front`'s affair. The words of the protocol are those of
"Messaging in Jupyter" in jupyter_client's documentation.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from . import notice, zmtp
from .ledger import Ledger, Request, first_of_each
from .messages import Codec, Message
from .notice import Failure

__all__ = ["Listener", "StandIn", "State"]

log = logging.getLogger("slurm_provisioner")

#: Seconds until a kernel that was just connected to is asked again for a sign of life: first, and at most.
PROBE_FIRST, PROBE_LAST = 0.05, 0.5
#: Seconds of quiet after which clients are told again how the kernel is: JupyterLab does not learn it from the answer
#: to kernel_info, its first request. jupyter_server asks for it, too, before it opens a websocket, and waits as long as
#: it believes in "starting".
QUIET = 1.0
#: Seconds after which it is noted what a kernel that runs was asked, and what it answered.
BOOKKEEPING = 0.2
#: What is kept for a kernel that is to come: messages, and their bytes.
HELD_MESSAGES, HELD_BYTES = 2_000, 2**28

#: Requests with an answer that needs no kernel.
_AT_ONCE: dict[str, dict[str, Any]] = {
    "complete_request": {"status": "ok", "matches": [], "cursor_start": 0, "cursor_end": 0, "metadata": {}},
    "inspect_request": {"status": "ok", "found": False, "data": {}, "metadata": {}},
    "is_complete_request": {"status": "unknown"},
    "history_request": {"status": "ok", "history": []},
    "comm_info_request": {"status": "ok", "comms": {}},
}
_PROBE = b"slurm-provisioner"


class State(Enum):
    """Who answers."""

    WAITING = "there is no kernel yet"
    ATTACHING = "there is a kernel, which has not spoken yet"
    RUNNING = "the kernel answers"
    ENDED = "there is no kernel any more"


@dataclass(frozen=True)
class _Notice:
    """Something shown in a cell that may change or vanish."""

    request: Request
    display_id: str


class Listener(Protocol):
    """Who wants to know what happens here."""

    def up(self, info: Mapping[str, Any]) -> None:
        """Take the kernel's own ``kernel_info_reply``: it answers."""

    def watched(self, whether: bool) -> None:
        """Take the news that a cell shows where the job is, or that none does any more."""


class StandIn:
    """Answers for a kernel, or passes on what it says.

    Parameters
    ----------
    codec : Codec
        Reads and makes messages.
    to_clients, to_kernel : callable
        Send a message by a channel, packed, with the name of whose it is in front.
    info : mapping
        The content of ``kernel_info_reply`` until the kernel itself was heard.
    listener : Listener
        Who wants to know.
    """

    def __init__(
        self,
        codec: Codec,
        to_clients: Callable[[str, bytes], None],
        to_kernel: Callable[[str, bytes], None],
        info: Mapping[str, Any],
        listener: Listener,
    ) -> None:
        self._codec = codec
        self._to_clients = to_clients
        self._to_kernel = to_kernel
        self._info = dict(info)
        self._listener = listener
        self.state = State.WAITING
        self._held: deque[tuple[str, Message, Request]] = deque()
        self._held_bytes = 0
        self._ledger = Ledger(codec)
        self._notices: dict[str, _Notice] = {}
        self._line = ""
        self._lost = ""
        self._warning: Callable[[], str] | None = None  # that no cell has shown yet
        self._failure = self._later = Failure("", "", ())
        self._probes: set[str] = set()
        self._heard_shell = self._heard_iopub = False
        self._probe_pause = PROBE_FIRST
        self._due: float | None = time.monotonic() + QUIET

    # ----------------------------------------------------------- from clients

    def from_client(self, channel: str, packed: bytes) -> None:
        """Take what a client sent."""
        if self.state is State.RUNNING:
            self._to_kernel(channel, packed)  # which has a look of its own at the signature
            self._ledger.asked(channel, packed)
            self._books_are_due()
            if self._lost:
                self._show(self._ledger.running(), self._lost)
        elif (message := self._codec.read(zmtp.unpack(packed))) is None:
            log.warning("A message on the %s channel was dropped: its signature is wrong.", channel)
        elif channel != "stdin":  # nobody asked
            self._answer(message, Request.of(channel, message, self._codec))

    def _answer(self, message: Message, request: Request) -> None:
        if message.kind == "kernel_info_request":
            self._status("busy", request.header)
            self._reply(request, self._info)
            self._status("idle", request.header)
            self._quiet_from_now()
        elif message.kind in _AT_ONCE:
            self._reply(request, self._at_once(message))
        elif message.kind == "shutdown_request":
            self._reply(request, {"status": "ok", "restart": bool(self._codec.content(message).get("restart"))})
        elif message.kind == "interrupt_request":
            self._reply(request, {"status": "ok"})
            self.interrupt()
        elif self.state is State.ENDED:
            self._refuse([request], self._failure)
            if request.executes:
                self._failure = self._later
        else:
            self._hold(message, request)

    def _at_once(self, message: Message) -> dict[str, Any]:
        answer = dict(_AT_ONCE[message.kind])
        if message.kind == "complete_request":
            position = self._codec.content(message).get("cursor_pos", 0)
            answer.update(cursor_start=position, cursor_end=position)
        return answer

    def _hold(self, message: Message, request: Request) -> None:
        if len(self._held) >= HELD_MESSAGES or self._held_bytes + message.size > HELD_BYTES:
            text = "Too many requests wait for the kernel to start; this one was refused."
            self._refuse([request], Failure("RuntimeError", text, (text,)))
            return
        self._held.append((request.channel, message, request))
        self._held_bytes += message.size
        self._show(first_of_each([request]), self._line)

    def _take_held(self) -> list[tuple[str, Message, Request]]:
        held = list(self._held)
        self._held.clear()
        self._held_bytes = 0
        return held

    # ------------------------------------------------------------ from the kernel

    def from_kernel(self, channel: str, packed: bytes) -> None:
        """Take what the kernel sent; while it runs, iopub and stdin need no look and may pass by this."""
        if self.state is State.RUNNING:
            if zmtp.first(packed) == _PROBE:  # an answer to us that came late
                return
            self._to_clients(channel, packed)
            if channel in ("shell", "control"):
                self._ledger.answered(packed)
                self._books_are_due()
        elif self.state is State.ATTACHING and (message := self._codec.read(zmtp.unpack(packed))) is not None:
            self._probed(channel, message)

    def _probed(self, channel: str, message: Message) -> None:
        if channel == "iopub":
            self._heard_iopub = True
        elif message.parent_id in self._probes and message.kind == "kernel_info_reply":
            self._heard_shell = True
            self._info = self._codec.content(message)
            self._codec.adopt(message.session)
            if not self._heard_iopub:  # its subscription came later: ask again
                self._due = time.monotonic() + PROBE_FIRST
        if self._heard_shell and self._heard_iopub:
            self._begin_to_run()

    def _begin_to_run(self) -> None:
        self._clear_notices()
        self.state, self._due = State.RUNNING, None
        held = self._take_held()
        for channel, message, request in held:
            self._to_kernel(channel, zmtp.pack(message.frames))
            self._ledger.note(request)
        if not any(request.executes for _, _, request in held):
            self._status("idle")
        self._listener.up(self._info)
        self._show_warning()

    # --------------------------------------------------------------- from the job

    def tell(self, line: str) -> None:
        """Have waiting cells show where the job is."""
        if line == self._line or self.state not in (State.WAITING, State.ATTACHING):
            return
        self._line = line
        for shown in self._notices.values():
            self._display(shown, line, update=True)

    def attach(self) -> None:
        """Wait for a sign of life of a kernel that was connected to."""
        self.state = State.ATTACHING
        self._probes.clear()
        self._heard_shell = self._heard_iopub = False
        self._probe_pause = PROBE_FIRST
        self._probe()

    def _probe(self) -> None:
        frames = self._codec.make("kernel_info_request", {}, identities=[_PROBE])
        probe = self._codec.read(frames)
        assert probe is not None
        self._probes.add(probe.id)
        self._to_kernel("shell", zmtp.pack(frames))
        self._due = time.monotonic() + self._probe_pause
        self._probe_pause = min(2 * self._probe_pause, PROBE_LAST)

    def detach(self, line: str, why: Failure | None) -> None:
        """Go back to waiting, for another kernel.

        Parameters
        ----------
        line : str
            What waiting cells show.
        why : Failure or None
            The error that a running cell gets; None if the user wanted the kernel's end, and held requests are dropped.
        """
        open_requests = self._leave_kernel()
        if why is None:
            self._abort([*open_requests, *(request for _, _, request in self._take_held())])
        else:
            self._end_with(open_requests, why)
        self.state, self._line = State.WAITING, line
        self._show(first_of_each(request for _, _, request in self._held), line)
        self._quiet_from_now()

    def end(self, why: Failure, later: Failure) -> None:
        """Answer every request with an error from now on: those that are open, and `later` ones."""
        requests = [*self._leave_kernel(), *(request for _, _, request in self._take_held())]
        told = self._ledger.last is not None or any(request.executes for request in requests)
        self._end_with(requests, why)
        self.state, self._failure, self._later, self._due = State.ENDED, later if told else why, later, None
        self._status("idle")

    def _leave_kernel(self) -> list[Request]:
        self._clear_notices()
        self._lost, self._warning = "", None
        return self._ledger.take_all()

    def _end_with(self, requests: list[Request], why: Failure) -> None:
        last = self._ledger.take_last()
        if last is not None and not first_of_each(requests):
            # nobody waits for an answer: JupyterLab appends this to the cell that was run last
            self._publish("stream", {"name": "stderr", "text": why.plain + "\n"}, last.header)
        self._refuse(requests, why)

    def lost(self, line: str) -> None:
        """Have running cells show that the kernel cannot be reached, and what becomes of that."""
        if self.state is not State.RUNNING or line == self._lost:
            return
        if self._lost:
            for shown in self._notices.values():
                self._display(shown, line, update=True)
        else:
            self._show(self._ledger.running(), line)
        self._lost = line

    @property
    def is_lost(self) -> bool:
        """Whether the kernel cannot be reached right now."""
        return bool(self._lost)

    def found(self, line: str) -> None:
        """Have them show that it can be reached again."""
        self._lost = ""
        for shown in self._notices.values():
            self._display(shown, line, update=True)
        self._notices.clear()

    def warn(self, line: Callable[[], str]) -> None:
        """Show something once, in the cells that run, else in the one that ran last, or else in the next."""
        self._warning = line
        self._show_warning()

    def _show_warning(self) -> None:
        if self._warning is None or self.state is not State.RUNNING:
            return
        last = [self._ledger.last] if self._ledger.last is not None else []
        if requests := self._ledger.running() or last:
            text, self._warning = self._warning(), None
            for request in requests:
                self._display(_Notice(request, uuid.uuid4().hex), text)

    def interrupt(self) -> bool:
        """End the cells that wait for a kernel; return whether that is all that can be done."""
        if self.state not in (State.WAITING, State.ATTACHING):
            return self.state is State.ENDED
        kept = [each for each in self._held if not each[2].executes]
        cells = [request for _, _, request in self._take_held() if request.executes]
        self._held.extend(kept)
        self._held_bytes = sum(message.size for _, message, _ in kept)
        self._clear_notices()
        self._refuse(cells, notice.interrupted(self._line))
        self._quiet_from_now()
        return True

    # ------------------------------------------------------------------- time

    @property
    def due(self) -> float | None:
        """When to call `tick`, in the time of `time.monotonic`."""
        return self._due

    def _quiet_from_now(self) -> None:
        if self.state in (State.WAITING, State.ENDED):
            self._due = time.monotonic() + QUIET

    def _books_are_due(self) -> None:
        if self._due is None:
            self._due = time.monotonic() + BOOKKEEPING

    def tick(self) -> None:
        """Do what is due."""
        self._due = None
        if self.state is State.RUNNING:
            self._ledger.settle()
            self._show_warning()
        elif self.state is State.ATTACHING:
            self._probe()
        elif self._notices:
            self._status("busy", next(iter(self._notices.values())).request.header)
        else:
            self._status("starting" if self.state is State.WAITING else "idle")

    # ---------------------------------------------------------------- to clients

    def welcome(self, topic: bytes) -> None:
        """Tell a client that its subscription is in force (Jupyter Enhancement Proposal 65)."""
        content = {"subscription": topic.decode(errors="replace")}
        frames = self._codec.make("iopub_welcome", content, identities=[topic] if topic else [])
        self._to_clients("iopub", zmtp.pack(frames))

    def _show(self, requests: list[Request], text: str) -> None:
        for request in requests:
            if request.session not in self._notices:
                shown = self._notices[request.session] = _Notice(request, uuid.uuid4().hex)
                self._status("busy", request.header)
                self._display(shown, text)
                self._listener.watched(True)

    def _display(self, shown: _Notice, text: str, *, update: bool = False) -> None:
        kind = "update_display_data" if update else "display_data"
        content = {"data": notice.bundle(text), "metadata": {}, "transient": {"display_id": shown.display_id}}
        self._publish(kind, content, shown.request.header)

    def _clear_notices(self) -> None:
        if self.state in (State.WAITING, State.ATTACHING):  # a lost kernel's cells have outputs of their own
            for shown in self._notices.values():
                # with wait=True it would stay in a cell that has no output to take its place
                self._publish("clear_output", {"wait": False}, shown.request.header)
        self._notices.clear()
        self._listener.watched(False)

    def _refuse(self, requests: list[Request], why: Failure) -> None:
        """Answer requests with an error: of each session's cells the first, the others are aborted."""
        failed: set[str] = set()
        for request in requests:
            if not request.executes:
                self._reply(request, {"status": "error", **why.content})
            elif request.session in failed:
                self._abort([request])
            else:
                failed.add(request.session)
                self._status("busy", request.header)
                if not request.silent:
                    self._publish("error", why.content, request.header)
                counts: dict[str, Any] = {"execution_count": None, "user_expressions": {}, "payload": []}
                self._reply(request, {"status": "error", **why.content, **counts})
                self._status("idle", request.header)

    def _abort(self, requests: list[Request]) -> None:
        for request in requests:
            self._status("busy", request.header)
            self._reply(request, {"status": "aborted"})
            self._status("idle", request.header)

    def _reply(self, request: Request, content: Mapping[str, Any]) -> None:
        if request.kind.endswith("_request"):
            kind = request.kind.replace("_request", "_reply")
            frames = self._codec.make(kind, content, request.header, request.identities)
            self._to_clients(request.channel, zmtp.pack(frames))

    def _status(self, state: str, parent: Mapping[str, Any] | None = None) -> None:
        self._publish("status", {"execution_state": state}, parent)

    def _publish(self, kind: str, content: Mapping[str, Any], parent: Mapping[str, Any] | None = None) -> None:
        topic = f"kernel.{kind}".encode()
        self._to_clients("iopub", zmtp.pack(self._codec.make(kind, content, parent, [topic])))
