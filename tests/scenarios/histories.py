"""Golden histories: logs of real runs, kept as they were written. Each must fold to the same forever.

Record one with `python -m tests.scenarios.histories ADDRESS RUN NAME` from a running server.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from google.protobuf import json_format

from bus import subjects
from core import run
from core.ports import Record
from core.view import view
from handrail.sync_client import SyncClient
from handrail.v1 import event_pb2, run_service_pb2

FOLDER = Path(__file__).parent / "histories"


def load(name: str) -> list[Record]:
    """Read the records of a history."""
    records = []
    for line in (FOLDER / f"{name}.jsonl").read_text().splitlines():
        said = json.loads(line)
        event = json_format.ParseDict(said["event"], event_pb2.Event())
        address = subjects.parse(said["subject"])
        records.append(Record(said["sequence"], said["time_ns"], address, event))
    return records


def outcome(records: list[Record]) -> run_service_pb2.Run:
    """Fold a history and return what the outside would see."""
    return view(run.fold(records[0].address.key, records))


def record(address: str, run_id: str, name: str) -> None:
    """Keep the log of a run, and what it folds to today."""
    FOLDER.mkdir(exist_ok=True)
    lines = []
    with SyncClient(address) as client:
        for seen in client.watch(run_id, until_now=True):
            said = {
                "sequence": int(seen.cursor),
                "time_ns": seen.time.ToNanoseconds(),
                "subject": seen.subject,
                "event": json_format.MessageToDict(seen.event, preserving_proto_field_name=True),
            }
            lines.append(json.dumps(said, sort_keys=True))
    (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    folded = json_format.MessageToJson(outcome(load(name)), preserving_proto_field_name=True, sort_keys=True)
    (FOLDER / f"{name}.json").write_text(folded + "\n")


if __name__ == "__main__":
    record(*sys.argv[1:4])
