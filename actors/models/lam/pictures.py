"""How good a model is, as pictures: whether it is right as often as it is sure, and how much it may act on.

SVG by hand, of a few figures each; the same judgements make the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Judgements = Sequence[tuple[float, bool]]
"""How sure it was of each decision, and whether it was right."""

BINS = 10
SIZE, LEFT, TOP = 360, 56, 40
WIDTH, HEIGHT = LEFT + SIZE + 150, TOP + SIZE + 60
COLOURS = ("#1f6feb", "#bf5700", "#2e7d32", "#8e24aa")
LOWEST_PRECISION = 0.5


@dataclass(frozen=True, slots=True)
class Bin:
    """Decisions of which it was about as sure."""

    count: int
    # The means of how sure it was, and of whether it was right.
    sure: float
    right: float


def bins_of(judgements: Judgements) -> list[Bin]:
    """Return judgements by how sure it was; bins that nothing fell into are left out."""
    held: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for sure, right in judgements:
        held[min(BINS - 1, max(0, int(sure * BINS)))].append((sure, right))
    return [
        Bin(len(one), sum(sure for sure, _ in one) / len(one), sum(right for _, right in one) / len(one))
        for one in held
        if one
    ]


def coverage_of(judgements: Judgements, wanted: int) -> list[tuple[float, float]]:
    """Return, for each threshold, the share of what was wanted that is acted on, and how much is right."""
    found: list[tuple[float, float]] = []
    right = 0
    ordered = sorted(judgements, key=lambda one: -one[0])
    for count, (sure, is_right) in enumerate(ordered, 1):
        right += is_right
        if count == len(ordered) or ordered[count][0] < sure:
            found.append((min(1.0, count / wanted) if wanted else 0.0, right / count))
    return found


def reliability(series: Mapping[str, Judgements]) -> str:
    """Draw how often it was right over how sure it was; on the diagonal it knows itself."""
    drawn = [_line([(0, 0), (1, 1)], "#999", dashed=True)]
    for colour, judgements in zip(COLOURS, series.values(), strict=False):
        bins = bins_of(judgements)
        most = max((one.count for one in bins), default=1)
        drawn.append(_line([(one.sure, one.right) for one in bins], colour))
        for one in bins:
            x, y = _at(one.sure, one.right)
            radius = 3 + 6 * (one.count / most) ** 0.5
            told = f"{one.count} decisions, {one.sure:.0%} sure, {one.right:.0%} right"
            drawn.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="0.6">'
                f"<title>{told}</title></circle>"
            )
    scale = [(share / 5, f"{share * 20}%") for share in range(6)]
    return _picture("Is it right as often as it is sure?", "how sure it is", "right", series, drawn, scale)


def coverage(series: Mapping[str, tuple[Judgements, int]]) -> str:
    """Draw how much of what it acts on is right, over how much of what was wanted it acts on."""
    drawn = []
    for colour, (judgements, wanted) in zip(COLOURS, series.values(), strict=False):
        points = [(share, _raised(right)) for share, right in coverage_of(judgements, wanted)]
        drawn.append(_line(points, colour))
    drawn.append(_line([(0, _raised(0.98)), (1, _raised(0.98))], "#999", dashed=True))
    low = round(LOWEST_PRECISION * 100)
    scale = [(step / 5, f"{low + (100 - low) * step // 5}%") for step in range(6)]
    return _picture(
        "How much can it act on?",
        "acted on",
        "right of what it acts on",
        dict.fromkeys(series, ()),
        drawn,
        scale,
    )


def _raised(share: float) -> float:
    return max(0.0, (share - LOWEST_PRECISION) / (1 - LOWEST_PRECISION))


def _at(x: float, y: float) -> tuple[float, float]:
    return LEFT + x * SIZE, TOP + (1 - y) * SIZE


def _line(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    told = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_at(*point) for point in points))
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{told}" fill="none" stroke="{colour}" stroke-width="1.5"{dashes}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.0f} {y:.0f})"' if turned else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'


def _picture(
    title: str,
    across: str,
    up: str,
    series: Mapping[str, Judgements],
    drawn: Sequence[str],
    scale: Sequence[tuple[float, str]],
) -> str:
    """Put a frame, scales and names around what was drawn."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="11" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<rect x="{LEFT}" y="{TOP}" width="{SIZE}" height="{SIZE}" fill="none" stroke="#444"/>',
        _text(LEFT, TOP - 16, title),
        _text(LEFT + SIZE / 2, TOP + SIZE + 40, across, anchor="middle"),
        _text(14, TOP + SIZE / 2, up, anchor="middle", turned=True),
    ]
    for share, label in scale:
        parts.append(_text(LEFT - 6, _at(0, share)[1] + 4, label, anchor="end"))
        parts.append(_text(_at(share, 0)[0], TOP + SIZE + 18, f"{share:.0%}", anchor="middle"))
    for row, (name, colour) in enumerate(zip(series, COLOURS, strict=False)):
        y = TOP + 12 + row * 18
        parts.append(f'<rect x="{LEFT + SIZE + 12}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(LEFT + SIZE + 28, y, name))
    return "\n".join([*parts, *drawn, "</svg>", ""])
