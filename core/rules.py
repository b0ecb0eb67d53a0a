"""The policy as one look at a run asks it: may this action be done, must a human see it first, was it seen?

What waits for a human is gathered, so that the actions of one step become one gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import gates
from core.moves import Move
from core.policy import Policy, Request, Ruling
from core.state import Gate, Instance, RunState
from handrail.v1 import tool_pb2


@dataclass(frozen=True, slots=True)
class Rules:
    """The policy, and the run that it is asked about."""

    state: RunState
    policy: Policy
    now_ns: int
    gate_life_ns: int

    def rule(
        self,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        unknown: frozenset[str] = frozenset(),
    ) -> Ruling:
        """Ask about an action, of which some arguments may not be known yet."""
        return self.policy.rule(self._request(contract, arguments, unknown))

    def gated(
        self,
        instance: Instance,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        ruling: Ruling,
    ) -> gates.Gated | None:
        """Return what must be approved before an action is done; None where it has been."""
        request = self._request(contract, arguments)
        found = gates.item(self.state, instance.id, request, self.policy.version)
        return None if found.binding in instance.approved else gates.Gated(found, ruling)

    def open(self, gated: Mapping[str, Sequence[gates.Gated]]) -> list[Move]:
        """Open the gates for what was gathered, by step."""
        return gates.open_gates(self.state, gated, self.policy.version, self.now_ns, self.gate_life_ns)

    def judge(self, gate: Gate, contents: Mapping[str, str]) -> list[Move]:
        """Return what becomes of an open gate."""
        requests = []
        for item in gate.opened.items:
            contract, arguments = self.state.contracts[item.tool], gates.arguments_of(item, contents)
            requests.append(self._request(contract, arguments, untrusted=frozenset(item.untrusted)))
        return gates.judge(self.state, gate, requests, self.policy, self.now_ns)

    def _request(
        self,
        contract: tool_pb2.ToolContract,
        arguments: Mapping[str, Any],
        unknown: frozenset[str] = frozenset(),
        untrusted: frozenset[str] = frozenset(),
    ) -> Request:
        return Request(
            user=self.state.goal.submitter,
            tenant=self.state.key.tenant,
            contract=contract,
            arguments=arguments,
            unknown=unknown,
            untrusted=untrusted,
            actions=self.state.actions,
            now_ns=self.now_ns,
        )
