"""What the tools do is taken back: as the core plans it, carried out, and compared row by row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import database
import pytest
from test_tools import CALLS, PROJECT, THREADS, TOOLS, act, prepare, read, refused
from tools import book_slot, cancel_slot, mark_reservation, mark_slot, release_stock, reserve_stock

from core import contracts, judgement, values
from core.decide import Catalogue, decide
from core.moves import Decide
from core.plan_form import plan_from_form
from core.ports import RunKey
from core.state import Attempt, Instance, RunState, Undo
from handrail import project
from handrail.calling import invoke
from handrail.v1 import event_pb2

CONTRACTS = {
    name: contracts.to_proto(tool.with_toolbox("backoffice").contract) for name, tool in TOOLS.items()
}
UNDOABLE = sorted(name for name, contract in CONTRACTS.items() if contract.undo)
ALLOW, GATE = event_pb2.RULING_OUTCOME_ALLOW, event_pb2.RULING_OUTCOME_GATE

# What remains of an effect that was taken back: its record, in this status; and when a ticket was touched.
VOID = {
    "drafts": "discarded",
    "employees": "withdrawn",
    "notes": "retracted",
    "refunds": "cancelled",
    "reservations": "released",
    "slots": "cancelled",
    "tasks": "cancelled",
    "tickets": "closed",
}
REMAINS = {"tickets": {"last_activity_on"}}
OF_THE_WORK = {"outcomes", "ledger", "faults"}

Rows = dict[str, dict[int, dict[str, Any]]]


def business() -> Rows:
    """Return every row of the office, but for those about the work itself."""
    db = database.connection()
    names = [row["name"] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found: Rows = {}
    for name in sorted(set(names) - OF_THE_WORK):
        rows = (dict(row) for row in db.execute(f"SELECT rowid AS at, * FROM {name}"))
        kept = REMAINS.get(name, set())
        found[name] = {row["at"]: {k: v for k, v in row.items() if k not in kept} for row in rows}
    return found


def new_rows(before: Rows, after: Rows) -> list[tuple[str, str]]:
    """Return what is in a table that was not, by its status; what was must be as it was."""
    assert before.keys() == after.keys()
    found = []
    for name, rows in after.items():
        assert {at: row for at, row in rows.items() if at in before[name]} == before[name], name
        found += [(name, str(row["status"])) for at, row in rows.items() if at not in before[name]]
    return found


async def done(name: str, submitter: str = "maren") -> RunState:
    """Do what a tool does; return the run as its log would tell it."""
    contract, arguments = CONTRACTS[name], CALLS[name]
    needed = judgement.needed_to_undo(contract)
    before = await judgement.observe(contract, {"args": arguments}, read, needed)
    output = await invoke(TOOLS[name], arguments, key="key", timeout_s=10, threads=THREADS)
    return told(name, _inline(before), values.inline(output), submitter)


def told(name: str, before: Mapping[str, Any], output: Any, submitter: str) -> RunState:
    """Return a run that has called a tool and is done."""
    action = event_pb2.Action(tool=name, attempt="it-a1", kind=event_pb2.ACTION_KIND_ACT)
    for argument, value in _inline(CALLS[name]).items():
        action.arguments[argument].CopyFrom(value)
    attempt = Attempt("it-a1", 1, "backoffice", 1, 1, action=action, claimer="1-box_0-1", before=before)
    return RunState(
        key=RunKey(0, "default", "r0-undo"),
        submit=event_pb2.Submit(goal=event_pb2.Goal(text="a goal", submitter=submitter)),
        plan=plan_from_form({"steps": [{"id": "it", "tool": name, "with": CALLS[name]}]}),
        contracts=CONTRACTS,
        instances={"it": Instance("it", "it", settled="done", attempts=(attempt,), output=output)},
        finished=event_pb2.Finished(status=event_pb2.RUN_STATUS_DONE),
        standing=event_pb2.RUN_STATUS_DONE,
    )


def _inline(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values.inline(value) for name, value in found.items()}


def planned(state: RunState, catalogue: Catalogue | None = None) -> event_pb2.UndoPlanned:
    """Return how the core would undo it, and what would come of that."""
    asked = event_pb2.Undo(submitter=state.goal.submitter, dry_run=True)
    (move,) = decide(replace(state, undo=Undo(asked=asked)), 1, catalogue or Catalogue(CONTRACTS))
    assert isinstance(move, Decide)
    assert isinstance(move.body, event_pb2.UndoPlanned)
    return move.body


async def take_back(state: RunState) -> None:
    """Make the one compensation of a run, as a worker and a verifier do."""
    plan = planned(state)
    assert list(plan.stays) == []
    (one,) = plan.compensations
    arguments = {name: values.load(held.constant, {}) for name, held in one.step.arguments.items()}
    ready, confirmed, _ = await act(one.step.tool, "undo-key", arguments)
    assert (ready, confirmed) == (True, True)


@pytest.mark.parametrize("name", UNDOABLE)
async def test_what_is_undone_leaves_the_office_as_it_was(name: str) -> None:
    prepare()
    before = business()
    state = await done(name)
    assert business() != before
    await take_back(state)
    left = new_rows(before, business())
    assert left == [(table, VOID[table]) for table, _ in left]
    # Whoever writes new records leaves them void; whoever sets a state leaves nothing.
    assert len(left) == (TOOLS[name].contract.idempotency != "natural")


@pytest.mark.parametrize("name", [name for name in UNDOABLE if TOOLS[name].contract.idempotency == "natural"])
async def test_undoing_what_was_so_already_changes_nothing(name: str) -> None:
    """Somebody else closed it before: that a run closes it too, and is undone, must not open it again."""
    prepare()
    await act(name)
    before = business()
    state = await done(name)
    assert business() == before
    await take_back(state)
    assert business() == before


@pytest.mark.parametrize("name", sorted(CALLS.keys() - set(UNDOABLE)))
async def test_what_stays_says_so(name: str) -> None:
    prepare()
    plan = planned(await done(name))
    assert not plan.compensations
    lost = TOOLS[name].contract.effect == "irreversible"
    why = "it cannot be undone" if lost else f"nothing is known to undo {name}"
    assert [stays.why for stays in plan.stays] == [why]


def test_the_readme_says_what_stays_and_why() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## What stays")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(CALLS.keys() - set(UNDOABLE))


def test_an_undo_does_not_take_what_others_have_by_now() -> None:
    """It is refused like anything else: somebody has to look."""
    cancel_slot(1)
    book_slot("Alder", "Talk", "2026-03-04T10:30", 30, reference="r")
    refused("double_booking", mark_slot, 1, "booked")
    released = release_stock(reserve_stock(1001, "RUG-JUTE", 1, key="a").id)
    reserve_stock(1014, "RUG-JUTE", 1, key="b")
    refused("stock_too_low", mark_reservation, released.id, "reserved")


@pytest.mark.parametrize("name", UNDOABLE)
async def test_whoever_may_do_it_may_undo_it(name: str) -> None:
    prepare()
    state = await done(name)
    policy = project.load(PROJECT).policy
    for user in [*policy.people, "a new colleague"]:
        theirs = replace(state, submit=event_pb2.Submit(goal=event_pb2.Goal(submitter=user)))
        (outlook,) = planned(theirs, Catalogue(CONTRACTS, policy=policy)).outlook
        # An old address was read from data that outsiders can write: to send goods there, somebody looks.
        assert outlook.ruling == (GATE if name == "change_address" else ALLOW), (user, outlook)
