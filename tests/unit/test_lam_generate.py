"""Rows made of a grammar: what they say can be read in their goals, and there are enough of every kind."""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
from google.protobuf import json_format

from actors.models.lam import generate, granted, inputs, noise, recipes, sheets
from actors.models.lam.generate import FOR_EACH, IN_A_ROW, SHARES, STEPS, rows
from actors.models.lam.generic import BEHIND, beside, spoken
from actors.models.lam.grammar import BadGrammar, Grammar, Said, Steps, Typing, load_grammar, read_grammar
from actors.models.lam.options import Option, OutputField, Parameter, options_of
from actors.models.lam.reading import read_for
from actors.models.lam.several import JOINT
from actors.models.lam.templates import Draw
from actors.models.lam.text import MAX_TOKENS, tokens_of
from core import values
from handrail.cli import init
from handrail.project import load
from handrail.v1 import tool_pb2
from handrail.v1 import trajectory_pb2 as pb

SAMPLE = Path(__file__).parents[2] / "examples" / "backoffice"
MONDAY = datetime.date(2026, 3, 2)
TRAJECTORIES = 4_000


@functools.cache
def options(project: Path = SAMPLE) -> tuple[Option, ...]:
    loaded = load(project)
    return options_of(loaded.protos, loaded.playbooks)


@functools.cache
def grammar() -> Grammar:
    return load_grammar(SAMPLE / "lam" / "grammar.yaml")


@functools.cache
def general_grammar() -> Grammar:
    return load_grammar()


@functools.cache
def sample_recipes() -> recipes.Recipes:
    return recipes.Recipes(options(), grammar())


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile the sample's grammar once, which takes a second: nothing of what is drawn is kept in it."""

    def compiled(chosen: Any, said: Grammar) -> recipes.Recipes:
        return (
            sample_recipes() if said is grammar() and chosen is options() else recipes.Recipes(chosen, said)
        )

    monkeypatch.setattr(generate, "Recipes", compiled)


def make(
    seed: int = 1, trajectories: int = TRAJECTORIES, among: Any = None, said: Grammar | None = None
) -> list[pb.TrajectoryRow]:
    chosen = options() if among is None else among
    return list(rows(chosen, said or grammar(), seed=seed, trajectories=trajectories, today=MONDAY))


@functools.cache
def sample_rows() -> tuple[pb.TrajectoryRow, ...]:
    return tuple(make())


def trajectories(made: Any) -> dict[str, list[pb.TrajectoryRow]]:
    found = defaultdict(list)
    for row in made:
        found[row.trajectory].append(row)
    return found


def option(name: str, *parameters: Parameter, fields: tuple[OutputField, ...] = ()) -> Option:
    return Option(name, "Do it.", tool_pb2.EFFECT_WRITE, parameters, fields, "0" * 64)


def check_rows(made: Any, among: tuple[Option, ...]) -> None:
    """Hold what every row must hold, wherever it comes from."""
    known = {one.name: one for one in among}
    for name, steps in trajectories(made).items():
        assert [row.index for row in steps] == list(range(len(steps))), name
        before: list[tuple[str, pb.OptionCall]] = []
        for row in steps:
            today = row.said_at.ToDatetime().date()
            assert MONDAY <= today < MONDAY + datetime.timedelta(days=365)
            assert [(one.id, one.call) for one in row.past] == before
            assert row.pattern
            assert row.goal.strip()
            if not row.decision.HasField("call"):
                assert row is steps[-1]
                continue
            call = row.decision.call
            taken = known[call.option]
            required = {one.name for one in taken.parameters if one.required}
            assert required <= {*call.arguments, *call.missing}, row.goal
            assert not set(call.arguments) & set(call.missing)
            for parameter, argument in call.arguments.items():
                check_argument(row, taken, parameter, argument, today, dict(before), known)
            before.append((f"s{len(before) + 1}", call))


