"""What the learning curve learns from: runs on a real stack, whose effects the verifier has looked at."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from bench import teaching
from handrail.cli.collect import read_rows
from handrail.cli.models import open_project
from handrail.v1.trajectory_pb2 import TRAJECTORY_SOURCE_TEACH


def test_what_is_shown_is_done_verified_and_collected(tmp_path: Path) -> None:
    project = tmp_path / "hire"
    shutil.copytree(teaching.HIRE, project, ignore=shutil.ignore_patterns(".handrail", "*.db*"))
    taught = teaching.teach(project, 8, 2, print)
    rows = [row for held in taught for row in held]
    assert {row.source for row in rows} == {TRAJECTORY_SOURCE_TEACH}
    assert all(row.trains for row in rows)
    assert all(held[-1].decision.HasField("stop") for held in taught)
    outcomes = [step for row in rows for step in row.steps]
    assert {step.verdict for step in outcomes} == {"confirmed"}
    _, offered = open_project(project)
    reads = {one.name for one in offered if one.name in ("find_booking", "bookings_of")}
    acted = [step for step in outcomes if step.tool not in reads]
    assert all("reads.booking" in step.evidence[0].condition for step in acted)
    done = {step.tool for step in acted}
    with sqlite3.connect(project / "hire.db") as db:
        seen = {
            "cancel_booking": "SELECT count(*) FROM bookings WHERE state = 'cancelled'",
            "send_invoice": "SELECT count(*) FROM invoices",
            "report_fault": "SELECT count(*) FROM faults",
        }
        for tool, query in seen.items():
            ((count,),) = db.execute(query).fetchall()
            assert count == sum(step.tool == tool for step in acted)
    assert done & seen.keys()
    file = tmp_path / "some.jsonl"
    teaching.write_rows(file, taught[:3])
    assert {row.trajectory for row in read_rows(file)} == {held[0].trajectory for held in taught[:3]}
