"""What the gateway answers about gates: the inbox, one gate, and what somebody decides.

A decision is checked here so that whoever makes it is told at once; what counts is what the decider makes of
it, in the order of the log.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc

from core.failures import FORBIDDEN
from core.gates import CHOICES, CannotAmend, deputies, missing, requester
from core.policy import Policy
from core.ports import LogError, LogForbidden, LogUnavailable
from core.rules import Rules
from core.schemas import compile_schema
from core.state import Gate, RunState
from core.values import MAX_INLINE_BYTES, BadValue, NotLoaded, decode, encode
from core.view import left_open, show_gate
from handrail.v1 import event_pb2, gate_service_pb2, gate_service_pb2_grpc, plan_pb2
from orchestrator import pages
from orchestrator.callers import in_the_name_of
from orchestrator.projection import Projection
from orchestrator.rpc_errors import RETRY_S, Refusal, invalid, invalid_field, not_found
from orchestrator.runs import Runs
from orchestrator.submission import check_name, check_text

MAX_WATCHERS = 100
MAX_REASON_BYTES = 1_024
MAX_LOADED_BYTES = 32 * 1024 * 1024
PART_CHARS = 256 * 1024

_SHOWN = 20
_NAME = re.compile(r"g[1-9][0-9]{0,5}")
_FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


class GateService(gate_service_pb2_grpc.GateServiceServicer):
    """Shows gates, and takes decisions in."""

    def __init__(
        self, runs: Runs, projection: Projection, policy: Policy, *, clock: Callable[[], int]
    ) -> None:
        self._runs = runs
        self._projection = projection
        self._policy = policy
        self._clock = clock
        self._watchers = 0

    async def ListGates(
        self, request: gate_service_pb2.ListGatesRequest, context: Any
    ) -> gate_service_pb2.ListGatesResponse:
        """Answer from the inbox."""
        size, scope = pages.size(request.page_size), f"gates/{self._runs.tenant}"
        above = pages.position(scope, request.page_token)
        page = await self._projection.gates(self._runs.tenant, limit=size, above=above)
        return gate_service_pb2.ListGatesResponse(
            gates=page.gates, next_page_token=pages.token(scope, page.more) if page.more else ""
        )

    async def GetGate(
        self, request: gate_service_pb2.GetGateRequest, context: Any
    ) -> gate_service_pb2.GetGateResponse:
        """Fold the run's log."""
        state, gate = await self._find(request.gate)
        return gate_service_pb2.GetGateResponse(gate=show_gate(state, gate))

    async def GetGateValue(
        self, request: gate_service_pb2.GetGateValueRequest, context: Any
    ) -> AsyncIterator[gate_service_pb2.GetGateValueResponse]:
        """Send an argument as it would be used, so that nobody approves what they cannot see."""
        state, gate = await self._find(request.gate)
        value = _argument(gate, request.step, request.argument)
        text = value.json
        if value.HasField("blob"):
            try:
                text = (await self._runs.log.get_blob(state.key, value.blob)).decode()
            except (LogUnavailable, LogForbidden):
                raise
            except (LogError, UnicodeDecodeError) as error:
                message = f"the value cannot be read whole any more, deny the gate: {error}"
                raise self._no("VALUE_NOT_WHOLE", message) from None
        for begin in range(0, len(text), PART_CHARS):
            yield gate_service_pb2.GetGateValueResponse(json=text[begin : begin + PART_CHARS])

    async def WatchGates(
        self, request: gate_service_pb2.WatchGatesRequest, context: Any
    ) -> AsyncIterator[gate_service_pb2.WatchGatesResponse]:
        """Send every open gate, then each that opens or closes."""
        if self._watchers >= MAX_WATCHERS:
            message = f"{MAX_WATCHERS} watches are open, which is as many as there may be; try again later"
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise Refusal(code, "TOO_MANY_WATCHERS", message, retry_s=RETRY_S)
        self._watchers += 1
        # Before the first look, so that nothing falls between the two.
        changes = self._projection.inbox.watch(self._runs.tenant)
        try:
            above, sent, reading = "", set[str](), True
            while reading:
                page = await self._projection.gates(self._runs.tenant, limit=pages.DEFAULT_SIZE, above=above)
                for gate in page.gates:
                    sent.add(gate.id)
                    yield gate_service_pb2.WatchGatesResponse(gate=gate)
                above, reading = page.more, bool(page.more)
            while (change := await changes.next()) is not None:
                if change.HasField("closed") or change.id not in sent:
                    yield gate_service_pb2.WatchGatesResponse(gate=change)
            message = "the inbox is being read again from the log; watch again"
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "INBOX_NOT_READY", message, retry_s=RETRY_S)
        finally:
            self._projection.inbox.forget(changes)
            self._watchers -= 1

    async def DecideGate(
        self, request: gate_service_pb2.DecideGateRequest, context: Any
    ) -> gate_service_pb2.DecideGateResponse:
        """Append a decision, unless it could not count."""
        request.approver = in_the_name_of(request.approver)
        _check(request)
        state, gate = await self._find(request.gate)
        _check_choice(state, gate, request)
        body = event_pb2.Decide(
            gate=gate.opened.gate,
            choice=request.choice,
            binding=request.binding,
            approver=request.approver,
            reason=request.reason,
            output=request.output if request.HasField("output") else None,
            arguments=request.arguments,
            delegate=request.delegate,
        )
        for decision in gate.decisions:
            if decision.message.approver == request.approver:
                if _says(decision.message) == _says(body):
                    return gate_service_pb2.DecideGateResponse(existed=True)
                to = decision.message.delegate
                how = f"has handed that decision to {to}" if to else "has decided here before, otherwise"
                raise self._no("DECIDED_BEFORE", f"{request.approver} {how}")
        self._check_open(state, gate, request)
        self._check_rules(state, gate, body, await self._contents(state, gate))
        await self._runs.command(state, event_pb2.Event(decide=body))
        return gate_service_pb2.DecideGateResponse()

    async def _find(self, name: str) -> tuple[RunState, Gate]:
        """Return a gate by the name that others know it by."""
        run, _, gate = name.rpartition("-")
        if _NAME.fullmatch(gate) is None:
            message = f"{name[:80]!a} is not a gate; they look like r0-01k9x3...-g1"
            raise invalid_field("BAD_GATE_ID", "gate", "bad_gate_id", message)
        state = await self._runs.state(self._runs.key(run, "gate"))
        found = state.gates.get(gate)
        if found is None:
            raise not_found("GATE_NOT_FOUND", f"run {run} has no gate {gate}")
        return state, found

    def _check_open(self, state: RunState, gate: Gate, request: gate_service_pb2.DecideGateRequest) -> None:
        if gate not in state.open_gates:
            closed = gate.closed or left_open(gate.opened.gate)
            word = event_pb2.GateOutcome.Name(closed.outcome).removeprefix("GATE_OUTCOME_").lower()
            by = f" by {', '.join(closed.approvers)}" if closed.approvers else ""
            raise self._no("GATE_CLOSED", f"the gate is closed: {word}{by}", outcome=word)
        if request.binding != gate.opened.binding:
            message = "the gate is for something else than was shown; look at it again"
            raise self._no("GATE_CHANGED", message)
        if gate.opened.expires.ToNanoseconds() <= self._clock():
            raise self._no("GATE_EXPIRED", "the time to decide is over, which denies", outcome="expired")

    async def _contents(self, state: RunState, gate: Gate) -> dict[str, str]:
        """Load the large values of a gate, if they are not too many; without them the decider will say."""
        held = (value for item in gate.opened.items for value in item.arguments.values())
        blobs = {value.blob.sha256: value.blob for value in held if value.HasField("blob")}
        if sum(blob.size_bytes for blob in blobs.values()) > MAX_LOADED_BYTES:
            return {}
        load = self._runs.log.get_blob
        try:
            return {digest: (await load(state.key, blob)).decode() for digest, blob in blobs.items()}
        except (LogUnavailable, LogForbidden):
            raise
        except (LogError, UnicodeDecodeError):
            # What is not whole can still be denied.
            return {}

    def _check_rules(
        self, state: RunState, gate: Gate, said: event_pb2.Decide, contents: Mapping[str, str]
    ) -> None:
        rules = Rules(state, self._policy, self._clock(), 0)
        message = ""
        try:
            if said.choice == event_pb2.GATE_CHOICE_AMEND:
                rules.amend(gate, said, contents)
            else:
                delegates = said.choice == event_pb2.GATE_CHOICE_DELEGATE
                # Nobody hands on what was handed to them.
                asks = rules.may_decide if delegates else rules.may_answer
                ruling = asks(gate, said.approver, contents)
                why = "; ".join(reason.text for reason in ruling.reasons)
                message = "" if ruling.outcome == "allow" else f"{said.approver} may not decide here: {why}"
                if delegates and not message:
                    _check_can_receive(state, gate, said, rules, contents)
        except NotLoaded:
            return
        except CannotAmend as error:
            if error.violations:
                raise invalid("BAD_ARGUMENTS", error.violations) from None
            message = f"it cannot be amended so: {error}"
        if message:
            raise Refusal(grpc.StatusCode.PERMISSION_DENIED, FORBIDDEN.upper(), message)

    @staticmethod
    def _no(reason: str, message: str, **metadata: str) -> Refusal:
        return Refusal(_FAILED_PRECONDITION, reason, message, metadata=metadata)


