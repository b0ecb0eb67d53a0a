"""What was measured, for people: the tables on the terminal and in docs/performance.md, of one results file.

The document's own words stay; what is between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` is replaced.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench import batches, learning, plot, public, routes, speeds, tables
from bench.tables import Table

TITLES = {
    "machine": "Machine",
    "reads": "W1: five reads, one after another",
    "effects": "W1: five effects, one after another",
    "reach": "Beside the best durable peer",
    "plan": "What a plan of ours takes and costs",
    "costs": "What a plan costs everybody",
    "settings": "Settings",
    "crash": "W2: killed in the middle of an action",
    "parked": "W3: parked and released",
    "faults": "W4: one call in ten fails for the moment",
    "gated": "W5: waiting at gates",
    "startup": "Start and memory",
    "learning": "After so many verified runs",
    "public": "Calls of a public set",
    "routes": "The same goals by three routes",
    "batches": "Goals a second of the action model",
    "failed": "Not measured",
}
NOT_MEASURED = "*Not measured in this run.*"

Result = dict[str, Any]


def sections(result: Result) -> dict[str, str]:
    """Return every part of the report, as Markdown, by name."""
    found = {"machine": _machine(result)} if "effort" in result else {}
    if "throughput" in result:
        found |= speeds.sections(result["throughput"])
    for name, make in _OTHERS.items():
        if result.get(name):
            found[name] = make(result[name])
    return found


def terminal(result: Result) -> str:
    """Return the whole report for a terminal."""
    parts = [f"\n{TITLES[name]}\n\n{tables.plain(text)}" for name, text in sections(result).items()]
    return "\n".join(parts)


def write_document(result: Result, document: Path) -> None:
    """Write the tables into the document, and the picture beside it."""
    found = sections(result)

    def replaced(match: re.Match[str]) -> str:
        section = found.get(match["name"], NOT_MEASURED)
        return f"<!-- bench:{match['name']} -->\n\n{section}\n\n<!-- /bench:{match['name']} -->"

    pattern = r"<!-- bench:(?P<name>\w+) -->\n.*?<!-- /bench:(?P=name) -->"
    document.write_text(re.sub(pattern, replaced, document.read_text(), flags=re.DOTALL))
    if "throughput" in result:
        document.with_suffix(".svg").write_text(plot.throughput(result["throughput"]["rows"]))


def load(path: Path) -> Result:
    """Read a results file."""
    result: Result = json.loads(path.read_text())
    return result


def _machine(result: Result) -> str:
    machine, effort = result["machine"], result["effort"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    place = f"{machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}"
    before, after = machine["load_average"], machine.get("load_average_after", tables.NONE)
    stolen = f"{machine.get('stolen_share', 0.0):.1%}"
    return "\n".join(
        [
            f"- {machine['date']}, commit {machine['commit']}, {machine.get('wall_s', 0) / 60:.0f} minutes",
            f"- {machine['cpu']}, {place}, temporary files on {machine['disk']}",
            f"- shared with: {machine['busy_cores']:.2f} cores were busy with others before it began, load "
            f"average {before}; after it {after}; {stolen} of the time was taken by the hypervisor",
            f"- Python {machine['python']}; {versions}",
            f"- medians of {effort['rounds']} rounds of {effort['seconds']:g} s; {effort['tracing']}",
        ]
    )


def _crash(measured: Result) -> str:
    head = ["target", "what was killed", "kills", "in flight", "called again", "effects twice", "lost"]
    head += ["surfaced as in doubt", "runs lost at launch", "recovered after, p50, max s"]
    table: Table = [head]
    for row in measured["rows"]:
        counts = [row[name] for name in ("kills", "in_flight", "repeated", "doubled", "lost", "doubt")]
        recovery = f"{row['recovery_p50_s']:.1f}, {row['recovery_max_s']:.1f}"
        table.append([row["target"], row["killed"], *map(str, counts), row["launch"], recovery])
    skipped = [f"- skipped: {name}: {' '.join(why.split())}" for name, why in measured["skipped"].items()]
    return "\n".join([tables.markdown(table), *([""] if skipped else []), *skipped])


def _measures(measured: Result) -> str:
    return tables.markdown([["measure", "value"], *([name, str(value)] for name, value in measured.items())])


def _faults(measured: Result) -> str:
    head = ["plans of", "plans", "done", "actions beyond the five", "plans/s"]
    head += ["traces that are whole", "expected spans that arrived", "caught up after, s"]
    table: Table = [head]
    for row in measured["rows"]:
        traces = row["traces"]
        table.append(
            [
                row["case"],
                str(row["plans"]),
                f"{row['done_share']:.1%}",
                f"{row['extra_share']:.1%}",
                f"{row['plans_per_s']:.0f}",
                f"{traces['whole']} of {traces['runs']} ({_share(traces['whole'], traces['runs'])})",
                f"{traces['arrived']} of {traces['expected']}",
                f"{row['caught_up_s']:.1f}",
            ]
        )
    return tables.markdown(table)


def _share(part: int, whole: int) -> str:
    """Return a percentage that says 100 only if it is."""
    share = 100 * part / max(1, whole)
    return "100 %" if part == whole else f"{min(share, 99.9):.1f} %"


def _failed(measured: Result) -> str:
    return "\n".join(f"- {name}: {' '.join(why.split())}" for name, why in measured.items())


_OTHERS = {
    "crash": _crash,
    "parked": _measures,
    "faults": _faults,
    "gated": _measures,
    "startup": _measures,
    "learning": learning.table,
    "public": public.table,
    "routes": routes.table,
    "batches": batches.table,
    "failed": _failed,
}
