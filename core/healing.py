"""What to do about an attempt that went wrong: bounded corrective moves, chosen by what is known.

The rule about effects: an action is repeated only where that is sound. A keyed or natural one is repeated
as it was; another is read back, a yes counts, and a no permits a repeat only if the claimer was seen dead
and the tool's settling time is over. What nothing sound can tell is surfaced as in doubt.
"""

from __future__ import annotations

import hashlib

from core import conformance, failures
from core.moves import Decide, note
from core.plan import is_compensation
from core.state import Attempt, Instance, RunState
from handrail.v1 import event_pb2, tool_pb2

DEFAULT_MAX_ATTEMPTS = 4
MAX_VERIFY_ROUNDS = 4
DEFAULT_MAX_HEALS = 200
BACKOFF_FIRST_NS = 200_000_000
BACKOFF_LIMIT_NS = 30_000_000_000
REREAD_DELAY_NS = 200_000_000
LEASE_GRACE_NS = 2_000_000_000

RETRY = "retry"
RETRY_SAME_KEY = "retry_same_key"
READ_BACK = "read_back"
REREAD = "reread"
ALTERNATIVE = "alternative"

_REPEATABLE = frozenset((tool_pb2.IDEMPOTENCY_KEYED, tool_pb2.IDEMPOTENCY_NATURAL))


def backoff_ns(seed: str, tries: int) -> int:
    """Return a delay that doubles with each try, with jitter that the seed decides (0.5 to 1.5)."""
    jitter = int.from_bytes(hashlib.sha256(f"{seed}/{tries}".encode()).digest()[:4], "big") / 2**32
    base = min(BACKOFF_FIRST_NS * 2 ** min(max(tries - 1, 0), 20), BACKOFF_LIMIT_NS)
    return int(base * (0.5 + jitter))