def _says(body: event_pb2.Decide) -> event_pb2.Decide:
    """Return what a decision says, without who said it and why."""
    return event_pb2.Decide(
        choice=body.choice,
        output=body.output if body.HasField("output") else None,
        arguments=body.arguments,
        delegate=body.delegate,
    )


def _argument(gate: Gate, step: str, name: str) -> plan_pb2.Value:
    """Return an argument of what waits at a gate."""
    items = [item for item in gate.opened.items if step in ("", item.step)]
    if len(items) != 1:
        steps = ", ".join(item.step for item in gate.opened.items[:_SHOWN])
        message = f"say which of its {len(gate.opened.items):,} actions: {steps}"
        raise invalid_field("BAD_STEP", "step", "unknown_step", message)
    if name not in items[0].arguments:
        message = (
            f"{items[0].tool} has no argument {name[:80]!a} here: {', '.join(sorted(items[0].arguments))}"
        )
        raise invalid_field("BAD_ARGUMENT", "argument", "unknown_argument", message)
    return items[0].arguments[name]


def _check(request: gate_service_pb2.DecideGateRequest) -> None:
    if not request.choice or request.choice not in event_pb2.GateChoice.values():
        raise invalid_field("BAD_CHOICE", "choice", "unknown_enum", "say what you decide")
    if not request.approver:
        message = "say who decides: nobody can answer for a decision without a name"
        raise invalid_field("NO_APPROVER", "approver", "empty", message)
    if not request.binding:
        message = "give the binding of the gate as it was shown, so that nothing else is decided"
        raise invalid_field("NO_BINDING", "binding", "empty", message)
    found = [
        *check_name("approver", request.approver),
        *check_text("reason", request.reason, MAX_REASON_BYTES),
    ]
    if found:
        raise invalid("BAD_DECISION", found)


