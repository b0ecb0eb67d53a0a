"""What a model behind an endpoint answers: a plan or a proposal that fits, or words."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from actors.models import Goal, Task
from actors.models.openai.endpoint import MAX_ANSWER_BYTES, Endpoint, EndpointError
from actors.models.openai.proposing import propose
from actors.models.openai.thinking import Offer, think
from core import conformance, values
from core.plan_form import plan_from_form
from handrail.project import limits_of, load
from handrail.v1 import event_pb2, tool_pb2
from tests.acceptance.conftest import ROOT
from tests.fuzz.campaign import Campaign, Trial
from tests.fuzz.mutate import Mutator
from tests.openai_endpoint import call, message

DAY = datetime.date(2026, 3, 2)
CONTEXT = {"order": 1004, "mail": "please call me", "nested": {"a": [1, None]}}
GOAL = "look order 1004 up, give 12.50 EUR back, note 'she called' and tell ada@example.com tomorrow at 3pm"
PLANS: tuple[tuple[tuple[str, Any], ...], ...] = (
    (
        ("get_order", {"order_id": 1004}),
        ("add_note", {"customer_id": "$s1.customer_id", "text": "she called"}),
        ("playbook_partial_refund", {"order": "$goal.order", "amount": "12.50 EUR"}),
    ),
    (("refund_order", {"order_id": 1004, "amount": {"minor": 1250, "currency": "EUR"}, "reason": None}),),
    (("list_orders", {"customer_id": None, "status": "paid", "limit": 5}), ("nothing", {"reason": "?"})),
)
STEPS: tuple[tuple[str, Any], ...] = (
    ("add_note", {"text": "please call me"}),
    ("refund_order", {"amount": {"minor": 400, "currency": "EUR"}, "reason": None}),
    ("list_orders", {"status": "paid", "limit": None}),
)


class Told(Endpoint):
    """Answers what it was told, without asking anybody."""

    answer: bytes = b""

    def ask(self, question: Mapping[str, Any]) -> Any:
        try:
            return values.decode(self.answer.decode())
        except (UnicodeDecodeError, values.BadValue):
            raise EndpointError("not JSON") from None


def told(answer: bytes) -> Told:
    made = Told("http://127.0.0.1:1/v1", "fuzz/model")
    object.__setattr__(made, "answer", answer[:MAX_ANSWER_BYTES])
    return made


def made_wrong(m: Mutator, calls: list[tuple[str, Any]]) -> bytes:
    """An answer in which the arguments, the calls or the whole are wrong, or which is not even JSON."""
    kind = m.chance.random()
    if kind < 0.5:
        calls = [(m.text(name) if m.maybe(0.1) else name, m.value(given)) for name, given in calls]
    said = message(tool_calls=[call(name, json.dumps(given)) for name, given in calls])
    if kind > 0.4:
        said = m.value(said)
    data = json.dumps(said).encode()
    return m.data(data) if kind > 0.9 else data


@contextmanager
def plans() -> Iterator[Trial]:
    """A plan that would be accepted, or a reason for none; the log takes either."""
    loaded = load(ROOT / "examples" / "backoffice")
    offer = Offer(loaded.protos, {one.name: one for one in loaded.playbooks}, limits_of(loaded.settings))
    goal = Goal(GOAL, CONTEXT, DAY)
    asked = event_pb2.Goal(context=values.inline(CONTEXT), ceiling=tool_pb2.PERMISSION_ADMIN)

    def check(answer: bytes) -> None:
        with suppress(EndpointError):
            made = think(told(answer), offer, goal)
            found = event_pb2.PlanAnswer(thought=made.told("openai:fuzz/model"))
            if made.plan is None:
                assert made.reason, "there is no plan, and nobody says why"
                found.no_plan.reason = made.reason
            else:
                wrong = conformance.check_plan(made.plan, offer.contracts, goal=asked, limits=offer.limits)
                assert not wrong, wrong
                found.plan.CopyFrom(made.plan)
            found.SerializeToString()

    yield Trial(lambda m: made_wrong(m, list(m.of(PLANS))), check)


@contextmanager
def proposals() -> Iterator[Trial]:
    """A call of what is open in one of the grants, or a reason for none."""
    loaded = load(ROOT / "examples" / "backoffice")
    form = {
        "steps": [
            {
                "id": "step",
                "title": "Do what the customer asks",
                "grants": [
                    {"tool": "add_note", "with": {"customer_id": 4}, "open": {"text": "size(value) < 60"}},
                    {
                        "tool": "refund_order",
                        "with": {"order_id": 4},
                        "open": {"amount": "value.minor < 500", "reason": ""},
                    },
                    {"tool": "list_orders", "open": {"status": "", "limit": ""}},
                ],
            }
        ]
    }
    step = plan_from_form(form).steps[0]
    task = Task(step.title, tuple(step.grants), {"mail": CONTEXT["mail"], "order": {"id": 4}}, DAY)

    def check(answer: bytes) -> None:
        with suppress(EndpointError):
            found = propose(told(answer), task, loaded.protos)
            found.SerializeToString()
            if found.HasField("call"):
                grant = task.grants[found.call.grant]
                assert grant.tool == found.call.tool
                assert found.call.arguments.keys() <= grant.open.keys()
            else:
                assert found.failure.message

    yield Trial(lambda m: made_wrong(m, [m.of(STEPS)]), check)


CAMPAIGNS = (
    Campaign("model_plans", 1.0, plans),
    Campaign("model_steps", 0.75, proposals),
)
