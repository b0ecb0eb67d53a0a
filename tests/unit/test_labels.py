"""Labels: what is called trusted cannot be moved by whoever writes what tools return."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import values
from core.contracts import check
from core.labels import CHOICE, EACH, TRUSTED, WHEN, Label, Labels, labels_of, split_endorsed
from core.plan import parse_reference, resolve
from core.plan_form import plan_from_form
from core.schemas import compile_schema, is_closed
from handrail.tool import Contract
from handrail.v1 import plan_pb2, tool_pb2

LOOK = tool_pb2.ToolContract(name="look", endorses=["id", "items[].id"])
BLIND = tool_pb2.ToolContract(name="blind")
CONTRACTS = {"look": LOOK, "blind": BLIND}


def labels(*steps: dict[str, Any], **more: tool_pb2.ToolContract) -> Labels:
    return Labels(plan_from_form({"steps": list(steps)}), {**CONTRACTS, **more})


def step(id: str, tool: str = "look", **arguments: Any) -> dict[str, Any]:
    return {"id": id, "tool": tool, "with": arguments}


def untrusted(found: Labels, id: str) -> set[str]:
    return {name for name, label in found.of_action(id).items() if label.untrusted}


def test_what_the_user_wrote_is_trusted() -> None:
    found = labels(step("a", x=1, y="$goal.name", z="text"))
    assert found.of_action("a") == {"x": TRUSTED, "y": TRUSTED, "z": TRUSTED}


@pytest.mark.parametrize(
    ("reference", "bad"),
    [
        ("$a.id", False),
        ("$a.text", True),
        ("$a", True),
        ("$a.items", True),
        ("$a.items[3].id", False),
        ("$a.items[3].text", True),
        ("$a.items[3]", True),
        ("$a.idea", True),
    ],
)
def test_what_a_tool_returns_is_untrusted_but_for_what_it_endorses(reference: str, bad: bool) -> None:
    found = labels(step("a", x=1), step("b", y=reference)).of_action("b")["y"]
    assert found == Label(bad, frozenset({"a"}))


def test_whoever_chooses_the_question_chooses_the_answer() -> None:
    found = labels(step("a"), step("b", x="$a.text"), step("c", y="$b.id"))
    assert found.of_action("c")["y"] == Label(True, frozenset({"a", "b"}))


def test_a_condition_taints_what_it_guards() -> None:
    guarded = {**step("b", x=1), "when": "a.text == 'go'"}
    found = labels(step("a"), guarded, step("c", y="$b.id"))
    assert untrusted(found, "b") == {WHEN}
    assert untrusted(found, "c") == {"y"}
    assert not untrusted(labels(step("a"), {**step("b"), "when": "a.id > 3"}, step("c", y="$b.id")), "c")


def test_an_item_is_as_its_list() -> None:
    fan = {**step("b", x="$each.id", y="$each.text"), "each": "$a.items"}
    found = labels(step("a"), fan, step("c", z="$b[0].id"), step("d", z="$b"))
    assert untrusted(found, "b") == {"y"}
    # What each was asked with was untrusted in part, and so is each answer.
    assert untrusted(found, "c") == {"z"}
    assert untrusted(found, "d") == {"z"}


def test_the_items_of_a_fan_out_are_labelled_one_by_one() -> None:
    fan = {**step("b", x="$each.id"), "each": "$a.items"}
    then = {**step("c", x="$each.id", y="$each.text"), "each": "$b"}
    found = labels(step("a"), fan, then, step("d", z="$b[0].id"))
    assert untrusted(found, "c") == {"y"}
    assert not untrusted(found, "d")


def test_a_list_asked_for_with_untrusted_words_taints_how_often() -> None:
    fan = {**step("c", x=1), "each": "$b.items"}
    assert untrusted(labels(step("a"), step("b", q="$a.text"), fan), "c") == {EACH}


@pytest.mark.parametrize(
    ("endorses", "each", "bad"),
    [
        ([], "$a.items", True),
        (["id"], "$a.items", True),
        (["itemsize[].id"], "$a.items", True),
        (["items[].id"], "$a.items", False),
        (["items[].who.id"], "$a.items", False),
        (["items[]"], "$a.items", False),
        (["items[].id"], "$a.items[0].parts", True),
        (["items[].parts[].id"], "$a.items[0].parts", False),
        (["[]"], "$a", False),
        (["[].id"], "$a", False),
    ],
)
def test_who_answers_for_nothing_in_an_item_does_not_say_how_many_there_are(
    endorses: list[str], each: str, bad: bool
) -> None:
    tool = tool_pb2.ToolContract(name="look", endorses=endorses)
    fan = {**step("b", x=1), "each": each}
    found = labels(step("a"), fan, look=tool)
    assert found.of_action("b")[EACH] == Label(bad, frozenset({"a"}))
    # A fan-out over what this one has returned is done as often as this one.
    then = {**step("c", x=1), "each": "$b"}
    again = labels(step("a"), fan, then, look=tool)
    assert again.of_action("c")[EACH] == Label(bad, frozenset({"a", "b"}))


def test_items_of_the_goal_are_the_users() -> None:
    assert not untrusted(labels({**step("a", x="$each.name"), "each": "$goal.people"}), "a")


def test_the_worst_rule_counts_and_so_does_what_chose_it() -> None:
    choose = {
        "id": "b",
        "with": {"age": "$a.id", "mood": "$a.text"},
        "choose": [
            {"when": "input.age > 3", "tool": "look", "with": {"x": "$input.age"}},
            {"tool": "blind", "with": {"x": "$input.mood"}},
        ],
    }
    found = labels(step("a"), choose)
    assert untrusted(found, "b") == {"x"}
    choose["choose"][0]["when"] = "input.mood == 'bad'"  # type: ignore[index]
    assert untrusted(labels(step("a"), choose), "b") == {"x", CHOICE}


@pytest.mark.parametrize(
    "when",
    [
        "input['mood'] == 'bad'",
        "input[ 'mo' + 'od' ] == 'bad'",
        "input.exists(key, key == 'mood')",
        "input == {'age': 3, 'mood': 'bad'}",
        "input.age > 3 && size(input['mood']) > 2",
    ],
)
def test_a_rule_that_looks_at_its_input_as_a_whole_may_look_at_any_of_it(when: str) -> None:
    choose = {
        "id": "b",
        "with": {"age": "$a.id", "mood": "$a.text"},
        "choose": [{"when": when, "tool": "look", "with": {"x": 1}}, {"tool": "look", "with": {"x": 2}}],
    }
    found = labels(step("a"), choose, step("c", y="$b.id"))
    assert untrusted(found, "b") == {CHOICE}
    assert untrusted(found, "c") == {"y"}


def test_whatever_may_stand_in_counts() -> None:
    first = tool_pb2.ToolContract(name="first", capability="look", endorses=["id"])
    second = tool_pb2.ToolContract(name="second", capability="look")
    alone = labels(step("a", "first"), step("b", x="$a.id"), first=first)
    both = labels(step("a", "first"), step("b", x="$a.id"), first=first, second=second)
    assert not untrusted(alone, "b")
    assert untrusted(both, "b") == {"x"}


def test_they_are_kept_with_their_plan() -> None:
    plan = plan_from_form({"steps": [step("a")]})
    assert labels_of(plan, CONTRACTS) is labels_of(plan, CONTRACTS)
    assert labels_of(plan, dict(CONTRACTS)) is not labels_of(
        plan_from_form({"steps": [step("a")]}), CONTRACTS
    )


# --- the law ---------------------------------------------------------------------------------------------

PATHS = st.sampled_from(["", ".id", ".text", ".items", ".items[0]", ".items[0].id", ".items[1].text"])


@st.composite
def plans(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Steps that take constants and parts of what earlier ones return."""
    made: list[dict[str, Any]] = []
    for n in range(draw(st.integers(2, 6))):
        arguments: dict[str, Any] = {}
        for name in ("x", "y"):
            arguments[name] = draw(st.integers(0, 3))
            if made and draw(st.booleans()):
                source = draw(st.sampled_from(made))
                index = "[0]" if "each" in source and draw(st.booleans()) else ""
                path = draw(PATHS) if index or "each" not in source else ""
                arguments[name] = f"${source['id']}{index}{path}"
        one = step(f"s{n}", draw(st.sampled_from(["look", "blind"])), **arguments)
        single = [other for other in made if "each" not in other]
        if single and draw(st.integers(0, 3)) == 0:
            one["each"] = f"${draw(st.sampled_from(single))['id']}.items"
            one["with"]["x"] = "$each" + draw(st.sampled_from(["", ".id", ".text"]))
        made.append(one)
    return made


