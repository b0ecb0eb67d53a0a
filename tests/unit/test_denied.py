"""No plan that conformance accepts can reach an action that policy denies.

Drawn plans under drawn policies are driven through the pure core to their ends, in a world where everybody
lies: workers, verifiers and executors answer anything, twice and late, and humans decide in any words about
anything. Of every action that comes out the policy is asked again, with the values that the action has,
labels that are told here from the plan alone, and approvals that are told from the log alone: nothing of
`core.rules`, `core.gates` and `core.labels` is asked.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from core import failures, run, values
from core.plan import canonical_route, parse_reference
from core.policy import Request, Ruling
from core.ports import Record
from handrail.v1 import event_pb2, plan_pb2, tool_pb2
from tests.policies import LOST, NEVER
from tests.scenarios.play import Play
from tests.simulation import plans, policies
from tests.simulation.approvals import APPROVED, standing
from tests.simulation.policies import APPROVERS, OUTSIDER, SUBMITTERS, DrawnPolicy
from tests.simulation.tools import CONTRACTS
from tests.simulation.watch import GateWatch, RunWatch, Said

SEEDS = 400
MAX_FACTS = 90
LATE_NS = 3_700_000_000_000
ANYTHING = (0, 1, 2, 3, 9, None, "x", [1, 2, 3], [3], {"n": 2})
FAILURES = (failures.permanent, failures.transient, failures.in_doubt)
OUTCOMES = (event_pb2.OUTCOME_REFUTED, event_pb2.OUTCOME_UNKNOWN)
CHOICES = (
    *(event_pb2.GATE_CHOICE_APPROVE,) * 6,
    event_pb2.GATE_CHOICE_DENY,
    event_pb2.GATE_CHOICE_HAPPENED,
    event_pb2.GATE_CHOICE_REPEAT,
    event_pb2.GATE_CHOICE_UNSPECIFIED,
)


def contracts() -> list[tool_pb2.ToolContract]:
    """The simulator's tools in one toolbox, so that reads make chains; some answer for what they return."""
    found = []
    for name, contract in CONTRACTS.items():
        one = tool_pb2.ToolContract()
        one.CopyFrom(contract)
        one.toolbox = "box"
        # The whole of a number, and each item of a list.
        one.endorses.extend({"look": [""], "numbers": ["[]"]}.get(name, []))
        found.append(one)
    return found


@dataclass(frozen=True, slots=True)
class Weary(DrawnPolicy):
    """A drawn policy that asks more, and in the end says no, the more a run has done."""

    asks_from: int = 1_000
    never_from: int = 1_000

    def rule(self, request: Request) -> Ruling:
        """Say what the drawn rules say, and more from so many actions on."""
        found = DrawnPolicy.rule(self, request)
        if request.actions >= self.never_from:
            return NEVER
        if request.actions >= self.asks_from and found.outcome != "refuse":
            return Ruling("gate", (LOST,), max(2, found.quorum), open=found.open)
        return found


def weary(chance: random.Random, policy: DrawnPolicy) -> Weary:
    from_, never = chance.choice((1_000, 1_000, 2, 4)), chance.choice((1_000, 1_000, 6))
    fields = {name: getattr(policy, name) for name in ("version", "rules", "barred", "limited")}
    return Weary(**fields, asks_from=from_, never_from=never)


# --- what the labels are, told from the plan alone -------------------------------------------------------


class Trust:
    """Which arguments of a plan's steps somebody untrusted can have written."""

    def __init__(self, plan: plan_pb2.Plan, tools: Mapping[str, tool_pb2.ToolContract]) -> None:
        self._steps = {step.id: step for step in plan.steps}
        self._tools = tools

    def untrusted(self, step: plan_pb2.Step) -> frozenset[str]:
        """Return their names, and "$when", "$each" and "$choice" where these decide."""
        said = {name: held.reference for name, held in step.arguments.items()}
        found = {name for name, reference in said.items() if reference and self._bad(step, reference)}
        if canonical_route(step) == plan_pb2.ROUTE_CHOOSE:
            # Every choice that is drawn looks at its input "n".
            inputs, found = found, {"$choice"} & ({"$choice"} if "n" in found else set())
            for rule in step.rules:
                for name, held in rule.arguments.items():
                    if held.reference and (
                        "n" in inputs if held.reference == "$input.n" else self._bad(step, held.reference)
                    ):
                        found.add(name)
            found |= inputs
        if step.when and not self._answers(step.when.split()[0], items=False):
            found.add("$when")
        if step.each and not step.each.startswith("$goal") and not self._counts(step.each[1:]):
            found.add("$each")
        return frozenset(found)

    def _counts(self, name: str) -> bool:
        """Whether somebody answers for which items a step's list has; a fan-out has those of the plan."""
        step = self._steps[name]
        return not self.untrusted(step) if step.each else self._answers(name, items=True)

    def _bad(self, step: plan_pb2.Step, reference: str) -> bool:
        root = parse_reference(reference).root
        if root == "goal":
            return False
        if root == "each":
            return not step.each.startswith("$goal") and not self._answers(step.each[1:], items=True)
        return not self._answers(root, items=False)

    def _answers(self, name: str, *, items: bool) -> bool:
        """Whether a step's tool answers for what it returns, asked as it is."""
        step = self._steps[name]
        tools = [step.tool] if step.tool else [rule.tool for rule in step.rules]
        wanted = {"look", "numbers"} if items and not step.each else {"look"}
        if step.each and not items:
            # The list of what a fan-out has returned; nobody answers for a list as a whole.
            wanted = {"look"}
        return set(tools) <= wanted and not self.untrusted(step)