class Healer:
    """Chooses the next move for one instance; holds nothing but its arguments."""

    def __init__(
        self, state: RunState, instance: Instance, max_attempts: int, now_ns: int, *, heals: int
    ) -> None:
        self.state = state
        # How many the run has had, those that are being decided in this look included.
        self.heals = heals
        self.instance = instance
        self.max_attempts = max_attempts or DEFAULT_MAX_ATTEMPTS
        self.now_ns = now_ns

    @property
    def tries(self) -> int:
        """How many times the instance was tried: taken-back attempts and read-backs do not count."""
        return sum(
            1 for a in self.instance.attempts if (a.is_act or a.proposal_ask) and not self.costs_nothing(a)
        )

    def costs_nothing(self, attempt: Attempt) -> bool:
        """Whether an attempt is no try: taken back, left behind, or its permit refused and nobody claimed it.

        A permit that expired, or that the decider did not sign, is refused for the time being.
        """
        failure = attempt.result.message.failure if attempt.result is not None else event_pb2.Failure()
        refused = failure.code == failures.PERMIT and not attempt.claimer
        return (
            attempt.revoked
            or (bool(attempt.follows) and not self.state.stands(attempt.follows))
            or attempt.was_left_behind
            or (refused and failures.failure_class(failure) == event_pb2.FAILURE_CLASS_TRANSIENT)
        )

    def contract(self, attempt: Attempt) -> tool_pb2.ToolContract:
        """Return the contract under which an attempt acts; for a read-back, that of the action in doubt."""
        act = attempt
        if attempt.action is not None and attempt.action.kind == event_pb2.ACTION_KIND_READ_BACK:
            act = self.read_back_of(attempt)
        tool = act.action.tool if act.action is not None else ""
        return self.state.contracts.get(tool, tool_pb2.ToolContract())

    def read_back_of(self, attempt: Attempt) -> Attempt:
        """Return the action whose fate a read-back asks for."""
        replaced = attempt.action.replaces if attempt.action is not None else ""
        for earlier in self.instance.attempts:
            if earlier.id == replaced:
                return earlier if earlier.is_act else self.read_back_of(earlier)
        return attempt

    # --- moves -----------------------------------------------------------------------------------

    def fail(self, failure: event_pb2.Failure) -> Decide:
        """Give the step up; where an earlier effect is in doubt, or an undo is, a human must look first."""
        is_undo = is_compensation(self.instance.id) and not self.instance.denied
        if self.instance.doubtful is not None or is_undo:
            return self.surface(self.instance.current or self.instance.doubtful, failure.message)
        return note("step_failed", event_pb2.StepFailed(step=self.instance.id, failure=failure))

    def surface(self, attempt: Attempt | None, why: str) -> Decide:
        """Say that the effect is in doubt, or an undo has failed: a human must look."""
        name = attempt.id if attempt is not None else ""
        return note("in_doubt", event_pb2.InDoubt(step=self.instance.id, attempt=name, why=why))

    def heal(
        self, attempt: Attempt, strategy: str, cause: event_pb2.Failure, delay_ns: int, tool: str = ""
    ) -> Decide:
        """Decide a corrective move, or give up when the run has had too many."""
        limit = self.state.bound("max_heals", DEFAULT_MAX_HEALS)
        if self.heals >= limit:
            message = f"the run has used its {limit} heals; the last cause was: {cause.message}"
            return self.fail(failures.permanent(failures.BUDGET, message))
        body = event_pb2.Healed(
            step=self.instance.id, attempt=attempt.id, strategy=strategy, cause=cause, tool=tool
        )
        body.not_before.FromNanoseconds(self.now_ns + delay_ns)
        return note("healed", body)

    def retry(self, attempt: Attempt, strategy: str, cause: event_pb2.Failure) -> Decide:
        """Try again after a while."""
        return self.heal(
            attempt, strategy, cause, backoff_ns(f"{self.state.key.run}/{attempt.id}", self.tries)
        )

    # --- what went wrong ---------------------------------------------------------------------------

    def after_failure(self, attempt: Attempt, cause: event_pb2.Failure) -> Decide:
        """A worker or an executor said that it failed."""
        kind = failures.failure_class(cause)
        if kind == event_pb2.FAILURE_CLASS_IN_DOUBT and attempt.action is not None:
            return self.resolve(attempt, cause)
        doubtful = self.instance.doubtful
        sound = doubtful is None or self.contract(doubtful).idempotency in _REPEATABLE
        if kind == event_pb2.FAILURE_CLASS_TRANSIENT and self.tries < self.max_attempts and sound:
            return self.retry(attempt, RETRY, cause)
        if doubtful is not None:
            return self.resolve(doubtful, cause)
        happened = attempt.result is not None and attempt.result.message.happened == event_pb2.HAPPENED_YES
        acted = happened or self._may_have_acted(attempt)
        # What is not what was authorised says nothing about the tool.
        tool = "" if acted or cause.code == failures.PERMIT else self.alternative(attempt)
        if tool:
            return self.heal(attempt, ALTERNATIVE, cause, 0, tool)
        return self.fail(cause)

    def _may_have_acted(self, attempt: Attempt) -> bool:
        """Whether an earlier attempt may have had an effect that another tool would have once more.

        A verdict alone does not rule it out, nor does a failure of the same tool, if that knows no keys.
        """
        contract = self.contract(attempt)
        if contract.effect == tool_pb2.EFFECT_READ:
            return False
        if self.instance.was_said_done or contract.idempotency == tool_pb2.IDEMPOTENCY_KEYED:
            return self.instance.was_said_done
        results = (a.result for a in self.instance.attempts if a.is_act and a.claimer)
        return any(one is None or one.message.happened != event_pb2.HAPPENED_NO for one in results)

    def alternative(self, attempt: Attempt) -> str:
        """Name a tool of the same capability that this instance has not tried."""
        contract = self.contract(attempt)
        if not contract.capability or attempt.action is None:
            return ""
        tried = {a.action.tool for a in self.instance.attempts if a.action is not None}
        others = (
            name
            for name, other in sorted(self.state.contracts.items())
            if conformance.stands_in(other, contract) and name not in tried
        )
        return next(others, "")

    def resolve(self, attempt: Attempt, cause: event_pb2.Failure) -> Decide:
        """Nobody knows whether the effect happened: find out, or repeat where that is sound."""
        contract = self.contract(attempt)
        current = self.instance.current or attempt
        if contract.idempotency in _REPEATABLE and self.tries < self.max_attempts:
            return self.retry(current, RETRY_SAME_KEY, cause)
        asked = any(
            a.action and a.action.kind == event_pb2.ACTION_KIND_READ_BACK for a in self.instance.attempts
        )
        if contract.readback and not asked:
            # Whoever claimed it could act until a moment ago: that is when settling begins.
            return self.heal(current, READ_BACK, cause, int(contract.settle_s * 1e9))
        return self.surface(current, f"{contract.name}: {cause.message}")

    def after_read_back(self, attempt: Attempt, result: event_pb2.Result) -> Decide | None:
        """A read-back answered anything but a yes (a yes waits for its verdict)."""
        act = self.read_back_of(attempt)
        cause = failures.in_doubt(failures.IN_DOUBT, "the read-back did not find the action")
        if result.HasField("failure"):
            read_backs = sum(1 for a in self.instance.attempts if a.action and not a.is_act)
            if read_backs < DEFAULT_MAX_ATTEMPTS:
                return self.retry(attempt, READ_BACK, result.failure)
            return self.surface(act, f"the read-back failed: {result.failure.message}")
        if result.happened == event_pb2.HAPPENED_YES:
            return None
        sound = act.seen_dead and result.happened == event_pb2.HAPPENED_NO
        if sound and self.tries < self.max_attempts:
            return self.retry(attempt, RETRY, cause)
        return self.surface(
            act,
            "the read-back says that it did not happen, but whoever claimed it was not seen dead "
            "and may still carry it out",
        )

    def after_verdict(self, attempt: Attempt, verdict: event_pb2.Verdict) -> Decide:
        """The verifier refuted the result, or could not judge."""
        has_effect = self.contract(attempt).effect != tool_pb2.EFFECT_READ
        cause = verdict.failure
        if verdict.outcome == event_pb2.OUTCOME_UNKNOWN:
            if verdict.round < MAX_VERIFY_ROUNDS:
                delay = backoff_ns(f"{self.state.key.run}/{attempt.id}/verify", verdict.round)
                return self.heal(attempt, REREAD, cause, delay)
            if has_effect:
                return self.surface(attempt, f"the verifier could not judge: {cause.message}")
            return self.fail(cause)
        if attempt.refutations <= 1:
            settle_ns = int(self.contract(attempt).settle_s * 1e9)
            return self.heal(attempt, REREAD, cause, max(settle_ns, REREAD_DELAY_NS))
        may_repeat = not has_effect or verdict.happened == event_pb2.HAPPENED_NO
        if has_effect and may_repeat and self.contract(attempt).idempotency not in _REPEATABLE:
            # The worker says that it is done: on a verdict alone it would be done twice.
            return self.surface(
                attempt, f"the verifier did not find what the worker has done: {cause.message}"
            )
        if not may_repeat or self.tries >= self.max_attempts:
            return self.fail(cause)
        if self.repeats(attempt):
            message = f"the same action had the same outcome again: {cause.message}"
            return self.fail(failures.permanent(failures.LOOP, message))
        return self.retry(attempt, RETRY, cause)

    def repeats(self, attempt: Attempt) -> bool:
        """Whether an earlier attempt was the same action with the same outcome."""

        def outcome(a: Attempt) -> tuple[str, str, bytes, bytes] | None:
            if a.action is None or a.result is None or not a.is_act:
                return None
            output = a.result.message.output.SerializeToString(deterministic=True)
            permit = a.action.permit
            return a.action.tool, permit.arguments_sha256, permit.pending_sha256, output

        return any(outcome(a) == outcome(attempt) for a in self.instance.attempts if a.id != attempt.id)