@settings(max_examples=300)
@given(steps=plans(), worlds=st.tuples(st.integers(0, 9), st.integers(10, 19)))
def test_what_is_trusted_is_the_same_whatever_outsiders_write(
    steps: list[dict[str, Any]], worlds: tuple[int, int]
) -> None:
    """Two worlds that differ only in what is not endorsed agree on every trusted argument."""
    plan = plan_from_form({"steps": steps})
    found = Labels(plan, CONTRACTS)
    first, second = (_live(plan, world) for world in worlds)
    for one in plan.steps:
        for name, label in found.of_action(one.id).items():
            if name in one.arguments and not label.untrusted:
                assert all(a[name] == b[name] for a, b in zip(first[one.id], second[one.id], strict=False))
            if name == EACH and not label.untrusted:
                assert len(first[one.id]) == len(second[one.id])


@settings(max_examples=300)
@given(steps=plans(), worlds=st.tuples(st.integers(0, 9), st.integers(10, 19)))
def test_what_does_not_leak_is_the_same_whatever_is_secret(
    steps: list[dict[str, Any]], worlds: tuple[int, int]
) -> None:
    """Two worlds that differ in what the public may not read agree on all that it may be shown."""
    blind = tool_pb2.ToolContract()
    blind.CopyFrom(CONTRACTS["blind"])
    blind.readers.append("staff")
    plan = plan_from_form({"steps": steps})
    found = Labels(plan, {**CONTRACTS, "blind": blind})
    first, second = (_live(plan, world, secret=True) for world in worlds)
    for one in plan.steps:
        for name, label in found.of_action(one.id).items():
            if name in one.arguments and not label.leaks_to(["public"]):
                assert all(a[name] == b[name] for a, b in zip(first[one.id], second[one.id], strict=False))
            if name == EACH and not label.leaks_to(["public"]):
                assert len(first[one.id]) == len(second[one.id])


