"""W1 for people: plans per second, what they take and cost, and how we stand beside the best durable peer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench import tables
from bench.tables import NONE, Table

CLASSES = {"always": "fsync before every step", "relaxed": "relaxed", "none": "nothing kept"}
# How many times the best peer of like durability we mean to do; no peer protects effects as we do.
REACH = {
    ("always", "read"): {1: 1.0, 16: 2.0, 64: 2.0},
    ("always", "effect"): {1: 1.0, 16: 1.0, 64: 1.0},
    ("relaxed", "read"): {1: 2.0, 16: 3.0, 64: 3.0},
}
OURS = "Handrail"

Result = dict[str, Any]


def sections(measured: Result) -> dict[str, str]:
    """Return every table, by name."""
    rows, targets = measured["rows"], measured["targets"]
    found = {"reads": _speeds(rows, "read"), "effects": _speeds(rows, "effect")}
    if any(_is_peer(row) for row in rows):
        found["reach"] = tables.markdown(reach(rows))
    found["plan"] = tables.markdown(_plan(rows, targets))
    found["costs"] = tables.markdown(_costs(rows, targets))
    found["settings"] = _settings(measured)
    return found


def reach(rows: Sequence[Result]) -> Table:
    """Return how many times the best peer of like durability we do, and how many we mean to."""
    table = [["durability", "plans of", "at a time", "Handrail", "best peer", "times", "reach", "reached"]]
    for durability in ("always", "relaxed"):
        for case in ("read", "effect"):
            for concurrency in _concurrencies(rows):
                mine = _fastest(rows, durability, case, concurrency, _is_ours)
                best = _fastest(rows, durability, "read", concurrency, _is_peer)
                if mine is None or best is None:
                    continue
                times = mine["plans_per_s"] / max(best["plans_per_s"], 0.1)
                wanted = REACH.get((durability, case), {}).get(concurrency)
                table.append(
                    [
                        CLASSES[durability],
                        f"{case}s",
                        str(concurrency),
                        f"{mine['plans_per_s']:.0f}/s",
                        f"{best['plans_per_s']:.0f}/s ({best['target']})",
                        f"{times:.2f}x",
                        NONE if wanted is None else f"{wanted:.0f}x",
                        NONE if wanted is None else "yes" if times >= wanted else "**no**",
                    ]
                )
    return table


def _is_ours(row: Result) -> bool:
    """Whether it is the checkout that is here."""
    return bool(row["ours"] and row["target"] == OURS)


def _is_peer(row: Result) -> bool:
    return not row["ours"] and not row["limit"]


def _fastest(
    rows: Iterable[Result], durability: str, case: str, concurrency: int, wanted: Callable[[Result], bool]
) -> Result | None:
    about = (durability, case, concurrency)
    found = [r for r in rows if (r["durability"], r["case"], r["concurrency"]) == about and wanted(r)]
    return max(found, key=lambda row: float(row["plans_per_s"]), default=None)


def _speeds(rows: Sequence[Result], case: str) -> str:
    parts = []
    concurrencies = _concurrencies(rows)
    for durability, title in CLASSES.items():
        of_class = [r for r in rows if r["durability"] == durability and r["case"] == case]
        if not of_class:
            continue
        table = [[title, *(f"C={c}: plans/s (p50, p99 ms)" for c in concurrencies)]]
        for target in dict.fromkeys(r["target"] for r in of_class):
            cells = {r["concurrency"]: _cell(r) for r in of_class if r["target"] == target}
            table.append([target, *(cells.get(concurrency, NONE) for concurrency in concurrencies)])
        parts.append(tables.markdown(table))
    return "\n\n".join(parts)


def _cell(row: Result) -> str:
    wrong = f", {row['errors']} errors" if row["errors"] else ""
    return f"{row['plans_per_s']:.0f} ({tables.ms(row['p50_ms'])}, {tables.ms(row['p99_ms'])}{wrong})"


def _plan(rows: Sequence[Result], targets: Mapping[str, Result]) -> Table:
    """Return what a plan of ours takes and costs."""
    head = ["durability", "plans of", "at a time", "plans/s", "of the limit", "plan p50, p99 ms"]
    head += ["step p50, p99 ms", "CPU ms", "of it tracer", "traced after, s", "events", "bytes", "fsyncs"]
    table = [head]
    for row in rows:
        if not row["ours"]:
            continue
        limit = _fastest(rows, row["durability"], row["case"], row["concurrency"], _is_chain)
        # Counted with one plan at a time only: under load counting them would slow the broker down.
        fsyncs = _about(targets, row).get("fsyncs", {}).get(row["case"]) if row["concurrency"] == 1 else None
        table.append(
            [
                CLASSES[row["durability"]] + ("" if _is_ours(row) else f": {row['target']}"),
                f"{row['case']}s",
                str(row["concurrency"]),
                f"{row['plans_per_s']:.0f}",
                f"{row['plans_per_s'] / limit['plans_per_s']:.0%}" if limit else NONE,
                f"{tables.ms(row['p50_ms'])}, {tables.ms(row['p99_ms'])}",
                f"{tables.ms(row.get('step_p50_ms'))}, {tables.ms(row.get('step_p99_ms'))}",
                f"{sum(row['cpu_ms'].values()):.1f}",
                f"{row['cpu_ms'].get('tracer', 0.0):.1f}",
                tables.number(row.get("drain_s")),
                tables.number(row.get("events")),
                tables.number(row.get("bytes"), 0),
                tables.number(fsyncs),
            ]
        )
    return table


def _is_chain(row: Result) -> bool:
    return bool(row["limit"]) and "to and fro" in row["target"]


def _costs(rows: Sequence[Result], targets: Mapping[str, Result]) -> Table:
    """Return what a plan of everybody's costs."""
    concurrencies = _concurrencies(rows)
    head = ["target", "durability", "plans of", *(f"CPU ms: C={c}" for c in concurrencies)]
    table = [[*head, "fsyncs (C=1)", "memory MiB"]]
    for target, durability, case in dict.fromkeys((r["target"], r["durability"], r["case"]) for r in rows):
        mine = [r for r in rows if (r["target"], r["durability"], r["case"]) == (target, durability, case)]
        about = _about(targets, mine[0])
        cpu = {r["concurrency"]: f"{sum(r['cpu_ms'].values()):.1f}" for r in mine}
        table.append(
            [
                target,
                durability,
                f"{case}s",
                *(cpu.get(concurrency, NONE) for concurrency in concurrencies),
                tables.number(about.get("fsyncs", {}).get(case)),
                tables.number(about.get("memory_mib"), 0),
            ]
        )
    return table


def _about(targets: Mapping[str, Result], row: Result) -> Result:
    found: Result = targets.get(f"{row['target']} ({row['durability']})", {})
    return found


def _settings(measured: Result) -> str:
    lines = [f"- {name}: {about['settings']}" for name, about in measured["targets"].items()]
    lines += [f"- skipped: {name}: {' '.join(why.split())}" for name, why in measured["skipped"].items()]
    return "\n".join(lines)


def _concurrencies(rows: Iterable[Result]) -> list[int]:
    return sorted({row["concurrency"] for row in rows})