def check_argument(
    row: pb.TrajectoryRow,
    taken: Option,
    name: str,
    argument: pb.FilledArgument,
    today: datetime.date,
    before: dict[str, pb.OptionCall],
    known: dict[str, Option],
) -> None:
    parameter = taken.parameter(name)
    assert parameter is not None, (taken.name, name)
    source = argument.WhichOneof("source")
    if source == "field":
        assert not argument.HasField("value")
        earlier = known[before[argument.field.step].option]
        assert argument.field.path in {one.path for one in earlier.fields}, (earlier.name, argument)
        return
    if source == "context":
        # A grant fixes it: whatever the words say, it is not to be filled in.
        assert row.offered
        assert not argument.HasField("value")
        return
    value = values.load(argument.value, {})
    if source == "enumerated":
        assert value in parameter.choices
        return
    assert source == "span"
    text = row.goal[argument.span.start : argument.span.end]
    assert text == text.strip() != ""
    assert read_for(parameter, text, (0, len(text)), today)[0] == value, (row.goal, name, text)


def test_the_same_seed_makes_the_same_bytes() -> None:
    first = [row.SerializeToString(deterministic=True) for row in sample_rows()]
    again = [row.SerializeToString(deterministic=True) for row in make(1, 400)]
    assert again == first[: len(again)]
    assert [row.SerializeToString(deterministic=True) for row in make(2, 400)] != again


def test_what_a_row_says_can_be_read_in_its_goal() -> None:
    check_rows(sample_rows(), options())


def test_a_span_is_what_was_filled_in_however_it_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "QUOTED_GOALS", 0.0)
    text = "leave it at\tthe door, say 'hi'. Łódź 👋 1001"
    said = read_grammar(
        f"pools: {{order: ['1001'], note: [{text!r}]}}\nprose: note\n"
        "options: {sign: {plain: false, do: ['(on|for|) {order}, (not 1002, |)(please |)write {''text:note}',"
        " 'write {text:note} (| on order) #{order}']}}"
    )
    among = (option("sign", Parameter("order", "integer", True), Parameter("text", "text", True)),)
    made = [
        row
        for row in make(trajectories=1_500, among=among, said=said.over(general_grammar()))
        if row.index == 0
    ]
    called = [row for row in made if row.decision.HasField("call")]
    assert len(called) > 1_000
    wanted = {"order": "1001", "text": " ".join(text.split())}
    for row in called:
        for name, argument in row.decision.call.arguments.items():
            found = row.goal[argument.span.start : argument.span.end]
            assert found in (wanted[name], wanted[name].lower(), wanted[name].upper()), row.goal
    assert len({row.goal for row in called}) > 600


def test_a_trajectory_ends_as_it_should() -> None:
    for steps in trajectories(sample_rows()).values():
        kinds = [row.decision.WhichOneof("kind") for row in steps]
        first = steps[0].decision
        if kinds == ["abstain"]:
            assert not steps[0].entities
            continue
        assert kinds[0] == "call"
        if first.call.missing or steps[0].offered:
            assert kinds == ["call"]
        else:
            assert kinds == ["call"] * (len(kinds) - 1) + ["stop"]


def test_the_shares_are_about_what_they_should_be() -> None:
    kinds = Counter(kind_of(steps) for steps in trajectories(sample_rows()).values())
    assert kinds["step"] / TRAJECTORIES == pytest.approx(STEPS, abs=0.02)
    for name, share in SHARES.items():
        assert kinds[name] / TRAJECTORIES == pytest.approx(share * (1 - STEPS), abs=0.02)
    calls = (1 - sum(SHARES.values())) * (1 - STEPS)
    assert kinds["in a row"] / TRAJECTORIES == pytest.approx(calls * IN_A_ROW, abs=0.02)
    assert 0 < kinds["for each"] / TRAJECTORIES < calls * FOR_EACH


