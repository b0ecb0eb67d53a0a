"""Rows as lines of JSON: one a row, the same bytes for the same row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf import json_format

from handrail.v1 import trajectory_pb2

MAX_LINE_CHARS = 16 * 1024 * 1024


class BadRows(ValueError):
    """A text that holds no rows; it names the line."""


def write_line(row: trajectory_pb2.TrajectoryRow) -> str:
    """Return a row as a line, without its end."""
    said = json_format.MessageToDict(row, preserving_proto_field_name=True)
    return json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def read_lines(lines: Iterable[str]) -> Iterator[trajectory_pb2.TrajectoryRow]:
    """Yield the rows of lines; raises BadRows."""
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE_CHARS:
            raise BadRows(f"line {number} has more than {MAX_LINE_CHARS} characters")
        if not line.strip():
            continue
        try:
            row = json_format.ParseDict(_object(line), trajectory_pb2.TrajectoryRow())
        except (json_format.ParseError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise BadRows(f"line {number} is no row: {str(error)[:200]!r}") from None
        yield row


def _object(line: str) -> dict[str, Any]:
    said = json.loads(line)
    if not isinstance(said, dict):
        raise TypeError("it is no JSON object")
    return said
