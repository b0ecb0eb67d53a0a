"""Several plans as one: every name leads where it led, and nothing is done before what stands before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import conformance
from core import plan as graph
from core.conditions import ConditionError, holds, renamed
from core.joining import CannotJoin, Part, joined
from core.playbook import Playbook, instantiate
from handrail import project
from handrail.v1 import event_pb2, plan_pb2, tool_pb2

LOADED = project.load(Path(__file__).parents[2] / "examples" / "backoffice")
PLAYBOOKS = {one.name: one for one in LOADED.playbooks}


def part(name: str, playbook: str, *, acts: bool = True) -> Part:
    found: Playbook = PLAYBOOKS[playbook]
    return Part(name, instantiate(found, {n: slot.sample for n, slot in found.slots.items()}), acts)


def read(name: str, tool: str = "get_order", **arguments: str) -> Part:
    plan = plan_pb2.Plan(title=tool)
    step = plan.steps.add(id=name, tool=tool)
    for key, text in arguments.items():
        if text.startswith("$"):
            step.arguments[key].reference = text
        else:
            step.arguments[key].constant.json = text
    return Part(name, plan, acts=False)


def test_one_plan_stays_what_it_is() -> None:
    one = part("s1", "refund")
    assert joined([one]) == one.plan


@pytest.mark.parametrize("first", sorted(PLAYBOOKS))
@pytest.mark.parametrize("second", ["refund", "apologise_late"])
def test_any_two_playbooks_make_a_plan_that_conforms(first: str, second: str) -> None:
    whole = joined([part("s1", first), part("s2", second)])
    assert {step.id.split("_")[0] for step in whole.steps} == {"s1", "s2"}
    needs = graph.dependencies(whole)
    assert needs.keys() >= {need for needed in needs.values() for need in needed}
    goal = event_pb2.Goal(context=plan_pb2.Value(blob=plan_pb2.Blob()), ceiling=tool_pb2.PERMISSION_ADMIN)
    found = conformance.check_plan(whole, LOADED.protos, goal=goal, limits=conformance.Limits())
    # A sample is no word that a schema lists.
    assert {one.code for one in found} <= {"bad_argument"}
    earlier = {step.id for step in whole.steps if step.id.startswith("s1_")}
    for step in whole.steps:
        if step.id.startswith("s2_"):
            assert reached(step.id, needs) >= earlier


def reached(start: str, needs: dict[str, frozenset[str]]) -> set[str]:
    found: set[str] = set()
    pending = [start]
    while pending:
        for need in needs[pending.pop()]:
            if need not in found:
                found.add(need)
                pending.append(need)
    return found


def test_what_only_reads_waits_for_nothing_but_its_data() -> None:
    whole = joined([read("s1"), read("s2", "get_customer", customer_id="$s1.customer_id"), read("s3")])
    assert [list(step.after) for step in whole.steps] == [[], [], []]
    whole = joined([read("s1"), part("s2", "note"), read("s3"), read("s4"), part("s5", "note")])
    by_id = {step.id: step for step in whole.steps}
    # What is looked at after something was done shows what became of it.
    assert list(by_id["s3"].after) == list(by_id["s4"].after) == ["s2_note"]
    assert reached(whole.steps[-1].id, graph.dependencies(whole)) >= {"s1", "s3", "s4"}
    whole = joined([read("s1"), read("s2"), part("s3", "note")])
    (first, *_) = (step for step in whole.steps if step.id.startswith("s3"))
    assert list(first.after) == ["s1", "s2"]


def test_a_title_says_each_thing_once_and_holds_as_much_as_it_may() -> None:
    parts = [read(f"s{n}", order_id=f"100{n}") for n in range(1, 7)]
    assert joined(parts).title == "get_order"
    for number, one in enumerate(parts):
        one.plan.title = f"{number} {'x' * 60}"
    whole = joined(parts)
    goal = event_pb2.Goal(ceiling=tool_pb2.PERMISSION_ADMIN)
    assert not conformance.check_plan(whole, LOADED.protos, goal=goal, limits=conformance.Limits())


def test_a_part_with_bounds_of_its_own_stands_alone() -> None:
    bounded = part("s1", "refund")
    bounded.plan.budget.max_spend["EUR"] = 100
    assert joined([bounded]) == bounded.plan
    with pytest.raises(CannotJoin, match="bounds of its own: ask for it by itself"):
        joined([bounded, part("s2", "refund")])


def test_a_name_that_would_be_too_long_is_refused() -> None:
    with pytest.raises(CannotJoin, match="too long"):
        joined([read("s1"), Part("s2", read("x" * 62).plan, acts=False)])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a.b == 1", "z_a.b == 1"),
        ("b.a == a.a && a.size() > 0", "b.a == z_a.a && z_a.size() > 0"),
        ("size(a) in [1, 2] || 'a' in b", "size(z_a) in [1, 2] || 'a' in b"),
        ("a.all(x, x.a > 0)", "z_a.all(x, x.a > 0)"),
        ('b == "a" // a', 'b == "a"'),
        ("has(a.b) ? a.b : -1", "has(z_a.b) ? z_a.b : -1"),
        ("a[0].a == [a][0]", "z_a[0].a == [z_a][0]"),
        ("goal.a in a", "goal.a in z_a"),
    ],
)
def test_a_condition_means_the_same_under_other_names(before: str, after: str) -> None:
    told = renamed(before, {"a": "z_a"})
    assert "".join(told.split()) == "".join(after.split())


def test_renamed_conditions_hold_where_they_held() -> None:
    for expression in ("a in b", "!a.exists(x, x in b) || -1 < size(a)", "a == b ? true : a != b && true"):
        told = renamed(expression, {"a": "first", "b": "second"})
        for a in ([1], [2], []):
            scope = {"a": a, "b": [[1], 1]}
            assert holds(expression, scope) == holds(told, {"first": a, "second": scope["b"]})


def test_what_a_condition_binds_is_not_renamed() -> None:
    for expression in ("b.all(a, a > 0)", "b.all(z_a, z_a > a)"):
        with pytest.raises(ConditionError, match="cannot be renamed"):
            renamed(expression, {"a": "z_a"})
