"""Deciding at the gates of a run that is being watched.

A gatekeeper shows a gate and says what is decided: it asks whoever sits at the terminal, or approves at once.
The meetings bring it to every gate that opens, and ask no more about one that has closed meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.gates import missing
from core.values import BadValue, encode
from handrail.cli.gate_text import changes, gate_lines, is_doubt, undoes
from handrail.cli.options import read_changes
from handrail.cli.output import Output
from handrail.cli.pen import Pen
from handrail.cli.server import Target
from handrail.cli.terminal import Ask
from handrail.cli.text import clean
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2

if TYPE_CHECKING:
    from core.state import Gate
    from handrail.cli.watching import Watched
    from handrail.client import Client

QUESTION = "approve? [y]es, [n]o, [l]ater: "
DOUBT = "did it happen? [y]es, [r]epeat it, [g]ive it up, [l]ater: "
UNDO_DOUBT = "is it undone? [y]es, [r]epeat it, [g]ive it up, [l]ater: "
WHY = "why not? (may be empty): "
MISSING = "{}? (empty: later): "
MAX_TRIES = 5
"""After so many answers that are none, later."""
GATHER_S = 0.2
"""Gates that open together are met together; of a run's past, those that were closed at once are not met."""
_ANSWERS = {"y": "approve", "yes": "approve", "n": "deny", "no": "deny", "l": "", "later": ""}
_DOUBT_ANSWERS = {
    **{"y": "happened", "yes": "happened", "r": "repeat", "repeat": "repeat"},
    **{"g": "deny", "give up": "deny", "l": "", "later": ""},
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody said at a gate: approve, deny, amend, and of a doubt happened, repeat or deny."""

    word: str
    reason: str = ""
    # What was missing, as it was typed.
    arguments: Mapping[str, str] = field(default_factory=dict)


class Gatekeeper:
    """Shows the gates of a watched run and decides at them, in the name of one person."""

    def __init__(
        self,
        output: Output,
        name: str,
        target: Callable[[], Target],
        *,
        approve: bool = False,
        ask: Ask | None,
    ) -> None:
        self.name = name
        self._output = output
        # The server may be another after a while.
        self._target = target
        self._approve = approve
        self._ask = ask

    async def answer(self, gate: run_service_pb2.Gate) -> Answer | None:
        """Show a gate and return what is said at it; None to leave it open."""
        pen = Pen(self._output.width, self._output.glyphs, time.time_ns())
        self._output.lines(["", *gate_lines(gate, self._target(), pen), ""])
        doubt, lacking = is_doubt(gate), missing(gate.what)
        if self._approve and lacking:
            self._output.note(
                f"--approve: {gate.id} lacks {' and '.join(lacking)}, which somebody has to say"
            )
            return None
        if self._approve and not doubt:
            self._output.note(f"--approve: approving {gate.id} as {self.name}")
            return Answer("approve")
        if self._ask is None:
            return None
        said = await self._say(gate, lacking, self._ask) if lacking else {}
        if said is None:
            return None
        answers, question = (_DOUBT_ANSWERS, DOUBT) if doubt else (_ANSWERS, QUESTION)
        question = UNDO_DOUBT if undoes(gate) else question
        for _ in range(MAX_TRIES):
            typed = await self._ask(question)
            if typed is None:
                return None
            word = answers.get(typed.strip().lower())
            if word == "deny":
                return Answer("deny", clean(await self._ask(WHY) or ""))
            if word == "approve" and said:
                return Answer("amend", arguments=said)
            if word is not None:
                return Answer(word) if word else None
        return None

    async def _say(
        self, gate: run_service_pb2.Gate, lacking: Sequence[str], ask: Ask
    ) -> dict[str, str] | None:
        """Ask for what is missing, and show what was understood; None for later."""
        said: dict[str, str] = {}
        for name in lacking:
            typed = (await ask(MISSING.format(clean(name))) or "").strip()
            if not typed:
                return None
            said[name] = typed
        meant = _meant(said).items()
        self._output.lines(changes(gate, {name: plan_pb2.Value(json=encode(held)) for name, held in meant}))
        return said

    async def decide(self, client: Client, gate: run_service_pb2.Gate, answer: Answer) -> None:
        """Send what was said of the gate as it was shown; what hinders it is told, and changes nothing."""
        from handrail.errors import ClientError

        named = {"approver": self.name, "binding": gate.what.binding, "reason": answer.reason}
        try:
            if answer.word in ("happened", "repeat"):
                await client.settle(gate.id, happened=answer.word == "happened", **named)
            elif answer.word == "amend":
                await self._amend(client, gate, answer, named)
            else:
                await client.decide(gate.id, approve=answer.word == "approve", **named)
        except ClientError as error:
            self._output.note(f"nothing was decided at {gate.id}: {error}")

    async def _amend(
        self, client: Client, gate: run_service_pb2.Gate, answer: Answer, named: Mapping[str, str]
    ) -> None:
        """Say what was missing; where it looks like JSON and must not be any, as the text that it is."""
        from handrail.errors import InvalidArgument

        meant = _meant(answer.arguments)
        try:
            await client.amend(gate.id, arguments=meant, **named)
        except InvalidArgument:
            if meant == answer.arguments:
                raise
            await client.amend(gate.id, arguments=answer.arguments, **named)


def _meant(typed: Mapping[str, str]) -> dict[str, Any]:
    """Return what was typed as JSON, where it is some."""
    found = read_changes(f"{name}={text}" for name, text in typed.items())
    for name, held in found.items():
        try:
            encode(held)
        except BadValue:
            found[name] = typed[name]
    return found


class Meetings:
    """Brings a gatekeeper, if there is one, to the open gates of a watched run, and to each once."""

    def __init__(
        self,
        watched: Watched,
        gatekeeper: Gatekeeper | None,
        output: Output,
        *,
        client: Callable[[], Client],
        aside: Callable[[], AbstractContextManager[None]],
        over: Callable[[], None],
    ) -> None:
        self._watched = watched
        self._gatekeeper = gatekeeper
        self._output = output
        self._client = client
        # Makes room on the screen; and what is called when there is nothing more to be asked, for now.
        self._aside = aside
        self._over = over
        self._met: set[str] = set()
        self._asked = ""
        self._asking: asyncio.Task[Answer | None] | None = None
        self._meeting: asyncio.Task[None] | None = None

    @property
    def going_on(self) -> bool:
        """Whether somebody is being asked, or about to be, or being heard."""
        return self._meeting is not None and not self._meeting.done()

    @property
    def asking(self) -> bool:
        """Whether an answer is waited for."""
        return self._asking is not None

    @property
    def defect(self) -> BaseException | None:
        """What went wrong that must not."""
        meeting = self._meeting
        return meeting.exception() if meeting and meeting.done() and not meeting.cancelled() else None

    def look(self) -> None:
        """Look at the gates after an event."""
        if self._asking is not None and self._asked not in (g.opened.gate for g in self._open_gates()):
            self._asking.cancel()
        keeper = self._gatekeeper
        if keeper is not None and not self.going_on and self._next(keeper) is not None:
            self._meeting = asyncio.create_task(self._meet(keeper))
            self._meeting.add_done_callback(lambda _: self._over())

    async def end(self) -> None:
        """Ask no more."""
        if self._meeting is not None:
            self._meeting.cancel()
            await asyncio.gather(self._meeting, return_exceptions=True)

    async def _meet(self, keeper: Gatekeeper) -> None:
        await asyncio.sleep(GATHER_S)
        while (gate := self._next(keeper)) is not None:
            self._met.add(gate.what.gate)
            with self._aside():
                answer = await self._answer(keeper, gate)
                if answer is not None:
                    await keeper.decide(self._client(), gate, answer)

    async def _answer(self, keeper: Gatekeeper, gate: run_service_pb2.Gate) -> Answer | None:
        self._asked = gate.what.gate
        self._asking = asyncio.create_task(keeper.answer(gate))
        try:
            await asyncio.wait([self._asking])
            if self._asking.cancelled():
                self._output.note(f"{gate.id} has been closed meanwhile")
                return None
            return self._asking.result()
        finally:
            self._asking.cancel()
            await asyncio.wait([self._asking])
            self._asking = None

    def _next(self, keeper: Gatekeeper) -> run_service_pb2.Gate | None:
        """Return an open gate that was not met yet, and at which something is left to be said."""
        for gate in self._open_gates():
            said = [decision.message.approver for decision in gate.decisions]
            if not (gate.opened.gate in self._met or keeper.name in said or is_decided(gate)):
                return next(g for g in self._watched.run.gates if g.what.gate == gate.opened.gate)
        return None

    def _open_gates(self) -> tuple[Gate, ...]:
        if self._watched.status == event_pb2.RUN_STATUS_CANCELLING:
            return ()
        return self._watched.open_gates


def is_decided(gate: Gate) -> bool:
    """Whether enough has been said at an open gate; it is for the decider to say whether it counts."""
    choices = [decision.message.choice for decision in gate.decisions]
    if gate.opened.kind == event_pb2.GATE_KIND_DOUBT:
        return any(choice != event_pb2.GATE_CHOICE_DELEGATE for choice in choices)
    if event_pb2.GATE_CHOICE_DENY in choices or event_pb2.GATE_CHOICE_AMEND in choices:
        return True
    if any(one.missing for one in gate.opened.items):
        # It is not approved without what is missing.
        return False
    return choices.count(event_pb2.GATE_CHOICE_APPROVE) >= max(1, gate.opened.quorum)
