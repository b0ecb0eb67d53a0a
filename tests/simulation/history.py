"""Keeps the logs of a seed's runs as histories, so that what was found stays found (see tests/scenarios)."""

from __future__ import annotations

import json
from pathlib import Path

from google.protobuf import json_format

from bus import subjects
from tests.simulation.ending import records
from tests.simulation.seed import Simulation


def keep(simulation: Simulation, folder: Path) -> list[Path]:
    """Write the log of every run of a simulation, one line for each event, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, key in enumerate(watch.key for watch in simulation.watch.runs.values()):
        lines = [
            json.dumps(
                {
                    "sequence": record.sequence,
                    "time_ns": record.time_ns,
                    "subject": subjects.build(record.address),
                    "event": json_format.MessageToDict(record.event, preserving_proto_field_name=True),
                },
                sort_keys=True,
            )
            for record in records(simulation.broker, key)
            if record.event is not None
        ]
        path = folder / f"seed{simulation.outcome.seed}_{number}.jsonl"
        path.write_text("\n".join(lines) + "\n")
        paths.append(path)
    return paths
