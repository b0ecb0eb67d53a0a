"""A policy of Cedar rules: `core.policy.Policy` over texts, people and contracts.

Everything is parsed once, when it is made. A rule that cannot be judged makes the answer no: Cedar itself
would skip it, and a `forbid` that is skipped allows. Nothing in it changes but caches that several threads
may share.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from cedarpy import Decision, Entities, PolicySet

from core import cedar_fit, cedar_question, cedar_rules, cedar_schema
from core.cedar_question import Question, entity, uid
from core.cedar_schema import Arguments
from core.errors import HandrailError
from core.policy import MAX_QUORUM, Reason, Request, Ruling
from handrail.v1 import tool_pb2

# Whoever asks, in a project that lists nobody: one person, who owns it.
OWNER = "owner"

CACHED_PEOPLE = 1_024
CACHED_WORLDS = 64
CACHED_SPLITS = 1_024
CACHED_SCOPES = 4_096
CACHED_RULINGS = 16_384

# What else an answer may rest on for it to be kept: the rest would be asked with something new each time.
_KEPT = frozenset({"approvals", "untrusted", "actions", "leaks", "undoing"})

_NO_NAMES = frozenset[str]()
_NOTHING = Reason("", "no rule permits it")
_NOT_YET = Reason("", "no rule permits it before somebody has approved it")

_ERROR = re.compile(r"error while evaluating policy `([^`]*)`: (.*)", re.DOTALL)


class BadPolicy(HandrailError):
    """Rules that cannot be used; `problems` lists why, each naming its file and line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("the policy cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Person:
    """What is known of a user. One who names no tenant is of the tenant whose run it is."""

    roles: frozenset[str] = frozenset()
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class _World:
    """The tools as entities, and the arguments that rules can see where no tool is named."""

    entities: Entities
    anything: Arguments


@dataclass(frozen=True, slots=True)
class _Split:
    """The rules parted by whether they look at what is open."""

    settled: PolicySet
    # Permits that hold where an open rule may apply; none where no rule is open.
    guards: PolicySet | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the settled rules say, and which of the open ones may have a word."""

    allowed: bool
    # The rules that allow it.
    yeses: tuple[str, ...]
    noes: tuple[Reason, ...]
    errors: tuple[Reason, ...]
    maybe: frozenset[str] = frozenset()


class _Key(NamedTuple):
    """What a ruling is kept by."""

    user: str
    tenant: str
    tool: str
    untrusted: frozenset[str]
    leaks: frozenset[str]
    actions: int
    undoing: bool


class CedarPolicy:
    """The rules of one project."""

    def __init__(
        self,
        files: Mapping[str, str],
        people: Mapping[str, Person],
        contracts: Iterable[tool_pb2.ToolContract],
    ) -> None:
        self.files = dict(files)
        self.people = dict(people)
        self.contracts = {contract.name: contract for contract in contracts}
        rules, problems = cedar_rules.read_rules(files)
        problems += cedar_fit.check_fit(rules, list(self.contracts.values()))
        if problems:
            raise BadPolicy(problems)
        self.rules = tuple(rules)
        self.version = _digest(files, self.people, self.contracts)
        self._by_id = {rule.id: (place, rule) for place, rule in enumerate(rules)}
        self._named_users = cedar_rules.named(rules, "User")
        self._world = lru_cache(CACHED_WORLDS)(self._make_world)
        self._entities = lru_cache(CACHED_PEOPLE)(self._add_people)
        self._split = lru_cache(CACHED_SPLITS)(self._make_split)
        self._looked_at = lru_cache(CACHED_SCOPES)(self._find_looked_at)
        self._kept_ruling = lru_cache(CACHED_RULINGS)(self._make_ruling)

    def rule(self, request: Request) -> Ruling:
        """Say whether an action may be done, and how many must approve it first.

        What is said of arguments without a value holds whatever the value will be, unless the ruling is
        open; which of them are untrusted is taken from the request.
        """
        kept = self._kept(request)
        return self.rule_from(request, 0) if kept is None else self._kept_ruling(kept)

    def rule_from(self, request: Request, approvals: int) -> Ruling:
        """Say the same where so many have approved already."""
        question = self._ask(request)
        if isinstance(question, Ruling):
            return question
        return self._rule(question, range(approvals, max(approvals, MAX_QUORUM) + 1))

    def may_decide(self, approver: str, request: Request) -> Ruling:
        """Say whether somebody may approve or deny an action."""
        question = self._ask(request, approver)
        return question if isinstance(question, Ruling) else self._rule(question, (None,))

    def with_people(self, people: Mapping[str, Person]) -> CedarPolicy:
        """Return the same rules for other people."""
        return CedarPolicy(self.files, people, self.contracts.values())

    def matching(self, request: Request, approver: str | None = None, approvals: int = 0) -> frozenset[str]:
        """Return the ids of the rules whose scope and conditions hold, whatever they come to together."""
        question = self._ask(request, approver)
        if isinstance(question, Ruling):
            return frozenset()
        count = approvals if approver is None else None
        found = cedar_question.evaluate(self._all_as_permits, question, count)
        return frozenset(found.diagnostics.reasons)

    @cached_property
    def _all_as_permits(self) -> PolicySet:
        return cedar_rules.set_of([cedar_rules.as_permit(rule.node) for rule in self.rules])

    def _kept(self, request: Request) -> _Key | None:
        """Return all that the ruling can rest on; None where that is more than is worth keeping it by."""
        contract = request.contract
        if self._is_foreign(contract):
            return None
        looked_at = self._looks(contract.name, contract)
        if not looked_at <= _KEPT:
            return None
        return _Key(
            request.user,
            request.tenant,
            contract.name,
            request.untrusted if "untrusted" in looked_at else _NO_NAMES,
            request.leaks if "leaks" in looked_at else _NO_NAMES,
            request.actions if "actions" in looked_at else 0,
            request.undoing and "undoing" in looked_at,
        )

    def _make_ruling(self, key: _Key) -> Ruling:
        """Ask with nothing else than what the ruling is kept by."""
        request = Request(
            key.user,
            key.tenant,
            self.contracts[key.tool],
            {},
            untrusted=key.untrusted,
            leaks=key.leaks,
            actions=key.actions,
            undoing=key.undoing,
        )
        return self.rule_from(request, 0)

    def _rule(self, question: Question, counts: Iterable[int | None]) -> Ruling:
        """Ask with more and more approvals; the first answer that may be yes is the ruling.

        It is open if a rule that looks at something open could have made it another.
        """
        split = self._split(self._open_to(question))
        wanted: tuple[Reason, ...] | None = None
        noes: tuple[Reason, ...] = ()
        is_open = False
        for count in counts:
            answer = self._answer(split, question, count)
            if answer.errors:
                return Ruling("refuse", answer.errors)
            noes = answer.noes
            is_open |= bool(answer.maybe)
            if answer.allowed or (not noes and "permit" in answer.maybe):
                if is_open and question.unheld and not question.unknown:
                    return _unshown(question)
                if wanted is None:
                    return Ruling("allow", open=is_open, rules=answer.yeses)
                reasons = wanted or (_NOT_YET,)
                return Ruling("gate", reasons, quorum=count or 0, open=is_open, rules=answer.yeses)
            wanted = noes if wanted is None else wanted
        return Ruling("refuse", noes or (_NOTHING,))

    def _open_to(self, question: Question) -> frozenset[str]:
        """Return what is open and looked at by any rule that can apply."""
        if not question.unknown and not question.unheld:
            return question.unknown
        return question.unknown.union(question.unheld) & question.looked_at

    def _answer(self, split: _Split, question: Question, count: int | None) -> _Answer:
        found = cedar_question.evaluate(split.settled, question, count)
        errors = self._errors(found.diagnostics.errors)
        allowed = found.decision is Decision.Allow
        decided = sorted(found.diagnostics.reasons, key=self._place)
        yeses, noes = (tuple(decided), ()) if allowed else ((), self._reasons(decided))
        if split.guards is None:
            return _Answer(allowed, yeses, noes, errors)
        guards = cedar_question.evaluate(split.guards, question, count)
        held = {*guards.diagnostics.reasons, *(r.rule for r in self._errors(guards.diagnostics.errors))}
        maybe = frozenset(self._by_id[rule][1].node.effect for rule in held if rule in self._by_id)
        return _Answer(allowed, yeses, noes, errors, maybe)

    def _place(self, rule: str) -> int:
        return self._by_id[rule][0]

    def _reasons(self, ids: Iterable[str]) -> tuple[Reason, ...]:
        return tuple(Reason(rule, self._by_id[rule][1].reason) for rule in ids)

    def _errors(self, texts: Iterable[str]) -> tuple[Reason, ...]:
        """Return the rules that failed; what is wrong with the question itself is nobody's rule."""
        found = []
        for text in texts:
            match = _ERROR.fullmatch(text)
            rule, why = (match[1], match[2]) if match else ("", text)
            found.append(Reason(rule, f"it cannot be judged, so nothing is allowed: {why}"))
        return tuple(sorted(found, key=lambda reason: reason.rule))

    def _make_split(self, open_to: frozenset[str]) -> _Split:
        nodes = [rule.node for rule in self.rules if rule.looks_at.isdisjoint(open_to)]
        opened = [rule.node for rule in self.rules if not rule.looks_at.isdisjoint(open_to)]
        guards = [cedar_rules.guard_of(node, open_to) for node in opened]
        return _Split(cedar_rules.set_of(nodes), cedar_rules.set_of(guards) if guards else None)

    def _ask(self, request: Request, approver: str | None = None) -> Question | Ruling:
        """Return the question, or why the rules cannot be asked it."""
        contract = request.contract
        # A run goes on under the contracts that it was accepted under; the rules must fit those too.
        foreign = contract.SerializeToString(deterministic=True) if self._is_foreign(contract) else b""
        world = self._world(foreign)
        if isinstance(world, Ruling):
            return world
        users = frozenset((request.user,) if approver is None else (request.user, approver))
        action = contract.name if approver is None else cedar_schema.DECIDE
        looked_at = self._looks(action, contract)
        tool = cedar_schema.arguments_of(contract.input_schema)
        context, unheld = cedar_question.context_of(
            request, tool, tool if approver is None else world.anything, looked_at
        )
        unknown = cedar_question.unknown_in(request, tool)
        if approver is not None:
            context["requester"] = {"__entity": uid("User", request.user)}
            context["self"] = approver == request.user
        return Question(
            entities=self._entities(foreign, request.tenant, users),
            principal=uid("User", request.user if approver is None else approver),
            action=uid("Action", action),
            resource=uid("Tool", contract.name),
            context=context,
            looked_at=looked_at,
            unknown=unknown,
            unheld=unheld,
        )

    def _is_foreign(self, contract: tool_pb2.ToolContract) -> bool:
        known = self.contracts.get(contract.name)
        return known is None or (known is not contract and known != contract)

    def _looks(self, action: str, contract: tool_pb2.ToolContract) -> frozenset[str]:
        """Return what is looked at by any rule that can apply to an action on a tool."""
        return self._looked_at(action, cedar_schema.level_of(contract), contract.name, contract.toolbox)

    def _find_looked_at(self, action: str, level: str, tool: str, toolbox: str) -> frozenset[str]:
        groups = () if action == cedar_schema.DECIDE else cedar_schema.groups_of(level)
        apply = [rule for rule in self.rules if rule.can_apply((action, *groups), tool, toolbox)]
        return frozenset[str]().union(*(rule.looks_at for rule in apply))

    def _make_world(self, foreign: bytes) -> _World | Ruling:
        contracts = dict(self.contracts)
        if foreign:
            contract = tool_pb2.ToolContract.FromString(foreign)
            contracts[contract.name] = contract
            problems = cedar_fit.check_fit(self.rules, list(contracts.values()))
            if problems:
                why = f"the rules do not fit the contract that it was planned under: {problems[0]}"
                return Ruling("refuse", (Reason("", why),))
        entities = cedar_question.entities_of(contracts.values())
        anything = cedar_schema.arguments_of_all(contracts.values())
        return _World(Entities.from_json_str(json.dumps(entities)), anything)

    def _add_people(self, foreign: bytes, tenant: str, users: frozenset[str]) -> Entities:
        """Return the tools and the few people that a question is about, and those whom rules name."""
        world = self._world(foreign)
        assert isinstance(world, _World)
        added = [self._user(name, tenant) for name in sorted(users | self._named_users)]
        return world.entities.with_added_json_str(json.dumps(added))

    def _user(self, name: str, tenant: str) -> dict[str, Any]:
        nobody = Person() if self.people else Person(frozenset({OWNER}))
        person = self.people.get(name, nobody)
        parents = [uid("Role", role) for role in sorted(person.roles)]
        return entity("User", name, [*parents, uid("Tenant", person.tenant or tenant)])


def _unshown(question: Question) -> Ruling:
    why = next(iter(question.unheld.values()))
    return Ruling("refuse", (Reason("", f"a rule looks at what it cannot be shown: {why}"),))


def _digest(
    files: Mapping[str, str], people: Mapping[str, Person], contracts: Mapping[str, tool_pb2.ToolContract]
) -> str:
    """Return the digest of everything that the answers rest on."""
    whole = [
        sorted(files.items()),
        [(name, sorted(person.roles), person.tenant) for name, person in sorted(people.items())],
        [contract.SerializeToString(deterministic=True).hex() for _, contract in sorted(contracts.items())],
    ]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()