def test_who_may_read_what_is_made_of_both_may_read_either() -> None:
    staff, team = Label(readers=frozenset({"staff", "team"})), Label(readers=frozenset({"team", "boss"}))
    assert staff.join(team).readers == frozenset({"team"})
    assert Label().join(staff).readers == staff.join(Label()).readers == staff.readers
    assert not staff.leaks_to(["staff"])
    assert staff.leaks_to(["staff", "public"])
    assert staff.join(Label(readers=frozenset({"boss"}))).leaks_to(["staff"])
    assert not Label().leaks_to(["public"])
    assert not staff.leaks_to([])


def _live(plan: plan_pb2.Plan, world: int, *, secret: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Return what each step was called with, in a world where outsiders write what `world` says."""
    outputs: dict[str, Any] = {}
    calls: dict[str, list[dict[str, Any]]] = {}
    for one in plan.steps:
        items: list[Any] = [None]
        if one.each:
            items = _follow(one.each, outputs)
        calls[one.id] = [
            {
                name: values.load(held.constant, {})
                if held.WhichOneof("form") == "constant"
                else _follow(held.reference, {**outputs, "each": item})
                for name, held in one.arguments.items()
            }
            for item in items
        ]
        answers = [_answer(one.tool, call, world, secret) for call in calls[one.id]]
        outputs[one.id] = answers if one.each else answers[0]
    return calls


def _follow(text: str, outputs: dict[str, Any]) -> Any:
    reference = parse_reference(text)
    return resolve(reference, outputs)


def _answer(tool: str, call: dict[str, Any], world: int, secret: bool) -> dict[str, Any]:
    """An honest tool: what it endorses follows from what it is asked, the rest is somebody else's.

    Of a list whose items nobody answers for, somebody else says how long it is.

    Of secrets the world decides what the blind one returns, and nothing else.
    """
    asked = zlib.crc32(values.encode(call).encode()) % 1000
    world = 0 if secret and tool == "look" else world
    mine = asked if tool == "look" else asked + world
    text = f"written in {world}"
    return {"id": mine, "text": text, "items": [{"id": mine + n, "text": text} for n in range(2 + mine % 3)]}


# --- endorsing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        ('{"type":"integer"}', True),
        ('{"type":"boolean"}', True),
        ('{"type":"number"}', False),
        ('{"type":"number","minimum":0,"maximum":1}', True),
        ('{"type":"string"}', False),
        ('{"type":"string","maxLength":5}', False),
        ('{"enum":["open","closed"]}', True),
        ('{"const":"x"}', True),
        ('{"type":"string","format":"date"}', True),
        ('{"type":"string","format":"email"}', False),
        ('{"type":"string","pattern":"^[A-Z]{3}$"}', True),
        ('{"type":"string","pattern":"^[A-Z]+$"}', False),
        ('{"type":"string","pattern":"^[A-Z]{3,}$"}', False),
        ('{"type":"string","pattern":"[A-Z]{3}"}', False),
        ('{"type":"string","pattern":"^.{3}$"}', False),
        ('{"type":"string","pattern":"^[^A]{3}$"}', False),
        ('{"type":"string","pattern":"^A$|.*"}', False),
        ('{"type":["integer","null"]}', True),
        ('{"anyOf":[{"type":"integer"},{"type":"string"}]}', False),
        ('{"type":"array","items":{"type":"integer"}}', True),
        ('{"type":"array"}', False),
        ('{"type":"object","properties":{"minor":{"type":"integer"}}}', True),
        ('{"type":"object","properties":{"minor":{"type":"integer"}},"additionalProperties":true}', False),
        ('{"type":"object"}', False),
        ("{}", False),
        ('{"$defs":{"a":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}', False),
    ],
)
def test_only_what_cannot_hold_free_text_is_closed(schema: str, closed: bool) -> None:
    assert is_closed(compile_schema(schema).nodes) == closed


@pytest.mark.parametrize(
    ("endorsed", "code"),
    [
        ("id", None),
        ("items[].id", None),
        ("text", "unsafe_endorsement"),
        ("items", "unsafe_endorsement"),
        ("items[].text", "unsafe_endorsement"),
        ("idd", "unknown_endorsed"),
        ("", "unknown_endorsed"),
    ],
)
def test_a_contract_cannot_endorse_text_or_what_there_is_not(endorsed: str, code: str | None) -> None:
    item = {"type": "object", "properties": {"id": {"type": "integer"}, "text": {"type": "string"}}}
    output = {**item, "properties": {**item["properties"], "items": {"type": "array", "items": item}}}  # type: ignore[dict-item]
    contract = Contract(
        name="look",
        toolbox="box",
        input_schema={"type": "object"},
        output_schema=output,
        effect="read",
        permission="read",
        idempotency="natural",
        endorses=(endorsed,),
    )
    assert [found.code for found in check([contract])] == ([code] if code else [])


def test_a_path_is_split_as_it_is_read() -> None:
    assert split_endorsed("orders[].total.minor") == ("orders", "[]", "total", "minor")
    assert split_endorsed("[].id") == ("[]", "id")
