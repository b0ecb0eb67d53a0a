"""Names of spans, attributes and metrics: one name for one thing.

The GenAI names follow the conventions of github.com/open-telemetry/semantic-conventions-genai at commit
7e7e4e763354 (none is stable yet; `plan` and `invoke_workflow` came after the split from the general
conventions); messaging, RPC, error and service names follow the general semantic conventions 1.44.0. What
begins with `handrail.` is our own.
"""

from __future__ import annotations

GENAI_REVISION = "7e7e4e763354"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SCOPE = "handrail"
"""The instrumentation scope of every span of ours."""

# --- spans -------------------------------------------------------------------------------------------

SUBMIT = "handrail.v1.RunService/SubmitGoal"
INVOKE_WORKFLOW = "invoke_workflow"
PLAN = "plan"
MAKE_PLAN = "make_plan"
STEP = "step"
ATTEMPT = "attempt"
CHOOSE = "choose"
EXECUTE_TOOL = "execute_tool"
VERIFY = "verify"
HEAL = "heal"
GATE = "gate"
UNDO = "undo"

# --- attributes of the conventions -------------------------------------------------------------------

ERROR_TYPE = "error.type"

GENAI_OPERATION = "gen_ai.operation.name"
GENAI_WORKFLOW = "gen_ai.workflow.name"
GENAI_INPUT_MESSAGES = "gen_ai.input.messages"
GENAI_REQUEST_MODEL = "gen_ai.request.model"
GENAI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GENAI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GENAI_TOOL_NAME = "gen_ai.tool.name"
GENAI_TOOL_TYPE = "gen_ai.tool.type"
GENAI_TOOL_CALL_ID = "gen_ai.tool.call.id"
GENAI_TOOL_ARGUMENTS = "gen_ai.tool.call.arguments"
GENAI_TOOL_RESULT = "gen_ai.tool.call.result"

MESSAGING_SYSTEM = "messaging.system"
MESSAGING_DESTINATION = "messaging.destination.name"
MESSAGING_TEMPLATE = "messaging.destination.template"
MESSAGING_OPERATION = "messaging.operation.name"
MESSAGING_OPERATION_TYPE = "messaging.operation.type"
MESSAGING_MESSAGE_ID = "messaging.message.id"

RPC_SYSTEM = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS = "rpc.response.status_code"

SERVICE_NAME = "service.name"
SERVICE_NAMESPACE = "service.namespace"
SERVICE_INSTANCE = "service.instance.id"
SERVICE_VERSION = "service.version"

# --- attributes of our own ---------------------------------------------------------------------------

TENANT = "handrail.tenant"
RUN = "handrail.run.id"
RUN_STATUS = "handrail.run.status"
DRY_RUN = "handrail.run.dry_run"
STRAYS = "handrail.run.strays"
PLAN_ORIGIN = "handrail.plan.origin"
PLAN_STEPS = "handrail.plan.steps"
MODEL = "handrail.model"
MODEL_SURE = "handrail.model.sure"
MODEL_NEEDED = "handrail.model.needed"
STEP_ID = "handrail.step.id"
STEP_ROUTE = "handrail.step.route"
STEP_STATUS = "handrail.step.status"
ATTEMPT_ID = "handrail.attempt.id"
ATTEMPT_NUMBER = "handrail.attempt.number"
ATTEMPT_KIND = "handrail.attempt.kind"
ATTEMPT_OUTCOME = "handrail.attempt.outcome"
CLAIMER = "handrail.attempt.claimer"
TOOLBOX = "handrail.toolbox"
ACTION_KEY = "handrail.action.key"
HAPPENED = "handrail.action.happened"
CALLED = "handrail.action.called"
VERDICT_ROUND = "handrail.verdict.round"
VERDICT_OUTCOME = "handrail.verdict.outcome"
VERDICT_CONDITIONS = "handrail.verdict.conditions"
HEAL_STRATEGY = "handrail.heal.strategy"
HEAL_CAUSE = "handrail.heal.cause"
HEAL_TOOL = "handrail.heal.tool"
RULE = "handrail.choice.rule"
GATE_ID = "handrail.gate.id"
GATE_OUTCOME = "handrail.gate.outcome"
GATE_QUORUM = "handrail.gate.quorum"
GATE_ITEMS = "handrail.gate.items"
GATE_RULES = "handrail.gate.rules"
GATE_POLICY = "handrail.gate.policy"
APPROVERS = "handrail.gate.approvers"
UNDO_STEP = "handrail.undo.step"
UNDO_DRY_RUN = "handrail.undo.dry_run"
UNDO_COMPENSATIONS = "handrail.undo.compensations"
UNDO_MADE = "handrail.undo.made"
UNDO_STAYS = "handrail.undo.stays"
UNDO_OUTCOME = "handrail.undo.outcome"
UNDOES = "handrail.undo.undoes"
"""Of a compensation: the step, or item of a fan-out, whose effect it takes back."""
SUBMITTER = "handrail.submitter"
SEQUENCE = "handrail.log.sequence"
LOST = "handrail.lost"
OPEN = "handrail.open"
"""The span had not ended when it was drawn: its end is the last that is known."""
REASON = "handrail.reason"
MESSAGE = "handrail.message"
SEEN_DEAD = "handrail.attempt.seen_dead"
CONSUMER = "handrail.consumer"
STREAM = "handrail.stream"

# --- events of spans ---------------------------------------------------------------------------------

CLAIMED = "claimed"
ORPHANED = "orphaned"
REVOKED = "revoked"
LEFT_BEHIND = "left_behind"
IN_DOUBT = "in_doubt"
PROPOSAL_REFUSED = "proposal_refused"
DECIDED = "decided"
UNREADABLE = "unreadable"

# --- outcomes of an undo -----------------------------------------------------------------------------

UNDONE = "undone"
STAYS = "stays"
"""All was done that can be, and something cannot."""
GIVEN_UP = "given_up"
DRY = "dry_run"

# --- metrics -----------------------------------------------------------------------------------------

RUNS = "handrail.runs"
STEPS = "handrail.steps"
ACTIONS = "handrail.actions"
HEALS = "handrail.heals"
DOUBTS = "handrail.doubts"
UNDOS = "handrail.undos"
COMPENSATIONS = "handrail.compensations"
BACKLOG = "handrail.backlog"
NOTARY_LAG = "handrail.notary.lag"
NOTARY_LAG_AGE = "handrail.notary.lag.age"
NOTARY_STOPPED = "handrail.notary.stopped"
RUN_DURATION = "gen_ai.invoke_workflow.duration"
STEP_DURATION = "handrail.step.duration"
ACTION_DURATION = "gen_ai.execute_tool.duration"
VERIFY_DURATION = "handrail.verify.duration"

# --- logs --------------------------------------------------------------------------------------------

LOG_TRACE = "trace_id"
LOG_RUN = "run"
LOG_STEP = "step"
LOG_ATTEMPT = "attempt"


def service(role: str, prefix: str = "handrail") -> str:
    """Name the service that a role is ("gateway", "worker-backoffice" ...)."""
    return f"{prefix}-{role}"
