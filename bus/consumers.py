"""The durable consumers: who hears what. One table, which the permissions are derived from too."""

from __future__ import annotations

from core.ports import Consumer


def decider() -> Consumer:
    """Everything of a shard, to one decider at a time."""
    return Consumer("decider", ("ev.{shard}.>",), pinned=True, max_ack_pending=10_000)


def ticks() -> Consumer:
    """The ticks of a shard's timers."""
    return Consumer("ticks", ("timer.due.{shard}.>",), stream="timer")


def tracer() -> Consumer:
    """The ends of runs and of their undos, and the doubts that wait for a human."""
    kinds = ("finished", "undo_ended", "in_doubt")
    return Consumer("tracer", tuple(f"ev.{{shard}}.*.*.dec.note.{kind}" for kind in kinds))


def mind(role: str, pool: str) -> Consumer:
    """The asks of a planner or executor pool."""
    return Consumer(f"{role}-{pool}", (f"ev.{{shard}}.*.*.dec.ask.{role}.{pool}",))


def worker(pool: str) -> Consumer:
    """The authorised actions of a toolbox."""
    return Consumer(f"worker-{pool}", (f"ev.{{shard}}.*.*.dec.ask.worker.{pool}",))


def verifier(pool: str) -> Consumer:
    """Results, as the workers write them, and the decider's requests to look again."""
    return Consumer(
        f"verifier-{pool}",
        ("ev.{shard}.*.*.ans.worker.*.result.*", f"ev.{{shard}}.*.*.dec.ask.verifier.{pool}"),
    )