def test_the_same_words_are_wanted_or_not_by_what_is_said_around_them() -> None:
    typing = Typing(
        wanted=("no idea why, but ~",), unwanted=("i dreamt of no need to ~", "~, said nobody ever")
    )
    wanted_by = {"no idea why": True, "i dreamt of no need": False, "said nobody ever": False}
    seen = Counter[bool]()
    for row in make(said=grammar().model_copy(update={"typing": typing})):
        text = row.goal.casefold()
        for frame in [] if row.index or row.offered else wanted_by:
            if text.startswith(frame) or frame in text[-20:]:
                assert row.decision.HasField("call") == wanted_by[frame], row.goal
                seen[wanted_by[frame]] += 1
    assert seen[True] > 50 < seen[False]


@functools.cache
def unwished() -> frozenset[str]:
    own = (text for said in grammar().options.values() for text in said.unwished)
    return frozenset([*grammar().typing.unwanted, *own])


def test_what_only_sounds_like_an_option_is_none_of_it() -> None:
    own = "the buyer of {order} has had all of it back since <@date>"
    refund = Said(do=("refund order {order}",), unwished=(own,))
    said = grammar().model_copy(
        update={"options": {"playbook:refund": refund}, "typing": Typing(), "chains": ()}
    )
    told = [row for row in make(trajectories=1_500, said=said) if row.pattern == own]
    assert len(told) > 30
    assert all(row.decision.HasField("abstain") and not row.entities for row in told)
    assert {bool(re.search(r"buyer of \d{4} has had", row.goal.casefold())) for row in told} >= {True}
    steps = grammar().steps.model_copy(update={"wishes": {"refund_order": refund}})
    with pytest.raises(BadGrammar, match="unwished by what is put around it alone"):
        make(trajectories=200, said=grammar().model_copy(update={"steps": steps}))


def kind_of(steps: list[pb.TrajectoryRow]) -> str:
    first = steps[0].decision
    if steps[0].offered:
        return "step"
    if first.HasField("abstain"):
        return "unwanted" if steps[0].pattern in unwished() else "outside"
    if first.call.missing:
        return "asks"
    if JOINT in steps[0].pattern:
        return "in a row"
    if any(steps[0].pattern in (*chain.do, *chain.say) for chain in grammar().chains):
        return "chains"
    return "calls" if len(steps) == 2 else "for each"


def test_a_step_chooses_among_what_it_was_granted_and_no_playbook_is() -> None:
    steps = [row for row in make(seed=5, trajectories=6_000) if row.offered]
    meant = {name for given in grammar().means.values() for name in given}
    assert meant <= {row.decision.call.option for row in steps}
    beside = 0
    for row in steps:
        assert len(row.offered) >= 1
        assert not any(name.startswith("playbook:") for name in row.offered)
        if row.decision.HasField("call"):
            assert row.decision.call.option in row.offered
            for name, argument in row.decision.call.arguments.items():
                line = row.goal[: argument.span.start].rpartition("\n")[2].casefold()
                beside += argument.HasField("span") and line.rstrip(": ") in (name, name.replace("_", " "))
    assert beside > 20


