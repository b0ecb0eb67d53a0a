"""Records of ActionStudio as the rows that it trains on, one for each thing that an assistant said, and back.

A row has what was said before, with the task as the system's message, and what is to be said next: a list
of calls as JSON, or words. The last row of a trajectory holds all of it: a record can be made of it again.
Pure; what cannot be read is handed on as it is, for whoever reads records to say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

FORM = (
    'Answer with one JSON list and nothing else where tools are to be called: [{"name": NAME, "arguments": '
    "{PARAMETER: VALUE}}], with an object for each call. Answer in words where no tool is to be called."
)
JOINED = "---"
_FIELDS = ("id", "messages", "tools", "output_message")

Record = dict[str, Any]


def turns(records: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
    """Yield a row for each thing that is said by an assistant in records that may all train."""
    for record in records:
        said = record["conversation"]
        system = {"role": "system", "content": f"{record['task_instruction']}\n{FORM}"}
        kept = {"granted": record["granted"]} if "granted" in record else {}
        for at, message in enumerate(said):
            if message["role"] == "assistant" and record["trains"]:
                yield {
                    "id": f"{record['unique_trajectory_id']}{JOINED}{at + 1}",
                    "messages": [system, *said[:at]],
                    "tools": record["tools"],
                    "chosen": _chosen(message),
                    "output_message": message,
                    **kept,
                }


def _chosen(message: Mapping[str, Any]) -> str:
    if "tool_calls" not in message:
        return str(message["content"])
    return json.dumps([call["function"] for call in message["tool_calls"]], ensure_ascii=False)


def whole(read: Iterable[Any]) -> Iterator[Any]:
    """Yield what was read, with one record for all rows of turns that are of one trajectory.

    It is made of the longest of them; where two of these differ nothing tells which is right, and both are
    records of one name. Where any of them says that it must not train, the record says so.
    """
    longest: dict[str, list[Mapping[str, Any]]] = {}
    refused: dict[str, Record] = {}
    for one in read:
        if not _is_turn(one):
            yield one
            continue
        name = one["id"].rpartition(JOINED)[0]
        if one.get("trains", True) is not True or one.get("why_not"):
            refused[name] = {"trains": False}
        held = longest.setdefault(name, [])
        length = len(one["messages"])
        if held and length > len(held[0]["messages"]):
            held.clear()
        if not held or (length == len(held[0]["messages"]) and one not in held):
            held.append(one)
    for name, rows in longest.items():
        yield from (_record(name, row) | refused.get(name, {}) for row in rows)


def _is_turn(one: Any) -> bool:
    return (
        isinstance(one, dict)
        and all(name in one for name in _FIELDS)
        and isinstance(one["id"], str)
        and isinstance(one["messages"], list)
        and bool(one["id"].rpartition(JOINED)[0])
    )


def _is_said_by(message: Any, role: str) -> bool:
    return isinstance(message, dict) and message.get("role") == role


def _record(name: str, row: Mapping[str, Any]) -> Record:
    before: Sequence[Any] = row["messages"]
    system = [str(one.get("content", "")) for one in before[:1] if _is_said_by(one, "system")]
    kept = {"granted": row["granted"]} if "granted" in row else {}
    return kept | {
        "unique_trajectory_id": name,
        "task_instruction": system[0] if system else "",
        "tools": row["tools"],
        "conversation": [*before[len(system) :], row["output_message"]],
    }