def _check_choice(state: RunState, gate: Gate, request: gate_service_pb2.DecideGateRequest) -> None:
    """Check that a decision answers what the gate asks, and that the tool could have returned its output."""
    possible = CHOICES.get(gate.opened.kind, frozenset())
    if request.choice not in possible:
        words = ", ".join(event_pb2.GateChoice.Name(choice) for choice in sorted(possible))  # type: ignore[arg-type]
        raise invalid_field("BAD_CHOICE", "choice", "not_asked", f"at this gate one can say: {words}")
    if request.choice == event_pb2.GATE_CHOICE_APPROVE and (lacking := missing(gate.opened)):
        message = f"nothing is said of {' and '.join(lacking)}: amend it with that, which approves it"
        raise invalid_field("GATE_LACKS", "choice", "missing_argument", message)
    if request.choice == event_pb2.GATE_CHOICE_AMEND or request.arguments:
        _check_arguments(request)
    if request.choice == event_pb2.GATE_CHOICE_DELEGATE or request.delegate:
        _check_delegate(request, requester(state, gate))
    if not request.HasField("output"):
        return
    if request.choice != event_pb2.GATE_CHOICE_HAPPENED:
        message = "an output goes with GATE_CHOICE_HAPPENED only"
        raise invalid_field("BAD_OUTPUT", "output", "not_asked", message)
    contract = state.contracts[gate.opened.items[0].tool]
    try:
        if request.output.WhichOneof("kind") != "json" or len(request.output.json) > MAX_INLINE_BYTES:
            raise BadValue(f"it must be JSON of at most {MAX_INLINE_BYTES} bytes")
        request.output.json = encode(output := decode(request.output.json))
        problems = compile_schema(contract.output_schema).problems(output)
        if problems:
            raise BadValue(f"{contract.name} could not return that: {problems[0].message}")
    except BadValue as error:
        raise invalid_field("BAD_OUTPUT", "output", "bad_output", str(error)) from None


