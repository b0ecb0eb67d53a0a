"""What was measured, for people: the tables on the terminal and in docs/performance.md, of one results file.

The document's own words stay; what stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` is written anew.
"""  # noqa: E501

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import plot

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
PICTURE = "performance.svg"
CLASSES = {"always": "fsync before every step", "relaxed": "relaxed", "none": "nothing kept"}

Result = dict[str, Any]
Table = list[list[str]]


def sections(result: Result) -> dict[str, str]:
    """Return every part of the report, as Markdown, by name."""
    found = {"machine": _machine(result)}
    if "throughput" in result:
        rows = result["throughput"]["rows"]
        found["reads"] = _speeds(rows, "read", result["throughput"]["targets"])
        found["effects"] = _speeds(rows, "effect", result["throughput"]["targets"])
        found["reach"] = _markdown(reach(rows))
        found["costs"] = _markdown(_costs(rows, result["throughput"]["targets"]))
        found["settings"] = _settings(result["throughput"])
    for name, make in _OTHERS.items():
        if name in result:
            found[name] = make(result[name])
    return found


def terminal(result: Result) -> str:
    """Return the whole report for a terminal."""
    titles = {
        "machine": "Machine",
        "reads": "W1: five reads, one after another",
        "effects": "W1: five effects, one after another",
        "reach": "Beside the best durable peer",
        "costs": "What a plan costs (C=1)",
        "settings": "Settings",
        "crash": "W2: killed in the middle of an action",
        "parked": "W3: parked and released",
        "faults": "W4: one call in ten fails for the moment",
        "startup": "Start and memory",
    }
    parts = []
    for name, text in sections(result).items():
        parts.append(f"\n{titles[name]}\n\n{_plain(text)}")
    return "\n".join(parts)


def write_document(result: Result, document: Path = DOCUMENT) -> None:
    """Write the tables and the picture into the document."""
    text = document.read_text()
    for name, section in sections(result).items():
        pattern = rf"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)"
        text = re.sub(pattern, lambda m, s=section: f"{m[1]}\n{s}\n\n{m[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
    document.write_text(text)
    if "throughput" in result:
        document.with_name(PICTURE).write_text(plot.throughput(result["throughput"]["rows"]))


def load(path: Path) -> Result:
    """Read a results file."""
    result: Result = json.loads(path.read_text())
    return result


# --- W1 ------------------------------------------------------------------------------------------------


def reach(rows: Sequence[Result]) -> Table:
    """Return how many times the best peer of like durability we do."""
    table = [["durability", "plans of", *(f"C={c}" for c in _concurrencies(rows))]]
    for durability in ("always", "relaxed"):
        for case in ("read", "effect"):
            line = [CLASSES[durability], f"{case}s"]
            for concurrency in _concurrencies(rows):
                mine = _find(rows, durability, case, concurrency, lambda r: r["ours"])
                best = _find(
                    rows, durability, "read", concurrency, lambda r: not r["ours"] and not r["limit"]
                )
                line.append(f"{mine['plans_per_s'] / best['plans_per_s']:.2f}x" if mine and best else "-")
            table.append(line)
    return table


def _find(rows: Iterable[Result], durability: str, case: str, concurrency: int, wanted: Any) -> Result | None:
    """Return the fastest row that is wanted; of our own, the checkout that is here."""
    found = [
        row
        for row in rows
        if (row["durability"], row["case"], row["concurrency"]) == (durability, case, concurrency)
        and wanted(row)
    ]
    named = [row for row in found if row["target"] == "Handrail"]
    return max(named or found, key=lambda row: row["plans_per_s"], default=None)


def _speeds(rows: Sequence[Result], case: str, targets: Mapping[str, Result]) -> str:
    parts = []
    concurrencies = _concurrencies(rows)
    for durability, title in CLASSES.items():
        of_class = [r for r in rows if r["durability"] == durability and r["case"] == case]
        if not of_class:
            continue
        head = [title, *(f"C={c}: plans/s (p50, p99 ms)" for c in concurrencies)]
        table = [head]
        for target in dict.fromkeys(r["target"] for r in of_class):
            line = [target]
            for concurrency in concurrencies:
                row = next(
                    (r for r in of_class if r["target"] == target and r["concurrency"] == concurrency), None
                )
                line.append(_cell(row))
            table.append(line)
        parts.append(_markdown(table))
    return "\n\n".join(parts)


def _cell(row: Result | None) -> str:
    if row is None:
        return "-"
    wrong = f", {row['errors']} errors" if row["errors"] else ""
    return f"{row['plans_per_s']:.0f} ({_ms(row['p50_ms'])}, {_ms(row['p99_ms'])}{wrong})"


def _costs(rows: Sequence[Result], targets: Mapping[str, Result]) -> Table:
    table = [
        [
            "target",
            "durability",
            "case",
            "CPU ms per plan: C=1",
            "C=16",
            "fsyncs per plan",
            "stored messages",
            "bytes",
            "step p50, p99 ms",
            "memory MiB",
        ]
    ]
    for row in rows:
        if row["concurrency"] != 1:
            continue
        about = targets.get(f"{row['target']} ({row['durability']})", {})
        same = ("target", "durability", "case")
        busy = [r for r in rows if r["concurrency"] == 16 and all(r[k] == row[k] for k in same)]
        syncs = about.get("fsyncs", {}).get(row["case"])
        table.append(
            [
                row["target"],
                row["durability"],
                row["case"],
                f"{sum(row['cpu_ms'].values()):.1f}",
                f"{sum(busy[0]['cpu_ms'].values()):.1f}" if busy else "-",
                "-" if syncs is None else f"{syncs:.1f}",
                f"{row['events']:.1f}" if "events" in row else "-",
                f"{row['bytes']:.0f}" if "bytes" in row else "-",
                f"{row['step_p50_ms']:.1f}, {row['step_p99_ms']:.1f}" if "step_p50_ms" in row else "-",
                f"{about['memory_mib']:.0f}" if "memory_mib" in about else "-",
            ]
        )
    return table


def _settings(measured: Result) -> str:
    lines = [f"- {name}: {about['settings']}" for name, about in measured["targets"].items()]
    lines += [f"- skipped: {name}: {' '.join(why.split())}" for name, why in measured["skipped"].items()]
    return "\n".join(lines)


def _concurrencies(rows: Iterable[Result]) -> list[int]:
    return sorted({row["concurrency"] for row in rows})


# --- the rest ------------------------------------------------------------------------------------------


def _machine(result: Result) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    effort = result["effort"]
    return "\n".join(
        [
            f"- {machine['date']}, commit {machine['commit']}",
            f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}, "  # noqa: E501
            f"{machine['disk']}",
            f"- load average before: {machine['load_average']} (1 would be one busy core of somebody else's)",
            f"- Python {machine['python']}; {versions}",
            f"- medians of {effort['rounds']} rounds of {effort['seconds']:g} s; tracing {effort['tracing']}",
        ]
    )


