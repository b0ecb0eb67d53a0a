"""The picture in docs/performance.md: plans per second of every target, drawn as SVG without a library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

TITLES = {
    "always": "fsync before every step",
    "relaxed": "relaxed: the last moments can be lost with the power",
}
OURS = ("#0b6e4f", "#3aa17e")
LIMITS = ("#b8b8b8", "#d9d9d9")
PEERS = ("#c1554d", "#d98c5f", "#5b7db1", "#8fa8cf", "#8a63a8", "#b79bc9")
WIDTH, PANEL_HEIGHT, LEFT, TOP = 900, 250, 60, 40
BAR_SHARE = 0.86
LEGEND_ROW = 18
LEGEND_COLUMNS = 3

Result = dict[str, Any]


def throughput(rows: Sequence[Result]) -> str:
    """Draw one panel for each durability: groups of bars by concurrency, one bar for each target."""
    series = _series(rows)
    colours = _colours(rows, series)
    panels = [durability for durability in TITLES if any(r["durability"] == durability for r in rows)]
    legend_top = TOP + len(panels) * (PANEL_HEIGHT + 60)
    height = legend_top + LEGEND_ROW * (-(-len(series) // LEGEND_COLUMNS)) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, 20, "Plans of five sequential steps per second", size=15, bold=True),
    ]
    for i, durability in enumerate(panels):
        parts += _panel(rows, durability, series, colours, TOP + 20 + i * (PANEL_HEIGHT + 60))
    for i, (target, case) in enumerate(series):
        x = LEFT + (i % LEGEND_COLUMNS) * (WIDTH - LEFT) // LEGEND_COLUMNS
        y = legend_top + (i // LEGEND_COLUMNS) * LEGEND_ROW
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colours[target, case]}"/>')
        parts.append(_text(x + 15, y, _label(rows, target, case)))
    return "\n".join([*parts, "</svg>", ""])


def _series(rows: Sequence[Result]) -> list[tuple[str, str]]:
    """Return what gets a bar: our reads and effects, the limit, the peers; in that order."""
    found = dict.fromkeys(
        (row["target"], row["case"])
        for row in rows
        if row["durability"] in TITLES and (row["ours"] or row["case"] == "read")
    )
    return sorted(found, key=lambda one: (not _is(rows, one[0], "ours"), _is(rows, one[0], "limit")))


def _is(rows: Sequence[Result], target: str, what: str) -> bool:
    return any(row["target"] == target and row[what] for row in rows)


def _colours(rows: Sequence[Result], series: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    palettes = {"ours": iter(OURS * 4), "limit": iter(LIMITS * 4), "": iter(PEERS * 4)}
    found = {}
    for one in series:
        kind = "ours" if _is(rows, one[0], "ours") else "limit" if _is(rows, one[0], "limit") else ""
        found[one] = next(palettes[kind])
    return found


def _panel(
    rows: Sequence[Result],
    durability: str,
    series: Sequence[tuple[str, str]],
    colours: dict[tuple[str, str], str],
    top: int,
) -> list[str]:
    of_class = [row for row in rows if row["durability"] == durability]
    concurrencies = sorted({row["concurrency"] for row in of_class})
    # The limit is far above: where it would flatten all else, its bars are cut, with their number on them.
    reached = [row["plans_per_s"] for row in of_class if not row["limit"]]
    highest = max(reached, default=1.0) * 1.25
    bottom = top + PANEL_HEIGHT
    parts = [_text(LEFT, top - 6, TITLES[durability], bold=True)]
    for i in range(5):
        value = highest * i / 4
        y = bottom - PANEL_HEIGHT * i / 4
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y:.0f}" y2="{y:.0f}" stroke="#e4e4e4"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{value:.0f}", anchor="end"))
    group = (WIDTH - LEFT - 10) / len(concurrencies)
    for g, concurrency in enumerate(concurrencies):
        bar = group * BAR_SHARE / len(series)
        for b, (target, case) in enumerate(series):
            named = (target, case, concurrency)
            row = next((r for r in of_class if (r["target"], r["case"], r["concurrency"]) == named), None)
            if row is None:
                continue
            tall = PANEL_HEIGHT * min(1.0, row["plans_per_s"] / highest)
            x = LEFT + g * group + group * (1 - BAR_SHARE) / 2 + b * bar
            parts.append(
                f'<rect x="{x:.1f}" y="{bottom - tall:.1f}" width="{bar - 2:.1f}" height="{tall:.1f}" '
                f'fill="{colours[target, case]}"/>'
            )
            label = _text(
                x + bar / 2 - 1, bottom - tall - 3, f"{row['plans_per_s']:.0f}", anchor="middle", size=9
            )
            parts.append(label)
        parts.append(
            _text(LEFT + (g + 0.5) * group, bottom + 16, f"{concurrency} at a time", anchor="middle")
        )
    return parts


def _label(rows: Sequence[Result], target: str, case: str) -> str:
    return f"{target}, {case}s" if _is(rows, target, "ours") else target


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight} fill="#222">'
        f"{escape(text)}</text>"
    )
