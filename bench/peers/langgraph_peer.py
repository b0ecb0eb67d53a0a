"""LangGraph as a peer: a graph of five nodes in a row, with a checkpointer and `durability="sync"`.

Runs in its own venv. `--style threads` calls `invoke` with the synchronous savers, `async` calls `ainvoke`
with the asynchronous ones.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import sys
import threading
import time
import uuid
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from bench.drive import serve_async, serve_threads

STEPS = 5
MAX_CONNECTIONS = 16
GRAPHS = 16


class Numbers(TypedDict):
    """The state of the graph."""

    n: int


def graph(saver: Any, asynchronous: bool) -> Any:
    """Return the compiled graph."""

    def step(state: Numbers) -> Numbers:
        return {"n": state["n"] + 1}

    async def step_async(state: Numbers) -> Numbers:
        return {"n": state["n"] + 1}

    builder = StateGraph(Numbers)
    names = [f"s{i}" for i in range(1, STEPS + 1)]
    for name in names:
        builder.add_node(name, step_async if asynchronous else step)
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return builder.compile(checkpointer=saver)


def config() -> dict[str, Any]:
    """Name a thread of its own for every plan."""
    return {"configurable": {"thread_id": uuid.uuid4().hex}}


def check(state: Numbers) -> None:
    """Fail unless every node has run."""
    if state["n"] != STEPS:
        raise AssertionError(f"the graph ended with {state}")


def synchronous(durability: str) -> str:
    """Name SQLite's setting of a durability."""
    return "FULL" if durability == "always" else "NORMAL"


def several(saver: Any, pool: Any) -> list[Any]:
    """Return savers of one pool: a saver carries out one operation at a time, even where it has a pool."""
    return [saver] if pool is None else [saver, *(type(saver)(pool) for _ in range(GRAPHS - 1))]


def open_saver(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Return a synchronous saver, and its pool if it has one."""
    pool: Any = None
    if arguments.store == "sqlite":
        from langgraph.checkpoint.sqlite import SqliteSaver

        connection = sqlite3.connect(os.path.join(arguments.place, "langgraph.db"), check_same_thread=False)
        connection.execute(f"PRAGMA synchronous={synchronous(arguments.durability)}")
        saver: Any = SqliteSaver(connection)
    elif arguments.store == "postgres":
        from langgraph.checkpoint.postgres import PostgresSaver
        from psycopg.rows import dict_row
        from psycopg_pool import ConnectionPool

        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        pool = ConnectionPool(arguments.url, min_size=4, max_size=MAX_CONNECTIONS, kwargs=options, open=True)
        saver = PostgresSaver(pool)
    else:
        from langgraph.checkpoint.memory import InMemorySaver

        saver = InMemorySaver()
    if hasattr(saver, "setup"):
        saver.setup()
    return saver, pool


def serve_with_threads(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Answer the bench with `invoke`."""
    mode: dict[str, Any] = {"durability": "sync"}
    saver, pool = open_saver(arguments)
    graphs = [graph(one, asynchronous=False) for one in several(saver, pool)]
    serve_threads(lambda i: check(graphs[i % len(graphs)].invoke({"n": 0}, config(), **mode)), settings)


async def serve_on_loop(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Answer the bench with `ainvoke`."""
    pool: Any = None
    if arguments.store == "sqlite":
        import aiosqlite
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        connection = await aiosqlite.connect(os.path.join(arguments.place, "langgraph.db"))
        await connection.execute(f"PRAGMA synchronous={synchronous(arguments.durability)}")
        saver: Any = AsyncSqliteSaver(connection)
        await saver.setup()
    elif arguments.store == "postgres":
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool

        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        pool = AsyncConnectionPool(
            arguments.url, min_size=4, max_size=MAX_CONNECTIONS, kwargs=options, open=False
        )
        await pool.open()
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
    else:
        from langgraph.checkpoint.memory import InMemorySaver

        saver = InMemorySaver()
    graphs = [graph(one, asynchronous=True) for one in several(saver, pool)]

    async def run_plan(i: int) -> None:
        check(await graphs[i % len(graphs)].ainvoke({"n": 0}, config(), durability="sync"))

    await serve_async(run_plan, settings)


class Charge(TypedDict):
    """The state of the graph that is killed."""

    item: str


def note(*words: str) -> None:
    """Write a line into the ledger, outside."""
    with open(os.environ["BENCH_LEDGER"], "a", encoding="utf-8") as ledger:
        ledger.write(" ".join(words) + "\n")


def charge(state: Charge) -> Charge:
    """Charge, slowly."""
    note("call", state["item"])
    time.sleep(float(os.environ["BENCH_EFFECT_S"]))
    note("end", state["item"])
    return state


def be_killed(arguments: argparse.Namespace) -> None:
    """Go on with what was interrupted, as the documentation says: invoke with None; then take new items."""
    saver, pool = open_saver(arguments)
    builder = StateGraph(Charge)
    builder.add_node("charge", charge)
    builder.add_edge(START, "charge")
    builder.add_edge("charge", END)
    compiled = [builder.compile(checkpointer=one) for one in several(saver, pool)]

    def run(number: int, item: str, given: Charge | None) -> None:
        place = {"configurable": {"thread_id": item}}
        if given is not None:
            note("begin", item)
        compiled[number % len(compiled)].invoke(given, place, durability="sync")
        note("done", item)

    known = sorted({one.config["configurable"]["thread_id"] for one in saver.list(None)})
    for number, item in enumerate(known):
        if not compiled[0].get_state({"configurable": {"thread_id": item}}).next:
            note("done", item)
        else:
            threading.Thread(target=run, args=(number, item, None), daemon=True).start()
    print('{"ready": true}', flush=True)
    for number, line in enumerate(sys.stdin):
        item = line.strip()
        threading.Thread(target=run, args=(number, item, {"item": item}), daemon=True).start()


def main() -> None:
    """Serve the bench as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", choices=("sqlite", "postgres", "memory"), required=True)
    parser.add_argument("--durability", choices=("always", "relaxed"), default="always")
    parser.add_argument("--style", choices=("threads", "async"), default="threads")
    parser.add_argument("--place", default=".")
    parser.add_argument("--url", default="")
    parser.add_argument("--crash", action="store_true")
    arguments = parser.parse_args()
    settings = {"style": arguments.style}
    if arguments.crash:
        be_killed(arguments)
    elif arguments.style == "async":
        asyncio.run(serve_on_loop(arguments, settings))
    else:
        serve_with_threads(arguments, settings)


if __name__ == "__main__":
    main()
