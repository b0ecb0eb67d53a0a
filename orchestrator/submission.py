"""Goals on their way in: everything that is wrong with one, and its durable submission.

Nothing is written unless nothing is wrong. A request id that is a ULID names the run, whose first event has a
fence of its own (ADR 8). With any other one the request's cell comes first, then the goal. Either way whoever
repeats the request finishes an unfinished submission or finds the run that there is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message

from bus import subjects
from core.conformance import Limits, check_plan
from core.ports import Address, FenceLost, Log, LogFull, RunForgotten, RunKey
from core.ulids import Ulids, is_ulid
from core.values import MAX_INLINE_BYTES, BadValue, decode, encode
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2, tool_pb2
from handrail.v1.plan_pb2 import Violation
from orchestrator.callers import caller, written
from orchestrator.rpc_errors import Refusal, invalid

MAX_FULLNESS = 0.8
"""Of a shard that takes new runs; the rest is for the runs that it has."""
NEARLY_FULL = 0.6
"""From here on it is looked at before every submission; below, now and then."""
FULLNESS_AGE_NS = 1_000_000_000
_CURRENCY = re.compile(r"[A-Z]{3}")

MAX_CHECKED_INLINE_BYTES = 8 * 1024
MAX_TEXT_BYTES = 16 * 1024
MAX_SUBMITTER_BYTES = 256
MAX_CONTEXT_BYTES = 1024 * 1024
MAX_GOAL_BYTES = 512 * 1024
MAX_REQUEST_ID_CHARS = 128
MAX_DEADLINE_S = 30 * 24 * 3_600
MAX_ACTIONS = 20_000
MAX_HEALS = 2_000
MAX_ENUM_DEPTH = 16

_NS = 1_000_000_000
_PROSE = "\n\t"
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Submitted:
    """A run whose goal is in the log."""

    key: RunKey
    # Whether the goal was there before.
    existed: bool
    # When, by the gateway's clock.
    time_ns: int


@dataclass(frozen=True, slots=True)
class Checked:
    """A goal in its final form, unless something is wrong with it."""

    goal: event_pb2.Goal
    # The context, where it is too large to travel with the goal.
    large_context: str = ""
    violations: list[Violation] = field(default_factory=list)


class Submissions:
    """Takes goals in, for the tenant of whoever calls."""

    def __init__(
        self,
        log: Log,
        *,
        contracts: Mapping[str, tool_pb2.ToolContract],
        limits: Limits,
        writer: str,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._log = log
        self._contracts = contracts
        self._limits = limits
        self._writer = writer
        self._clock = clock
        self._entropy = entropy
        self._ulids = Ulids(clock, entropy)
        self._open_until_ns = 0
        self._open: tuple[int, ...] = ()

    async def submit(
        self,
        request: run_service_pb2.SubmitGoalRequest,
        *,
        traceparent: str = "",
        expect: Callable[[RunKey], None] = lambda key: None,
    ) -> Submitted:
        """Check a goal and make it durable; raises a Refusal, or an error of the log.

        `expect` hears of the run before anything of it is written.
        """
        now_ns = self._clock()
        if request.ByteSize() > MAX_CHECKED_INLINE_BYTES:
            checked = await asyncio.to_thread(check, request, self._contracts, self._limits, now_ns)
        else:
            checked = check(request, self._contracts, self._limits, now_ns)
        if checked.violations:
            raise invalid("BAD_GOAL", checked.violations)
        key, held = await self._name(request, checked, now_ns)
        expect(key)
        if held is None:
            await self._log.begin(key)
        goal = checked.goal
        if checked.large_context:
            blob = await self._log.put_blob(key, checked.large_context.encode())
            goal.context.CopyFrom(plan_pb2.Value(blob=blob))
        body = event_pb2.Submit(goal=goal, request_id=request.request_id, traceparent=traceparent)
        event = written(event_pb2.Event(submit=body), id=self._entropy(16).hex(), writer=self._writer)
        event.submit.took.FromNanoseconds(max(self._clock() - now_ns, 0))
        existing = held if held is not None else await self._append_first(key, event)
        if existing is not None and existing.submit.goal != goal:
            raise _reused(request.request_id, key.run)
        return Submitted(key, existed=existing is not None, time_ns=now_ns)

    async def _name(
        self, request: run_service_pb2.SubmitGoalRequest, checked: Checked, now_ns: int
    ) -> tuple[RunKey, event_pb2.Event | None]:
        """Return where the run is to be, with its first event if that is there already."""
        request_id, shards = request.request_id, await self._shards_with_room(now_ns)
        if not is_ulid(request_id):
            unique = self._ulids.next()
            run = subjects.run_id(_home(unique, shards), unique)
            if request_id:
                run = await self._reserve(request_id, run)
            return subjects.run_key(run, caller().tenant), None
        home = _home(request_id, self._log.shards)
        if request.first:
            # Elsewhere only where a repetition would not be let in at its home either.
            return self._key(home if home in shards else _home(request_id, shards), request_id), None
        # It may have been written wherever there was room, or while there were more or fewer shards.
        keys = [self._key(shard, request_id) for shard in self._log.shards]
        for key, found in zip(keys, await asyncio.gather(*map(self._first_event, keys)), strict=True):
            if found is not None:
                return key, found
        if home not in shards:
            # Not elsewhere: the first try may still be on its way.
            raise LogFull(f"shard {home} is {MAX_FULLNESS:.0%} full; what is left is for accepted runs")
        return self._key(home, request_id), None

    def _key(self, shard: int, unique: str) -> RunKey:
        return subjects.run_key(subjects.run_id(shard, unique), caller().tenant)

    async def _first_event(self, key: RunKey) -> event_pb2.Event | None:
        found = await self._log.last(key.shard, subjects.build(Address(key, "cmd", ("submit",))))
        if found is not None and found.forgotten:
            raise RunForgotten(f"run {key.run}, which this request made, was forgotten")
        # What cannot be read is no goal that anybody could repeat.
        return None if found is None else found.event or event_pb2.Event()

    async def _shards_with_room(self, now_ns: int) -> tuple[int, ...]:
        """Return the shards that take new runs: what is left of the others is for those they have."""
        if now_ns >= self._open_until_ns:
            shards = self._log.shards
            used = await asyncio.gather(*(self._log.fullness(shard) for shard in shards))
            self._open = tuple(shard for shard, part in zip(shards, used, strict=True) if part < MAX_FULLNESS)
            self._open_until_ns = now_ns + (FULLNESS_AGE_NS if max(used) < NEARLY_FULL else 0)
        if not self._open:
            raise LogFull(f"every shard is {MAX_FULLNESS:.0%} full; what is left is for accepted runs")
        return self._open

    async def _reserve(self, request_id: str, run: str) -> str:
        """Claim the request's cell, or return the run of whoever made the same request before.

        It says nothing of the goal, which may have to be forgotten: the run's first event does.
        """
        cell = hashlib.sha256(f"{caller().tenant}\0{request_id}".encode()).hexdigest()
        held = json.loads(await self._log.reserve(cell, json.dumps({"run": run}).encode()))
        existing: str = held["run"]
        return existing

    async def _append_first(self, key: RunKey, event: event_pb2.Event) -> event_pb2.Event | None:
        """Append the run's first event; return the one that is there already, if it is another's."""
        address = Address(key, "cmd", ("submit",))
        try:
            await self._log.append(address, event, fence=subjects.first(address))
        except FenceLost:
            found = await self._first_event(key)
            return found if found is None or found.id != event.id else None
        return None


def _home(unique: str, shards: Sequence[int]) -> int:
    """Return the shard of a run that has no other reason to be anywhere."""
    number = int.from_bytes(hashlib.sha256(unique.encode()).digest()[:8])
    return shards[number % len(shards)]


def _reused(request_id: str, run: str) -> Refusal:
    message = (
        f"request_id {request_id!r} was used for another goal, which is run {run}; "
        "repeat a request exactly, or give a new one another id"
    )
    code = grpc.StatusCode.ALREADY_EXISTS
    return Refusal(code, "REQUEST_ID_REUSED", message, metadata={"run": run})


def check(
    request: run_service_pb2.SubmitGoalRequest,
    contracts: Mapping[str, tool_pb2.ToolContract],
    limits: Limits,
    now_ns: int,
) -> Checked:
    """Return the goal as it will be written, with everything that is wrong with it."""
    goal = event_pb2.Goal()
    goal.CopyFrom(request.goal)
    goal.DiscardUnknownFields()
    found = [
        *_check_request_id(request.request_id),
        *check_text("goal.text", goal.text, MAX_TEXT_BYTES, required=True),
        *check_name("goal.submitter", goal.submitter),
        *_unknown_enums(goal, "goal", MAX_ENUM_DEPTH),
        *_check_budget(goal.budget, limits),
        *_check_deadline(goal, now_ns),
    ]
    large, violations = _settle_context(goal)
    found += violations
    if goal.HasField("plan"):
        goal.plan.origin, goal.plan.origin_sha256 = "client", ""
        found += [*_check_plan(goal, large, contracts, limits), *_check_constants(goal.plan)]
    elif goal.teaches or goal.HasField("confirms"):
        message = "a goal teaches, or confirms, with a plan that shows how it is carried out"
        found.append(Violation(field="goal.plan", code="required", message=message))
    for name in ("sure", "needed"):
        if not 0 <= getattr(goal.confirms, name) <= 1:
            message = "how sure a model is of something is a share, from 0 to 1"
            found.append(Violation(field=f"goal.confirms.{name}", code="bad_share", message=message))
    if goal.ByteSize() > MAX_GOAL_BYTES:
        message = f"the goal with its plan has {goal.ByteSize()} bytes, at most {MAX_GOAL_BYTES} are taken"
        found.append(Violation(field="goal", code="too_large", message=message))
    return Checked(goal, large, found)


def check_text(field: str, text: str, limit_bytes: int, *, required: bool = False) -> Iterator[Violation]:
    """Yield what is wrong with a text that people read: it is empty, too long, or not what it looks like."""
    size = len(text.encode())
    if required and not text.strip():
        yield Violation(field=field, code="empty", message="say in words what you want")
    if size > limit_bytes:
        message = f"it has {size} bytes, at most {limit_bytes} are taken; put data into the context"
        yield Violation(field=field, code="too_long", message=message)
        return
    for position, character in enumerate(text):
        if unicodedata.category(character) in _UNSEEN and character not in _PROSE:
            name = f"U+{ord(character):04X} {unicodedata.name(character, '(a control character)')}"
            message = f"{name} at character {position + 1} cannot be seen or misleads the eye; remove it"
            yield Violation(field=field, code="unseen_character", message=message)
            return


def check_name(field: str, name: str) -> Iterator[Violation]:
    """Yield what is wrong with a name: where people are counted, two that look the same must be one."""
    found = list(check_text(field, name, MAX_SUBMITTER_BYTES))
    yield from found
    plain = unicodedata.normalize("NFKC", " ".join(name.split()))
    if not found and name != plain:
        message = f"{name[:80]!a} can be taken for {plain[:80]!a}, which is another name; write it plainly"
        yield Violation(field=field, code="ambiguous_name", message=message)


def _check_request_id(request_id: str) -> Iterator[Violation]:
    if len(request_id) > MAX_REQUEST_ID_CHARS:
        message = f"it has {len(request_id)} characters, at most {MAX_REQUEST_ID_CHARS} are taken"
        yield Violation(field="request_id", code="too_long", message=message)
    if not (request_id.isascii() and request_id.isprintable()):
        message = "it may only have printable ASCII characters, such as those of a UUID"
        yield Violation(field="request_id", code="bad_characters", message=message)


def _check_budget(budget: plan_pb2.Budget, limits: Limits) -> Iterator[Violation]:
    bounds = {"max_steps": limits.max_steps, "max_actions": MAX_ACTIONS, "max_heals": MAX_HEALS}
    for name, most in bounds.items():
        asked = getattr(budget, name)
        if asked > most:
            message = f"{asked} is more than the {most} that a run may have; leave it 0 for the default"
            yield Violation(field=f"goal.budget.{name}", code="above_limit", message=message)
    for currency, minor in sorted(budget.max_spend.items()):
        field = f"goal.budget.max_spend.{currency[:8]!a}"
        if _CURRENCY.fullmatch(currency) is None:
            message = "a currency has three capital letters: EUR"
            yield Violation(field=field, code="bad_currency", message=message)
        elif minor < 0:
            yield Violation(field=field, code="below_zero", message="nobody can spend less than nothing")


def _check_deadline(goal: event_pb2.Goal, now_ns: int) -> Iterator[Violation]:
    if not goal.HasField("deadline"):
        return
    code, message = "", ""
    left_s = goal.deadline.seconds + goal.deadline.nanos / _NS - now_ns / _NS
    if not 0 <= goal.deadline.nanos < _NS:
        code, message = "bad_time", f"{goal.deadline.nanos} nanoseconds are not between 0 and 999999999"
    elif left_s <= 0:
        code, message = "past", f"it was {-left_s:.0f} s ago; give a time that is still to come"
    elif left_s > MAX_DEADLINE_S:
        code = "too_far"
        message = f"it is {left_s / 86_400:.0f} days away, at most {MAX_DEADLINE_S // 86_400} are taken"
    if code:
        yield Violation(field="goal.deadline", code=code, message=message)


def _settle_context(goal: event_pb2.Goal) -> tuple[str, list[Violation]]:
    """Make the context canonical; take it out and return it where it is too large to travel inline."""
    kind = goal.context.WhichOneof("kind")
    if kind is None:
        goal.ClearField("context")
        return "", []
    code, message, text = "bad_json", "", ""
    if kind == "blob":
        code, message = "blob", "send the context itself; where it is kept is decided here"
    else:
        try:
            value = decode(goal.context.json)
            text = encode(value)
            if not isinstance(value, dict):
                message = f"it is {text[:40]!r}, and must be a JSON object"
            elif len(text.encode()) > MAX_CONTEXT_BYTES:
                code = "too_large"
                message = f"it has {len(text.encode())} bytes, at most {MAX_CONTEXT_BYTES} are taken"
        except BadValue as error:
            message = str(error)
    if message:
        goal.ClearField("context")
        return "", [Violation(field="goal.context", code=code, message=message)]
    large = len(text.encode()) > MAX_INLINE_BYTES
    goal.context.json = "" if large else text
    return text if large else "", []


def _check_plan(
    goal: event_pb2.Goal, large: str, contracts: Mapping[str, tool_pb2.ToolContract], limits: Limits
) -> Iterator[Violation]:
    whole = goal
    if large:
        whole = event_pb2.Goal()
        whole.CopyFrom(goal)
        whole.context.json = large
    for violation in check_plan(goal.plan, contracts, goal=whole, limits=limits):
        where = f"goal.plan.{violation.field}" if violation.field else "goal.plan"
        yield Violation(field=where, code=violation.code, message=violation.message)


def _check_constants(plan: plan_pb2.Plan) -> Iterator[Violation]:
    """Yield the constants that do not travel in a plan: large ones, and what only the log can name."""
    for index, step in enumerate(plan.steps):
        tables = [(f"goal.plan.steps[{index}].arguments", step.arguments)]
        for row, rule in enumerate(step.rules):
            tables.append((f"goal.plan.steps[{index}].rules[{row}].arguments", rule.arguments))
        for where, arguments in tables:
            for name, argument in arguments.items():
                field, constant = f"{where}.{name[:80]}", argument.constant
                if constant.HasField("blob"):
                    message = "send the value itself; where it is kept is decided here"
                    yield Violation(field=field, code="blob", message=message)
                elif len(constant.json) > MAX_INLINE_BYTES:
                    message = f"it has over {MAX_INLINE_BYTES} bytes; put it into the context and refer to it"
                    yield Violation(field=field, code="too_large", message=message)


def _unknown_enums(message: Message, path: str, depth: int) -> Iterator[Violation]:
    """Yield the enum fields that hold a number without a name."""
    for descriptor, value in message.ListFields():
        where = f"{path}.{descriptor.name}"
        kind, inner = descriptor.enum_type, descriptor.message_type
        if kind is None and (inner is None or inner.GetOptions().map_entry):
            continue  # maps hold arguments, and arguments hold no enums
        items = [(f"{where}[{i}]", item) for i, item in enumerate(value)] if descriptor.is_repeated else None
        for place, item in items or [(where, value)]:
            if kind is None:
                yield from _unknown_enums(item, place, depth - 1) if depth else ()
            elif item not in kind.values_by_number:
                text = f"{item} is no {kind.name}; there are {', '.join(kind.values_by_name)}"
                yield Violation(field=place, code="unknown_enum", message=text)