def _check_arguments(request: gate_service_pb2.DecideGateRequest) -> None:
    """Check that an amendment changes something, and make what it changes canonical."""
    if request.choice != event_pb2.GATE_CHOICE_AMEND:
        message = "arguments go with GATE_CHOICE_AMEND only"
        raise invalid_field("BAD_ARGUMENTS", "arguments", "not_asked", message)
    if not request.arguments:
        message = "say which arguments are to be others"
        raise invalid_field("BAD_ARGUMENTS", "arguments", "empty", message)
    for name, value in request.arguments.items():
        try:
            if value.WhichOneof("kind") != "json" or len(value.json) > MAX_INLINE_BYTES:
                raise BadValue(f"it must be JSON of at most {MAX_INLINE_BYTES} bytes")
            value.json = encode(decode(value.json))
        except BadValue as error:
            field = f"arguments.{name[:64]}"
            raise invalid_field("BAD_ARGUMENTS", field, "bad_value", str(error)) from None


def _check_can_receive(
    state: RunState, gate: Gate, said: event_pb2.Decide, rules: Rules, contents: Mapping[str, str]
) -> None:
    """Check that a delegation would count: it goes one step, and nobody has two votes or votes twice."""
    standing = deputies(state, gate, lambda who: rules.may_decide(gate, who, contents))
    message = ""
    if said.approver in standing:
        message = f"{standing[said.approver]} lets {said.approver} decide, which cannot be handed on"
    elif said.delegate in standing:
        message = f"{said.delegate} decides here for {standing[said.delegate]} already"
    elif any(decision.message.approver == said.delegate for decision in gate.decisions):
        message = f"{said.delegate} has decided here before"
    if message:
        raise invalid_field("BAD_DELEGATE", "delegate", "bad_delegate", message)


def _check_delegate(request: gate_service_pb2.DecideGateRequest, asking: str) -> None:
    """Check that a delegation names somebody who could decide."""
    message = ""
    if request.choice != event_pb2.GATE_CHOICE_DELEGATE:
        message = "a delegate goes with GATE_CHOICE_DELEGATE only"
    elif not request.delegate:
        message = "say who is to decide"
    elif request.delegate == request.approver:
        message = "somebody else is to decide; to decide yourself, approve or deny"
    elif request.delegate == asking:
        message = f"{asking} asks for it, and nobody decides about what they ask for"
    if message:
        raise invalid_field("BAD_DELEGATE", "delegate", "bad_delegate", message)
    found = list(check_name("delegate", request.delegate))
    if found:
        raise invalid("BAD_DELEGATE", found)
