"""The policy of the hijack test, and others that differ from it in a rule."""

from __future__ import annotations

from core.cedar import CedarPolicy
from handrail.project import Project

WORDS_GATED = """
@id("untrusted_words")
@reason("what is said in her name was read from data that outsiders can write")
forbid (principal, action in Action::"at_most_execute", resource)
when {
    context.untrusted.containsAny(["body", "content", "subject"]) &&
    (resource in Toolbox::"slack" || resource in Toolbox::"mail")
}
unless { context.approvals >= 1 };
"""


def with_words_gated(project: Project) -> CedarPolicy:
    """Return the policy that asks about words too, wherever they are said to others."""
    files = {**project.policy_files.rules, "policy/words.cedar": WORDS_GATED}
    return CedarPolicy(files, project.policy.people, project.protos.values())
