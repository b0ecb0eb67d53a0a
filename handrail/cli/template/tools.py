"""The tools of this project: a shed of things to lend, kept in a small SQLite file.

`@tool` turns a typed function into a tool with a contract; `handrail tools check` says whether the contracts
make sense. A worker calls these functions; a verifier reads the shed back after every effect.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel

from handrail.tool import ToolError, call, tool

PROJECT = Path(__file__).resolve().parent
Thing = Literal["drill", "ladder", "saw", "wheelbarrow"]


class Item(BaseModel):
    """A thing of the shed, and who has it (nobody, if it is in)."""

    name: Thing
    borrower: str | None


class Loan(BaseModel):
    """One lending of a thing."""

    id: int
    item: Thing
    borrower: str


@contextmanager
def shed() -> Iterator[sqlite3.Connection]:
    """Open the shed's file (SHED_DB) for one transaction; it is made at first use."""
    path = PROJECT / os.environ.get("SHED_DB", "shed.db")
    with closing(sqlite3.connect(path, timeout=5.0)) as db, db:
        db.row_factory = sqlite3.Row
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE IF NOT EXISTS items (name TEXT PRIMARY KEY, borrower TEXT)")
        db.execute(
            "CREATE TABLE IF NOT EXISTS loans"
            " (id INTEGER PRIMARY KEY, item TEXT NOT NULL, borrower TEXT NOT NULL, key TEXT NOT NULL UNIQUE)"
        )
        if db.execute("SELECT count(*) FROM items").fetchone()[0] == 0:
            db.executemany("INSERT INTO items (name) VALUES (?)", [(name,) for name in get_args(Thing)])
        yield db


# What a tool returns is untrusted, but for fields that it endorses: nobody outside can write these. Only what
# cannot hold free text can be endorsed, and a name out of this list cannot.
@tool(effect="read", endorses=["name"])
def get_item(name: str) -> Item:
    """Look a thing up by its name."""
    with shed() as db:
        row = db.execute("SELECT * FROM items WHERE name = ?", (name.lower(),)).fetchone()
    if row is None:
        # A ToolError says that nothing happened, and gives the failure a stable code.
        raise ToolError(f"there is no {name!r} in the shed", code="item_not_found")
    return Item(name=row["name"], borrower=row["borrower"])


@tool(effect="read")
def loan_by_key(key: str) -> Loan | None:
    """Look a loan up by the key under which it was made; nothing where there is none."""
    with shed() as db:
        row = db.execute("SELECT * FROM loans WHERE key = ?", (key,)).fetchone()
    return None if row is None else Loan(id=row["id"], item=row["item"], borrower=row["borrower"])


# An effect that must happen once: it is `keyed`, so every attempt comes with the same key, and a repeated key
# returns the first outcome. `post` is what the verifier checks afterwards, against what it reads itself.
@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    readback="loan_by_key",
    undo=call("return_item", item="args.item"),
    reads={"item": call("get_item", name="args.item")},
    post="reads.item.borrower == args.borrower && output.item == reads.item.name",
    critical=["item", "borrower"],
)
def lend_item(item: str, borrower: str, key: str) -> Loan:
    """Lend a thing to somebody."""
    name = item.lower()
    with shed() as db:
        row = db.execute("SELECT * FROM loans WHERE key = ?", (key,)).fetchone()
        if row is None:
            free = db.execute(
                "UPDATE items SET borrower = ? WHERE name = ? AND borrower IS NULL", (borrower, name)
            )
            if free.rowcount == 0:
                raise ToolError(f"the {name} is not in the shed", code="item_not_in")
            row = db.execute(
                "INSERT INTO loans (item, borrower, key) VALUES (?, ?, ?) RETURNING *", (name, borrower, key)
            ).fetchone()
        return Loan(id=row["id"], item=row["item"], borrower=row["borrower"])


# Doing it twice changes nothing more: it is idempotent by nature, and needs no key. What its undo needs is
# read before it is done: where nobody had the thing, there is nothing to take back.
@tool(
    effect="write",
    idempotency="natural",
    undo=call("lend_item", item="args.item", borrower="reads.item.borrower"),
    reads={"item": call("get_item", name="args.item")},
    post="reads.item.borrower == null",
)
def return_item(item: str) -> Item:
    """Take a thing back into the shed."""
    with shed() as db:
        db.execute("UPDATE items SET borrower = NULL WHERE name = ?", (item.lower(),))
    return get_item(item)
