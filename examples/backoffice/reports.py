"""Tools on reports: a week's sales, with a chart as a file under out/ beside the database."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import database
from faults import injectable
from pydantic import Field
from records import ReportFile, SalesReport

from handrail.tool import Money, ToolError, call, tool

Week = Annotated[str, Field(pattern=r"^(last|\d{4}-W\d{2})$", description="an ISO week (2026-W09), or last")]
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_COLOURS = ("#3b6ea5", "#d98c3f", "#6a9f58", "#8c6bb1")
_BAR, _HEIGHT, _MARGIN = 18, 160, 40


@tool(effect="read")
@injectable
def get_report(week: Week) -> ReportFile | None:
    """Look up the report of a week as it lies on the disk; nothing where there is none."""
    with database.reading() as db:
        row = db.execute("SELECT * FROM reports WHERE week = ?", (_week(db, week)[0],)).fetchone()
    if row is None:
        return None
    try:
        content = (_directory() / row["path"]).read_bytes()
    except FileNotFoundError:
        return None
    digest = hashlib.sha256(content).hexdigest()
    return ReportFile(week=row["week"], path=row["path"], sha256=digest, orders=row["orders"])


@tool(
    effect="write",
    idempotency="natural",
    reads={"report": call("get_report", week="output.week")},
    post="reads.report != null && reads.report.sha256 == output.sha256"
    " && reads.report.orders == output.orders",
)
@injectable
def create_sales_report(week: Week = "last") -> SalesReport:
    """Sum up what came in within a week, and draw its chart; made again, it is the same file."""
    with database.writing() as db:
        name, monday = _week(db, week)
        per_day, orders = _revenue(db, monday)
        content = _chart(f"Sales {name}", per_day).encode()
        digest = hashlib.sha256(content).hexdigest()
        path = Path("out") / f"sales-{name}.svg"
        known = db.execute("SELECT sha256 FROM reports WHERE week = ?", (name,)).fetchone()
        _write(_directory() / path, content)
        if known is None or known["sha256"] != digest:
            row = (name, str(path), digest, orders, database.today(db).isoformat())
            db.execute("REPLACE INTO reports VALUES (?, ?, ?, ?, ?)", row)
            database.record(db, "create_sales_report", {"week": name})
    revenue = [Money(minor=sum(days), currency=currency) for currency, days in per_day.items()]
    sums = ", ".join(f"{money.minor / 100:,.2f} {money.currency}" for money in revenue) or "nothing"
    return SalesReport(
        week=name,
        path=str(path),
        sha256=digest,
        orders=orders,
        revenue=revenue,
        summary=f"Sales of week {name}: {sums} from {orders} orders.",
    )


def _directory() -> Path:
    return database.path().parent


def _week(db: sqlite3.Connection, week: str) -> tuple[str, date]:
    """Return the name of a week and its Monday."""
    if week == "last":
        day = database.today(db) - timedelta(days=7)
    else:
        try:
            day = date.fromisocalendar(int(week[:4]), int(week[6:]), 1)
        except ValueError as error:
            raise ToolError(f"there is no week {week}; give one like 2026-W09", code="bad_time") from error
    year, number, weekday = day.isocalendar()
    return f"{year}-W{number:02}", day - timedelta(days=weekday - 1)


def _revenue(db: sqlite3.Connection, monday: date) -> tuple[dict[str, list[int]], int]:
    """Return minor units by currency and day of the week, and how many orders they are from."""
    rows = db.execute(
        "SELECT p.order_id, o.currency, p.amount_minor, p.paid_on FROM payments p JOIN orders o"
        " ON o.id = p.order_id WHERE p.paid_on >= ? AND p.paid_on < ? ORDER BY o.currency",
        (monday.isoformat(), (monday + timedelta(days=7)).isoformat()),
    ).fetchall()
    per_day: dict[str, list[int]] = {}
    for row in rows:
        days = per_day.setdefault(row["currency"], [0] * 7)
        days[(date.fromisoformat(row["paid_on"]) - monday).days] += row["amount_minor"]
    return per_day, len({row["order_id"] for row in rows})


def _chart(title: str, per_day: Mapping[str, list[int]]) -> str:
    """Draw bars by day and currency."""
    highest = max((minor for days in per_day.values() for minor in days), default=0) or 1
    group = _BAR * max(len(per_day), 1) + 24
    width, floor = 2 * _MARGIN + 7 * group, _MARGIN + _HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{floor + _MARGIN}"'
        ' font-family="sans-serif" font-size="11">',
        f'<text x="{_MARGIN}" y="20" font-size="14">{title}</text>',
        f'<line x1="{_MARGIN}" y1="{floor}" x2="{width - _MARGIN}" y2="{floor}" stroke="#888"/>',
    ]
    for number, (currency, days) in enumerate(per_day.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(
            f'<text x="{width - _MARGIN - 40 * number - 30}" y="20" fill="{colour}">{currency}</text>'
        )
        for day, minor in enumerate(days):
            height = round(_HEIGHT * minor / highest)
            x = _MARGIN + 12 + day * group + number * _BAR
            parts.append(
                f'<rect x="{x}" y="{floor - height}" width="{_BAR - 4}" height="{height}" fill="{colour}">'
                f"<title>{minor / 100:.2f} {currency}</title></rect>"
            )
    for day, label in enumerate(_DAYS):
        parts.append(f'<text x="{_MARGIN + 12 + day * group}" y="{floor + 16}">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _write(file: Path, content: bytes) -> None:
    """Write the whole file or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(file)