# --- what comes out --------------------------------------------------------------------------------------


class Watch:
    """Asks the policy again about every action of a run, by its log."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.seen = Counter[str]()
        self._state = run.initial(play.records[0].address.key) if play.records else None
        self._done = 0
        self._actions = 0
        self._said: list[Said] = []
        self._gates: dict[str, GateWatch] = {}
        self._approved: dict[str, tuple[str, ...]] = {}
        self._trust: Trust | None = None

    def look(self) -> None:
        """Look at what has been stored since; the policy of the moment decided it."""
        for record in self.play.records[self._done :]:
            for part in run.unbundled(record):
                self._hear(part)
        self._done = len(self.play.records)

    def _hear(self, part: Record) -> None:
        event, channel = part.event, part.address.channel
        assert event is not None
        if channel == "cmd" and event.HasField("decide"):
            self._said.append(Said(part.sequence, part.time_ns, event.decide))
        if channel != "dec":
            return
        self.seen[event.WhichOneof("body") or ""] += 1
        if event.HasField("plan_accepted"):
            self._trust = Trust(event.plan_accepted.plan, self.play.catalogue.contracts)
        elif event.HasField("gate_opened"):
            self._gates[event.gate_opened.gate] = GateWatch(part.sequence, event.gate_opened)
        elif event.HasField("gate_closed"):
            self._close(event.gate_closed, part.sequence)
        elif event.HasField("action"):
            if event.action.kind == event_pb2.ACTION_KIND_ACT:
                self._judge(event.action)
            self._actions += 1

    def _close(self, closed: event_pb2.GateClosed, sequence: int) -> None:
        if closed.outcome == APPROVED:
            said = [one for one in self._said if one.sequence < sequence]
            seen = RunWatch(self.play.state.key, [self.play.state])
            outcome, who = standing(seen, self._gates[closed.gate], said, self.play.catalogue.policy)
            assert outcome == APPROVED, f"{closed.gate} is approved, and nobody has"
            self._approved[closed.gate] = tuple(who)

    def _judge(self, action: event_pb2.Action) -> None:
        for request in self._requests(action):
            ruling = self.play.catalogue.policy.rule(request)
            self.seen[ruling.outcome] += 1
            assert ruling.outcome != "refuse", f"{action.attempt} is refused"
            assert not ruling.open, f"nobody knows yet whether {action.attempt} may be done"
            if ruling.outcome == "gate":
                given = max((len(set(who)) for who in self._approvals(action, request)), default=0)
                assert given >= ruling.quorum, (
                    f"{action.attempt} needs {ruling.quorum} approvals and has {given}"
                )

    def _requests(self, action: event_pb2.Action) -> Iterator[Request]:
        """Yield what the action may turn out to be: one request, or one for each value of what is pending."""
        state, trust = self.play.state, self._trust
        assert trust is not None
        plan = state.plan
        assert plan is not None
        (step,) = (one for one in plan.steps if one.id == state.instances[action.step].step)
        arguments = {name: values.load(value, {}) for name, value in action.arguments.items()}
        request = Request(
            user=state.goal.submitter,
            tenant=state.key.tenant,
            contract=self.play.catalogue.contracts[action.tool],
            arguments=arguments,
            untrusted=trust.untrusted(step),
            actions=self._actions,
        )
        if not action.pending:
            yield request
        for value in ANYTHING if action.pending else ():
            self.seen["pending"] += 1
            yield replace(request, arguments={**arguments, **dict.fromkeys(action.pending, value)})

    def _approvals(self, action: event_pb2.Action, request: Request) -> Iterator[tuple[str, ...]]:
        """Yield who has approved exactly this, under the rules of now."""
        for gate, who in self._approved.items():
            opened = self._gates[gate].opened
            if opened.policy == self.play.catalogue.policy.version:
                for item in opened.items:
                    same = (item.step, item.tool) == (action.step, action.tool)
                    shown = {name: values.load(value, {}) for name, value in item.arguments.items()}
                    if same and shown == request.arguments and set(item.untrusted) == request.untrusted:
                        yield who


# --- a world in which everybody lies ---------------------------------------------------------------------


class World:
    """Answers, decides and steers by chance; mostly so that something goes on."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(f"{seed}/world")
        self.draft = self.chance.choice(plans.draw(seed))
        regimes = (policies.draw(f"{seed}/{number}") for number in range(100))
        regime = next(one for one in regimes if one is not None)
        self.policies = [regime.first, *(change.policy for change in regime.changes)]
        self.play = Play(*contracts(), policy=weary(self.chance, self.policies[0]))
        self.watch = Watch(self.play)

    def run(self) -> Counter[str]:
        """Drive the run until it ends, or for long enough."""
        goal = event_pb2.Goal(text="a goal", context=self.draft.goal.context, plan=self.draft.plan)
        goal.submitter = self.chance.choice(SUBMITTERS)
        goal.budget.max_heals = self.draft.max_heals
        self.play.fact(("submit",), "submit", event_pb2.Submit(goal=goal), channel="cmd")
        self.watch.look()
        for _ in range(MAX_FACTS):
            if self.play.state.finished is not None and self.chance.random() < 0.5:
                break
            self._happen()
            self.watch.look()
        return self.watch.seen

    def _happen(self) -> None:
        chance, play = self.chance, self.play
        if chance.random() < 0.04:
            policy = weary(chance, chance.choice(self.policies))
            # Another version says that something may be another; the same one means the same.
            policy = replace(policy, version=f"{policy.version}.{len(play.records)}")
            play.catalogue = replace(play.catalogue, policy=policy)
        attempts = list(play.state.attempts)
        current = [attempt.id for attempt in play.state.in_flight]
        acts = (self._gate, self._answer, self._steer, self._forge)
        weights = (5 * len(play.state.gates), 9 if attempts else 0, 1, 0.3)
        (act,) = chance.choices(acts, weights)
        attempt = chance.choice(current if current and chance.random() < 0.8 else attempts or [""])
        act(attempt)

    def _gate(self, _: str) -> None:
        chance, gates = self.chance, self.play.state.gates
        opened = [name for name, gate in gates.items() if gate.closed is None]
        gate = chance.choice(opened if opened and chance.random() < 0.9 else [*gates, "g99"])
        if chance.random() < 0.05:
            # Somebody decides when the gate's time is over, and nobody has looked since.
            self.play.now_ns += LATE_NS
        shown = gate if chance.random() < 0.85 else chance.choice([*gates])
        self.play.decide(
            chance.choice((*APPROVERS, *APPROVERS, *SUBMITTERS, OUTSIDER, "")),
            gate=gate,
            choice=chance.choice(CHOICES),
            binding=gates[shown].opened.binding if shown in gates else "none",
        )

    def _answer(self, attempt: str) -> None:
        chance, play = self.chance, self.play
        step = play.state.attempts[attempt]
        found = next(a for a in play.state.instances[step].attempts if a.id == attempt)
        if found.action is None:
            play.choose(attempt, chance.randrange(3), chance.choice(found.proposal_ask.rules).tool)
        elif not found.claimer and chance.random() < 0.3:
            play.intent(attempt)
        elif found.result is None or chance.random() < 0.1:
            self._result(attempt, found.action.tool)
        elif chance.random() < 0.1:
            play.orphan(attempt, seen_dead=chance.random() < 0.5)
        else:
            outcome = event_pb2.OUTCOME_CONFIRMED if chance.random() < 0.8 else chance.choice(OUTCOMES)
            play.verdict(attempt, outcome, round=found.round_asked, happened=chance.randrange(4))

    def _result(self, attempt: str, tool: str) -> None:
        chance, happened = self.chance, self.chance.randrange(4)
        if chance.random() < 0.25:
            self.play.failed(attempt, chance.choice(FAILURES), happened=happened)
        else:
            usual = [1, 2, 3][: chance.randint(1, 3)] if tool == "numbers" else chance.choice((1, 2, 3))
            self.play.output(
                attempt, usual if chance.random() < 0.9 else chance.choice(ANYTHING), happened=happened
            )

    def _steer(self, _: str) -> None:
        chance = self.chance
        what = chance.choices((self.play.pause, self.play.resume, self.play.cancel), (2, 4, 0.5))[0]
        if chance.random() < 0.6:
            self.play.tick()
        elif chance.random() < 0.1:
            self.play.tick(seconds=4_000)
        else:
            what()

    def _forge(self, attempt: str) -> None:
        """Write what only the decider may, where others write."""
        event = event_pb2.Event(id="forged", version=run.VERSION, writer="play")
        event.gate_closed.gate = self.chance.choice([*self.play.state.gates, "g1"])
        event.gate_closed.outcome = APPROVED
        event.gate_closed.approvers.append("ada")
        self.play.append(event, ("worker", "box", "result", attempt))


def test_no_accepted_plan_reaches_an_action_that_the_policy_denies() -> None:
    seen = Counter[str]()
    for number in range(SEEDS):
        try:
            seen += World(f"denied-{number}").run()
        except AssertionError as error:
            raise AssertionError(f"seed {number}: {error}") from error
    # All of it was met.
    for what in ("allow", "gate", "pending", "plan_rejected", "gate_closed", "healed", "expanded"):
        assert seen[what] > 0, (what, seen)
    assert seen["action"] > SEEDS, seen