def _crash(measured: Result) -> str:
    table = [
        [
            "target",
            "what was killed",
            "kills",
            "in flight",
            "called again",
            "effects twice",
            "lost",
            "surfaced as in doubt",
            "runs lost at launch",
            "recovered after, p50, max s",
        ]
    ]
    for row in measured["rows"]:
        table.append(
            [
                row["target"],
                row["killed"],
                str(row["kills"]),
                str(row["in_flight"]),
                str(row["repeated"]),
                str(row["doubled"]),
                str(row["lost"]),
                str(row["doubt"]),
                row["launch"],
                f"{row['recovery_p50_s']:.1f}, {row['recovery_max_s']:.1f}",
            ]
        )
    return _markdown(table)


def _parked(measured: Result) -> str:
    return _markdown([["measure", "value"], *([name, str(value)] for name, value in measured.items())])


def _faults(measured: Result) -> str:
    table = [
        ["plans of", "plans", "done", "actions beyond the five", "plans/s", "expected spans that arrived"]
    ]
    for row in measured["rows"]:
        table.append(
            [
                row["case"],
                str(row["plans"]),
                f"{row['done_share']:.1%}",
                f"{row['extra_share']:.1%}",
                f"{row['plans_per_s']:.0f}",
                row["spans"],
            ]
        )
    return _markdown(table)


_OTHERS = {"crash": _crash, "parked": _parked, "faults": _faults, "startup": _parked}


# --- tables --------------------------------------------------------------------------------------------


def _markdown(table: Table) -> str:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in table
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _plain(markdown: str) -> str:
    """Return it without what only Markdown needs."""
    kept = [line for line in markdown.splitlines() if not re.fullmatch(r"[|-]+", line)]
    return "\n".join(re.sub(r"^\| | \|$", "", line).replace(" | ", "   ") for line in kept)


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