def test_a_step_is_written_as_it_will_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, tuple[Any, list[inputs.Leaf]]] = {}

    def record(title: str, given: Any) -> tuple[str, list[inputs.Leaf]]:
        text, leaves = inputs.text_of(title, given)
        written[text] = given, leaves
        return text, leaves

    monkeypatch.setattr(granted, "text_of", record)
    steps = [row for row in make(seed=2, trajectories=1_500) if row.offered]
    assert len(steps) > 500
    nested = 0
    for row in steps:
        given, leaves = written[row.goal]
        assert json.loads(json.dumps(given)) == given
        assert len(tokens_of(row.goal)) <= MAX_TOKENS
        nested += any(isinstance(value, dict) for value in given.values())
        for filled in row.decision.call.arguments.values():
            if filled.HasField("span"):
                start, end = filled.span.start, filled.span.end
                assert any(leaf.start <= start and end <= leaf.end for leaf in leaves[1:]), row.goal
    assert nested > len(steps) / 2
    # As long as what people write, and as short.
    lengths = sorted(len(tokens_of(row.goal)) for row in steps)
    assert lengths[len(steps) // 10] < 35
    assert lengths[-len(steps) // 10] > 70


def test_a_chain_refers_to_what_a_step_before_returns() -> None:
    steps = "[{get_customer: {customer_id: %s}}, {get_order: {order_id: order}}]"
    chain = f"chains: [{{steps: {steps}, say: '{{order}}'}}]"
    for source in ("$s2.customer_id", "$s1.customer_id"):
        with pytest.raises(BadGrammar, match="which no step before it returns"):
            recipes.Recipes(options(), read_grammar(chain % source).over(general_grammar()))


def test_no_field_has_the_name_of_a_record() -> None:
    option = next(one for one in options() if one.name == "close_ticket")
    sheet = sheets.Sheet(option, Draw(Random(1), MONDAY), 1.0)
    # A record of another kind has the name that a field for the text might have.
    sheet.records["note"] = ("remark", {"id": 7, "text": "call her"})
    resolution = option.parameter("resolution")
    assert resolution is not None
    made = sheets.Sheets(grammar().steps, sample_recipes())
    made.beside(sheet, resolution, "remark", "sent again")
    assert (sheet.fields, sheet.arguments) == ({}, {})
    made.beside(sheet, resolution, "outcome", "sent again")
    assert sheet.fields == {"outcome": "sent again"}
    given, _ = made.inputs(sheet, "hello")
    made.slip(sheet, given, "and now this", into_record=True)
    assert given["remark"]["id"] == 7


def test_in_half_of_the_ways_to_name_a_wish_nobody_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for rate in ("SHORTER", "SYNONYMS", "TYPOS", "BARE"):
        monkeypatch.setattr(noise, rate, 0.0)
    monkeypatch.setattr(noise, "CASES", (("as it is", 1.0),))
    monkeypatch.setattr(granted, "CALLED", 0.0)
    general = general_grammar().model_copy(update={"outside": {}, "typing": Typing(), "steps": Steps()})
    said = read_grammar("""
    steps:
      titles: Follow the ~
      carriers: mail
      idle: all is well
      unwished: "spare ~"
      hostile: "system ~"
      quoted: "> ~"
      beside: {memo: none, subject: none}
      wishes:
        sign: {do: "sign {text:thing}"}
        burn: {do: "burn this"}
    options: {sign: {plain: false, do: "sign {text:thing}"}, burn: {plain: false, do: "burn this"}}
    """)
    among = (option("sign", Parameter("text", "text", True)), option("burn"))
    made = [row for row in make(trajectories=1_500, among=among, said=said.over(general)) if row.offered]
    kinds = Counter(row.decision.call.option for row in made)
    assert kinds["burn"] > 100 < kinds["sign"]
    assert kinds[""] > 200
    hostile = 0
    for row in made:
        mail = re.search(r"mail: ((?:.|\n(?!memo: |subject: ))*)", row.goal)
        assert mail is not None
        # Blanks may be typed twice.
        said_once = re.sub(" +", " ", mail[1])
        own = re.sub(
            r"(?:spare|system|>) (?:sign \S+(?: \S+)?|burn this)", "", said_once, flags=re.IGNORECASE
        )
        hostile += row.decision.HasField("call") and "system" in row.goal
        wanted = row.decision.call.option
        assert not wanted or wanted in own.casefold(), row.goal
        if not wanted:
            assert not [name for name in row.offered if name in own.casefold()], row.goal
    assert hostile > 50


def test_what_is_referred_to_stands_beside_the_words() -> None:
    fields = {name for named in grammar().steps.pointers.values() for name in named}
    referred = Counter[str]()
    for row in sample_rows():
        for name, filled in row.decision.call.arguments.items():
            if not row.offered or not filled.HasField("span"):
                continue
            start, end = filled.span.start, filled.span.end
            label, _, rest = row.goal[row.goal.rfind("\n", 0, start) + 1 :].partition(": ")
            field = label.split(" ")[-1]
            # A whole line of another name than the parameter's: only the words say that it is meant.
            if rest.partition("\n")[0] == row.goal[start:end] and field in fields - {name}:
                referred[field] += 1
    assert len(referred) > 10, referred
    assert sum(referred.values()) > 40, referred


def test_what_is_asked_for_in_company_is_what_is_asked_for_alone() -> None:
    rows_of = trajectories(sample_rows()).values()
    alone = {recipe.pattern for _, group in sample_recipes().calls for recipe in group}
    company = [steps for steps in rows_of if kind_of(steps) == "in a row"]
    assert len(company) > 100
    assert all(set(steps[0].pattern.split(JOINT)) <= alone for steps in company)
    for steps in company:
        starts = [
            min(spans)
            for row in steps[:-1]
            if (spans := [a.span.start for a in row.decision.call.arguments.values() if a.HasField("span")])
        ]
        # Said in a row, done in a row.
        assert starts == sorted(starts), steps[0].goal
    for steps in rows_of:
        if kind_of(steps) == "for each":
            calls = [row.decision.call.SerializeToString(deterministic=True) for row in steps[:-1]]
            assert 2 <= len(set(calls)) == len(calls) <= 3, steps[0].goal


def test_every_option_that_people_ask_for_is_asked_for() -> None:
    taken = Counter(row.decision.call.option for row in sample_rows() if row.decision.HasField("call"))
    wanted = [one.name for one in options() if one.is_playbook or spoken(one).weight != BEHIND]
    assert not [name for name in wanted if not taken[name]]
    playbooks = sum(count for name, count in taken.items() if name.startswith("playbook:"))
    assert playbooks / sum(taken.values()) > 0.2


def test_where_nobody_has_said_what_lies_near_it_is_made_of_words_that_no_option_has() -> None:
    few = [one for one in options() if one.name in ("get_order", "add_note")]
    templates = beside(few)
    assert templates
    # What one of them does, or is about, is not said to be what none does.
    listed = {
        word for text in templates for part in text.split("(") for word in part.split(")")[0].split("|")
    }
    assert "contract" in listed
    assert not listed & {"note"}
    made = make(trajectories=1_000, among=few, said=general_grammar())
    near = [row for row in made if row.pattern in templates]
    assert 20 < len(near) < 120
    assert all(row.decision.HasField("abstain") for row in near)
    # Somebody has.
    said = read_grammar("options: {get_order: {do: 'see order {order_id}'}}").over(general_grammar())
    assert not [row for row in make(trajectories=300, among=few, said=said) if row.pattern in templates]


def test_playbooks_are_asked_for_in_many_ways() -> None:
    for one in options():
        if one.is_playbook:
            said = grammar().options[one.name]
            assert len(said.do) + len(said.say) >= 12, one.name
            assert said.ask or not any(parameter.required for parameter in one.parameters), one.name
    referring = [
        chain
        for chain in grammar().chains
        if any(
            source.startswith("$")
            for step in chain.steps
            for given in step.values()
            for source in given.values()
        )
    ]
    assert len(referring) >= 25
    assert sum(len(texts) for texts in grammar().outside.values()) >= 200


def test_the_same_words_never_mean_two_things() -> None:
    meant: dict[tuple[str, datetime.datetime], bytes] = {}
    for row in sample_rows():
        if row.index == 0:
            key = (row.goal.casefold(), row.said_at.ToDatetime())
            decided = row.decision.SerializeToString(deterministic=True)
            assert meant.setdefault(key, decided) == decided, row.goal


def test_what_a_text_tells_somebody_to_do_stays_text() -> None:
    told = [
        row
        for row in sample_rows()
        if row.index == 0
        and any("refund order" in one.value.json for one in row.decision.call.arguments.values())
        and row.decision.call.option != "refund_order"
    ]
    assert told


def test_rows_go_through_json_lines() -> None:
    for row in sample_rows()[:500]:
        line = json_format.MessageToJson(row, indent=None, preserving_proto_field_name=True)
        assert "\n" not in line
        assert json_format.Parse(line, pb.TrajectoryRow()) == row


def test_entities_name_what_was_meant() -> None:
    seen = {entity for row in sample_rows() for entity in row.entities}
    assert "order=1001" in seen
    assert not [entity for entity in seen if "=" not in entity]


def test_a_new_project_needs_no_grammar(tmp_path: Path) -> None:
    init.create(tmp_path / "shed")
    among = options(tmp_path / "shed")
    made = make(trajectories=1_000, among=among, said=general_grammar())
    check_rows(made, among)
    taken = Counter(row.decision.call.option for row in made if row.decision.HasField("call"))
    assert {"playbook:lend", "playbook:swap", "lend_item", "return_item", "get_item"} <= set(taken)
    assert any(row.decision.call.missing for row in made)
    assert any(row.decision.HasField("abstain") for row in made)


def test_an_option_of_every_kind_can_be_said_without_a_grammar() -> None:
    kinds = ["integer", "number", "boolean", "text", "word", "money", "date", "time", "email", "list"]
    among = (
        option("set_all", *(Parameter(f"the_{kind}", kind, True) for kind in kinds)),  # type: ignore[arg-type]
        option(
            "set_owner",
            Parameter("owner", "integer", True),
            Parameter("state", "choice", False, "", ("on (a)", "b")),
        ),
        option("odd|{name}", Parameter("a", "word", True)),
    )
    made = make(trajectories=600, among=among, said=general_grammar())
    check_rows(made, among)
    assert {row.decision.call.option for row in made} >= {one.name for one in among}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("options: {say: 1}", "options.say"),
        ("options: {sing: {do: sing}}", "'sing', which is no option of the project; did you mean 'sign'"),
        ("options: {sign: {do: 'sign {order'}}", "'}' is missing"),
        ("options: {sign: {do: 'sign {order'}}", "sign {order"),
        ("options: {sign: {do: '(sign'}}", "')' is missing"),
        ("options: {sign: {do: 'sign)'}}", "too many"),
        ("options: {sign: {do: 'sign {ordr}'}}", "{ordr} is filled into nothing; there are order"),
        ("options: {sign: {do: 'sign {order:ordres}'}}", "no pool 'ordres'"),
        ("options: {sign: {do: 'sign <it>'}}", "no piece <it>"),
        ("options: {sign: {do: 'sign <@dat>'}}", "no form <@dat>"),
        ("pieces: {it: <it>}\noptions: {sign: {do: 'sign <it>'}}", "is in itself"),
        ("options: {sign: {do: 'sign it'}}", "sign with order missing"),
        ("options: {sign: {do: 'sign {order}', ask: 'sign {order}'}}", "sign with nothing missing"),
        ("options: {sign: {do: 'sign {order:word}'}}", "is not a whole number"),
        ("chains: [{steps: [{sign: {ordr: order}}], do: 'sign {order}'}]", "'ordr', which it does not take"),
        ("chains: [{steps: [{sign: {order: $s1.nothing}}], do: 'sign'}]", "which no step before it returns"),
        ("chains: [{steps: [{sign: {order: $s9.order}}], do: 'sign'}]", "which no step before it returns"),
        ("chains: [{steps: [{sign: {order: $order}}], do: 'sign'}]", "which no step before it returns"),
    ],
)
def test_what_is_wrong_with_a_grammar_is_told(text: str, problem: str) -> None:
    among = (option("sign", Parameter("order", "integer", True)),)
    with pytest.raises(BadGrammar) as caught:
        make(trajectories=600, among=among, said=read_grammar(text).over(general_grammar()))
    assert problem in str(caught.value)


def test_a_grammar_that_is_no_grammar_is_told() -> None:
    for text in ("- 1", "options: [", "optons: {}", "pools: {a: [1]}"):
        with pytest.raises(BadGrammar, match="the grammar"):
            read_grammar(text)
