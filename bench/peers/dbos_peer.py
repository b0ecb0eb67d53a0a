"""DBOS as a peer: a workflow of five steps, in its own venv and process."""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import sys
import threading
import time
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, SetWorkflowID

from bench.drive import serve_async, serve_threads

STEPS = 5
POOL_SIZE = 32


@DBOS.step()
def step(n: int) -> int:
    """Return the next number."""
    return n + 1


@DBOS.workflow()
def plan(n: int) -> int:
    """Take five steps."""
    for _ in range(STEPS):
        n = step(n)
    return n


@DBOS.step()
async def step_async(n: int) -> int:
    """Return the next number."""
    return n + 1


@DBOS.workflow()
async def plan_async(n: int) -> int:
    """Take five steps."""
    for _ in range(STEPS):
        n = await step_async(n)
    return n


def note(*words: str) -> None:
    """Write a line into the ledger, outside."""
    with open(os.environ["BENCH_LEDGER"], "a", encoding="utf-8") as ledger:
        ledger.write(" ".join(words) + "\n")


@DBOS.step()
def charge(item: str) -> str:
    """Charge, slowly."""
    note("call", item)
    time.sleep(float(os.environ["BENCH_EFFECT_S"]))
    note("end", item)
    return item


@DBOS.workflow()
def purchase(item: str) -> str:
    """Charge once, one hopes."""
    return charge(item)


def be_killed() -> None:
    """Launching has recovered what was interrupted, as the documentation says; then take new items."""

    def follow(handle: Any) -> None:
        handle.get_result()
        note("done", handle.workflow_id)

    def begin(item: str) -> None:
        note("begin", item)
        with SetWorkflowID(item):
            handle = DBOS.start_workflow(purchase, item)
        note("ack", item)
        follow(handle)

    for known in DBOS.list_workflows():
        handle = DBOS.retrieve_workflow(known.workflow_id)
        threading.Thread(target=follow, args=(handle,), daemon=True).start()
    print('{"ready": true}', flush=True)
    for line in sys.stdin:
        threading.Thread(target=begin, args=(line.strip(),), daemon=True).start()


def check(n: int) -> None:
    """Fail unless every step was taken."""
    if n != STEPS:
        raise AssertionError(f"the workflow ended with {n}")


def configure(arguments: argparse.Namespace) -> None:
    """Start DBOS on its system database."""
    config: DBOSConfig = {
        "name": "bench",
        "log_level": "ERROR",
        "application_version": "bench",
        "executor_id": f"bench-{arguments.number}",
    }
    if arguments.store == "sqlite":
        path = os.path.join(arguments.place, "dbos.db")
        # The library leaves the journal as it is; a write-ahead log, which stays set, is its faster mode.
        sqlite3.connect(path).execute(f"PRAGMA journal_mode={arguments.journal}")
        level = "FULL" if arguments.durability == "always" else "NORMAL"

        @sa.event.listens_for(sa.engine.Engine, "connect")
        def set_synchronous(connection: Any, record: Any) -> None:
            connection.execute(f"PRAGMA synchronous={level}")

        config["system_database_url"] = f"sqlite:///{path}"
    else:
        config["system_database_url"] = arguments.url
        config["sys_db_pool_size"] = POOL_SIZE
    DBOS(config=config)
    DBOS.launch()


def main() -> None:
    """Serve the bench as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", choices=("sqlite", "postgres"), required=True)
    parser.add_argument("--durability", choices=("always", "relaxed"), default="always")
    parser.add_argument("--style", choices=("threads", "async"), default="threads")
    parser.add_argument("--journal", choices=("WAL", "DELETE"), default="WAL")
    parser.add_argument("--number", default="0")
    parser.add_argument("--place", default=".")
    parser.add_argument("--url", default="")
    parser.add_argument("--crash", action="store_true")
    arguments = parser.parse_args()
    configure(arguments)
    if arguments.crash:
        be_killed()
    elif arguments.style == "threads":
        serve_threads(lambda _: check(plan(0)), {"style": "threads"})
    else:

        async def run_plan(_: int) -> None:
            check(await plan_async(0))

        asyncio.run(serve_async(run_plan, {"style": "async"}))
    DBOS.destroy()


if __name__ == "__main__":
    main()
