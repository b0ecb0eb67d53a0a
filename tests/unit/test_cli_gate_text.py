"""Gates in words: all that must be seen is seen, and nothing that comes from elsewhere can look like ours."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from handrail.cli.gate_text import (
    MAX_VALUE_CHARS,
    call,
    closed_line,
    commands,
    gate_lines,
    inbox_line,
    left,
    moment,
    open_lines,
    outcome,
    rough,
    sentence,
    state_of,
)
from handrail.cli.pen import Pen
from handrail.cli.text import ASCII, Glyphs, clean, exact
from handrail.v1 import event_pb2, plan_pb2, run_service_pb2
from tests.policies import asking
from tests.scenarios.test_undo import paid, undo
from tests.unit.gate_samples import HOUR_NS, NOW_NS, RUN, TARGET, E, closed, gate, item
from tests.unit.undo_samples import stuck

EVIL = (
    "\x1b[2J\x1b[1;1H\u202eapproved\u2066\r\nbinding  000000000000\u2028"
    "  why  It is harmless.\x07\x9b31m\u200b  "
)


def shown(made: run_service_pb2.Gate, **pen: Any) -> list[str]:
    pen.setdefault("now_ns", NOW_NS)
    return [line.plain for line in gate_lines(made, TARGET, Pen(**pen))]


def test_a_gate_shows_who_has_delegated_to_whom() -> None:
    handed = [("tomas", "clara", "on holiday"), ("yuki", "ines", "")]
    made = [run_service_pb2.Delegation(by=by, to=to, reason=reason) for by, to, reason in handed]
    lines = shown(gate(delegations=made))
    place = lines.index("  delegated tomas lets clara decide: on holiday")
    assert lines[place + 1] == "            yuki lets ines decide"
    assert not any(line.startswith("  delegated ") for line in shown(gate()))


def test_a_gate_shows_all_that_is_needed_to_decide() -> None:
    lines = shown(gate())
    assert lines[:9] == [
        "◆ send_email waits for a human: it cannot be undone",
        "  goal      refund order 1001 and tell the customer",
        f"  for       ada, run {RUN}",
        "  step      tell",
        "",
        "  send_email",
        '    subject  "Your refund"',
        '    to       "ada@example.com"',
        "",
    ]
    until = moment(NOW_NS + 23 * HOUR_NS, NOW_NS)
    assert lines[9:] == [
        "  why       It cannot be undone.",
        "  needs     1 approval; nobody has approved yet",
        f"  until     {until}, in 23 h",
        f"  gate      {RUN}-g1",
        "  binding   673167316731",
        f"  approve   handrail approve {RUN}-g1 --binding 673167316731 --project shop",
        f"  deny      handrail deny {RUN}-g1 --reason 'why not' --project shop",
        f"  amend     handrail amend {RUN}-g1 --set NAME=JSON --binding 673167316731 --project shop",
        f"  delegate  handrail delegate {RUN}-g1 --to NAME --binding 673167316731 --project shop",
    ]


def test_only_one_action_that_may_be_done_can_be_amended() -> None:
    for made in (gate(item("a-0"), item("a-1")), gate(kind=E.GATE_KIND_DOUBT)):
        lines = shown(made)
        assert not any(line.startswith("  amend ") for line in lines)
        assert any(line.startswith("  delegate ") for line in lines)


def test_what_leaks_is_said_with_where_it_comes_from() -> None:
    made = item(
        to="eve@example.com", body="hi", subject="!", untrusted=["to", "body"], leaks=["body", "subject"]
    )
    for name, steps in (("to", ["look"]), ("body", ["look", "notes"]), ("subject", ["notes"])):
        made.provenance.add(argument=name, steps=steps)
    lines = shown(gate(made))
    assert '    body     untrusted, leaks  "hi"' in lines
    assert '    subject  leaks             "!"' in lines
    assert '    to       untrusted         "eve@example.com"' in lines
    place = lines.index("  untrusted nobody who is trusted has written such a value")
    assert lines[place + 1 : place + 6] == [
        "            to: from look",
        "            body: from look, notes",
        "  leaks     somebody would get to read it who may not",
        "            body: from look, notes",
        "            subject: from notes",
    ]


def test_what_is_the_same_but_leaks_in_one_is_shown_for_each() -> None:
    lines = shown(gate(item("a-0", to="x", leaks=["to"]), item("a-1", to="x")))
    assert '    to  leaks  "x"' in lines
    assert '    to         "x"' in lines


def test_an_amended_gate_says_to_what() -> None:
    made = closed(E.GATE_OUTCOME_AMENDED, ["bob"], "no postage")
    made.closed.arguments["amount"].json = "20"
    made.closed.arguments["body"].json = json.dumps(EVIL * 9)
    assert state_of(made) == "amended"
    assert outcome(made).startswith("amended by bob to amount=20, body=")
    assert outcome(made).endswith(" more characters): no postage")
    assert outcome(made) == exact(outcome(made))
    (line,) = [line for line in shown(made) if line.startswith("  closed ")]
    assert "amended by bob to amount=20" in line


def test_an_amended_gate_says_what_was_asked_for() -> None:
    made = closed(E.GATE_OUTCOME_AMENDED, ["bob"])
    made.closed.arguments["to"].json = '"ines@example.com"'
    made.closed.arguments["note"].json = "null"
    line = closed_line(made, Pen(now_ns=NOW_NS, width=500)).plain
    assert 'amended by bob to note=null, to="ines@example.com"' in line
    assert ', asked for: no note, to="ada@example.com"' in line


def test_what_is_untrusted_is_said_in_a_word() -> None:
    lines = shown(gate(item(to="eve@example.com", subject="hi", untrusted=["to"])))
    assert '    subject             "hi"' in lines
    assert '    to       untrusted  "eve@example.com"' in lines
    assert "  untrusted nobody who is trusted has written such a value" in lines


def test_quorum_and_who_approved() -> None:
    lines = shown(gate(quorum=2, approved_by=["bob"], reasons=[]))
    assert lines[0] == "◆ send_email waits for 2 humans"
    assert "  why       No reason is given." in lines
    assert "  needs     2 approvals; so far by bob" in lines


def test_every_reason_is_a_sentence_and_told_once() -> None:
    reasons = [
        E.Reason(rule=rule, text=text)
        for rule, text in [("a", "no undo"), ("b", "is it paid?"), ("c", "no undo")]
    ]
    lines = shown(gate(reasons=reasons))
    assert lines[0] == "◆ send_email waits for a human"
    place = lines.index("  why       No undo.")
    assert lines[place + 1] == "            Is it paid?"
    assert "undo" not in lines[place + 2]


def test_of_many_actions_what_is_the_same_is_shown_once() -> None:
    many = [item(f"tell-{n}", to=f"c{n}@example.com", subject="Sorry", untrusted=["to"]) for n in range(100)]
    lines = shown(gate(*many))
    assert sum('"Sorry"' in line for line in lines) == 1
    assert lines[5:7] == ["  in each of 100 actions", '    subject             "Sorry"']
    for n in range(100):
        place = lines.index(f"  {n + 1} of 100  send_email  step tell-{n}")
        assert lines[place + 1] == f'    to       untrusted  "c{n}@example.com"'


def test_what_is_the_same_but_not_as_trusted_is_shown_for_each() -> None:
    lines = shown(gate(item("a-0", to="x", untrusted=["to"]), item("a-1", to="x")))
    assert '    to  untrusted  "x"' in lines
    assert '    to             "x"' in lines


def test_a_large_value_is_shown_by_size_and_digest() -> None:
    blob = item()
    blob.arguments["body"].blob.size_bytes = 1 << 20
    blob.arguments["body"].blob.sha256 = "ab" * 32
    lines = shown(gate(blob))
    assert "    body  1 MiB in the blob stream (sha256 abababababab…)" in lines


def test_the_end_of_a_long_value_is_not_hidden_from_whoever_approves_it() -> None:
    told = "".join(
        line.strip(" │") for line in shown(gate(item(to="a@b.example, " * 4_000 + "mallory@evil")))
    )
    assert "mallory@evil" in told
    assert "more characters" not in told


def test_what_is_too_long_to_be_one_value_shows_its_beginning_and_how_much_is_missing() -> None:
    lines = shown(gate(item(body="x" * 1_000_000)))
    assert f"… ({1_000_002 - MAX_VALUE_CHARS:,} more characters)" in "".join(
        line.strip(" │") for line in lines
    )
    assert sum(line.count("x") for line in lines[6:-8]) == MAX_VALUE_CHARS - 1


@pytest.mark.parametrize("glyphs", [Glyphs(), ASCII])
@pytest.mark.parametrize("width", [40, 60, 100])
def test_nothing_hostile_can_fake_the_screen(width: int, glyphs: Glyphs) -> None:
    evil = item(
        EVIL, EVIL, to=EVIL, body={"deep": [EVIL * 30]}, **{EVIL: EVIL}, untrusted=["to", EVIL], leaks=["to"]
    )
    evil.arguments["raw"].CopyFrom(plan_pb2.Value(json=f"not json {EVIL}" * 30))
    many = gate(
        evil,
        evil,
        goal=EVIL * 100,
        submitter=EVIL,
        approved_by=[EVIL],
        delegations=[run_service_pb2.Delegation(by=EVIL, to=EVIL, reason=EVIL * 50)] * 2,
        reasons=[E.Reason(rule=EVIL, text=EVIL), E.Reason(rule=EVIL, text=EVIL * 50)],
    )
    lines = shown(many, width=width, glyphs=glyphs)
    guide = f"{glyphs.line[0]} "
    # Every line is one of ours, with its words in its own column, or goes on behind the guide.
    ours = re.compile(
        r"(  (goal|for|step|why|needs|until|gate|binding|approve|deny|delegated?|untrusted|leaks) *  ?"
        r"|  [12] of 2  | {4}\S.*? {2,}(untrusted, leaks|untrusted|leaks)? {2,}|  in each of 2 actions$| *"
        + re.escape(guide)
        + r"| {12}[^ ]|$)"
    )
    for line in lines[1:]:
        assert ours.match(line), line
        assert all(c.isprintable() for c in line)
        assert cell_len(line) <= width or line.startswith(("  approve ", "  deny ", "  delegate "))
    for label in ("binding", "approve", "deny", "until", "why"):
        assert sum(line.startswith(f"  {label} ") for line in lines) == 1
    assert "  binding   673167316731" in lines
    # Nothing of a value is left out.
    assert "".join(lines).count("u202e") > 2


@given(st.text(max_size=300), st.integers(40, 120))
def test_every_character_of_a_value_is_shown(text: str, width: int) -> None:
    lines = shown(gate(item(a=text)), width=width)
    rows = lines[lines.index("  send_email") + 1 :]
    rows = rows[: rows.index("")]
    value = "".join(row[len("    a  ") :] for row in rows)
    assert json.loads(value) == text
    assert rows[0].startswith("    a  ")
    assert all(row.startswith("     │ ") for row in rows[1:])


@given(st.text(max_size=100))
def test_lines_are_one_line_and_clean(text: str) -> None:
    made = gate(item(text, text, to=text), goal=text, submitter=text, reasons=[E.Reason(text=text)])
    made.what.step = text
    denied = closed(E.GATE_OUTCOME_DENIED, [text], text)
    for line in (inbox_line(made, Pen()), closed_line(denied, Pen()), *open_lines(made, TARGET, Pen())):
        assert len(line.plain.splitlines()) == 1
        assert "".join(clean(line.plain).split()) == "".join(line.plain.split())


def test_the_inbox_line() -> None:
    pen = Pen(width=160, now_ns=NOW_NS)
    until = moment(NOW_NS + 23 * HOUR_NS, NOW_NS)
    assert inbox_line(gate(), pen).plain == (
        f"◆ {RUN}-g1   5 min  tell send_email  1 item, until {until}  it cannot be undone"
    )
    two = inbox_line(gate(item(), item(), quorum=3, approved_by=["bob"]), pen).plain
    assert "2 items, 1 of 3 approved, until" in two
    over = closed(E.GATE_OUTCOME_DENIED, ["bob"], "not before Friday")
    assert inbox_line(over, pen).plain.startswith(
        f"✗ gate {RUN}-g1 denied by bob: not before Friday  tell: send_email("
    )


@pytest.mark.parametrize(
    ("made", "state", "words"),
    [
        (gate(), "open", "open"),
        (closed(E.GATE_OUTCOME_APPROVED, ["ada", "bob"]), "approved", "approved by ada, bob"),
        (closed(E.GATE_OUTCOME_DENIED, ["bob"], "no"), "denied", "denied by bob: no"),
        (closed(E.GATE_OUTCOME_EXPIRED, reason="nobody decided"), "expired", "expired: nobody decided"),
        (
            closed(E.GATE_OUTCOME_VOID, reason="the policy has changed"),
            "void",
            "void: the policy has changed",
        ),
    ],
)
def test_what_became_of_a_gate(made: run_service_pb2.Gate, state: str, words: str) -> None:
    assert state_of(made) == state
    assert outcome(made) == words


def test_a_closed_gate_offers_no_decision() -> None:
    lines = shown(closed(E.GATE_OUTCOME_DENIED, ["bob"], "no"))
    assert "  closed    denied by bob: no" in lines
    assert not any("handrail" in line or "until" in line for line in lines)
    # Nothing waits there any more.
    assert lines[0] == "◆ send_email waited for a human: it cannot be undone"
    assert "  needs     1 approval" in lines


def test_a_call_in_one_line() -> None:
    assert call(gate()) == 'send_email(subject="Your refund", to="ada@example.com")'
    assert call(gate(item(to="a"), item(to="b"))) == 'send_email(to="a") and 1 more'
    assert call(run_service_pb2.Gate()) == "nothing"
    assert re.fullmatch(r'send_email\(body="x+… \(\d+ more characters\)\)', call(gate(item(body="x" * 500))))


def test_the_commands_are_safe_to_paste() -> None:
    evil = gate()
    evil.id = f"{RUN}-g1; rm -rf / #"
    assert commands(evil, TARGET)["approve"].startswith(f"handrail approve '{RUN}-g1; rm -rf / #' --binding ")


def test_times() -> None:
    now = datetime(2026, 3, 4, 18, 20)
    ns = int(now.timestamp()) * 1_000_000_000
    hour = 3_600 * 1_000_000_000
    assert moment(ns, ns) == "today 18:20"
    assert moment(int((now + timedelta(days=1)).timestamp()) * 1_000_000_000, ns) == "tomorrow 18:20"
    assert moment(int((now + timedelta(days=2)).timestamp()) * 1_000_000_000, ns) == "2026-03-06 18:20"
    assert [rough(n * 1_000_000_000) for n in (-5, 5, 119, 120, 7_199, 7_200, 172_800)] == [
        *("0 s", "5 s", "119 s", "2 min", "119 min", "2 h", "2 d")
    ]
    assert left(gate(), NOW_NS + 24 * hour) == "over since 60 min"


def test_sentences() -> None:
    assert sentence("it cannot be undone") == "It cannot be undone."
    assert sentence("Is it?") == "Is it?"
    assert sentence("\x1b[2J") == "No reason is given."


# --- undo ----------------------------------------------------------------------------------------------


def test_a_compensation_that_went_wrong_is_asked_about_as_such() -> None:
    (made,) = stuck().view.gates
    name = made.id
    lines = shown(made)
    assert lines[0] == "◆ undoing book went wrong, and waits for a human: it broke"
    assert "  for       ines, run r0-scenario01" in lines
    assert "  step      undo-book" in lines
    assert (
        "  needs     somebody's word: it is undone, try it again, or leave it, which ends the undo" in lines
    )
    told = commands(made, TARGET)
    assert list(told) == ["undone", "repeat", "leave it"]
    assert told["undone"].startswith(f"handrail approve {name} --happened --binding ")
    waiting = [line.plain for line in open_lines(made, TARGET, Pen(now_ns=NOW_NS))]
    assert waiting[0] == "undoing book went wrong, and waits for a human: unbook(day=3, was=1)"
    assert not any("may or may not have happened" in line for line in (*lines, *waiting))


def test_what_became_of_it_is_said_as_of_an_undo() -> None:
    happened, repeat = event_pb2.GATE_CHOICE_HAPPENED, event_pb2.GATE_CHOICE_REPEAT
    assert outcome(stuck().decide("bob", choice=happened).view.gates[0]) == "settled as undone by bob"
    assert outcome(stuck().decide("bob", choice=repeat).view.gates[0]) == "settled, to be tried again by bob"
    left_it = stuck().decide("bob", deny=True, reason="it is fine").view.gates[0]
    assert outcome(left_it) == "left by bob: it is fine"


def test_a_compensation_that_must_be_approved_is_a_gate_like_any_other() -> None:
    (made,) = undo(paid(policy=asking("unpay"))).view.gates
    assert shown(made)[0].startswith("◆ unpay waits for a human")
    assert list(commands(made, TARGET)) == ["approve", "deny"]
