"""Who calls: a name, a tenant, roles, and what each role may call.

What somebody may do with a tool is the policy's business; roles only bound which calls are answered at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import HandrailError

ADMIN = "admin"
LOOKERS = frozenset({"submitter", "approver", "operator", "auditor", ADMIN})
ROLES = tuple(sorted(LOOKERS))
TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DEFAULT_TENANT = "default"

_LOOKS = (
    "RunService/GetRun",
    "RunService/ListRuns",
    "RunService/WatchRun",
    "GateService/ListGates",
    "GateService/GetGate",
    "GateService/GetGateValue",
    "GateService/WatchGates",
    "ToolService/ListTools",
    "ToolService/GetTool",
    "AuthService/WhoAmI",
)
_DOES: Mapping[str, frozenset[str]] = {
    "RunService/SubmitGoal": frozenset({"submitter", ADMIN}),
    "RunService/CancelRun": frozenset({"submitter", "operator", ADMIN}),
    "RunService/PauseRun": frozenset({"operator", ADMIN}),
    "RunService/ResumeRun": frozenset({"operator", ADMIN}),
    "RunService/UndoRun": frozenset({"operator", ADMIN}),
    "RunService/ForgetRun": frozenset({ADMIN}),
    "GateService/DecideGate": frozenset({"approver", ADMIN}),
    "AuditService/ShowRun": frozenset({"auditor", ADMIN}),
    "AuditService/ExportRun": frozenset({"auditor", ADMIN}),
}
STEERERS = frozenset({"operator", ADMIN})
"""Who may cancel a run of somebody else."""
PACKAGE = "/handrail.v1."
CALLS: Mapping[str, frozenset[str]] = {**dict.fromkeys(_LOOKS, LOOKERS), **_DOES}
"""Each call, and the roles of which one is needed. What is not in it nobody may call."""


def markdown() -> str:
    """Return the table of calls for the documentation."""
    head = ["| call | " + " | ".join(ROLES) + " |", "|---|" + "---|" * len(ROLES)]
    rows = [
        f"| `{call}` | " + " | ".join("yes" if role in roles else "" for role in ROLES) + " |"
        for call, roles in CALLS.items()
    ]
    return "\n".join([*head, *rows]) + "\n"


class BadToken(HandrailError):
    """A token that is not believed, and why."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as their token says."""

    name: str
    roles: frozenset[str]
    tenant: str = DEFAULT_TENANT
    # When the token ends; 0 is never.
    ends_ns: int = 0
    # What the token calls itself ("jti"), where it does.
    token_id: str = ""

    @property
    def speaks_for_all(self) -> bool:
        """Whether what they do may be done in another name."""
        return ADMIN in self.roles

    def may(self, method: str) -> bool:
        """Whether a gRPC method, "/package.Service/Call", may be called."""
        if method.startswith(PACKAGE):
            return not self.roles.isdisjoint(CALLS.get(method.removeprefix(PACKAGE), ()))
        # Reflection tells what there is to call, and nothing else.
        return bool(self.roles)
