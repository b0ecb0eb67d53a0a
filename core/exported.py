"""An export: the messages of a run as lines of JSON, each with the proof that it is in the log.

The first line says whose run it is, and has the heads and, unless the run was forgotten, the key under which
the messages are encrypted; each other line is a message. Whoever has the public key of the notary can check
it, with nothing else at hand.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from core import merkle
from core.errors import HandrailError
from core.notarised import NOTHING, Entry, SignedHead, text_of, whole
from core.permits import Checker

FORMAT = "handrail export 1"
ENCRYPTED = b"\0\1"
"""What is encrypted begins so."""
MAX_LINE_CHARS = 96 * 1024 * 1024
MAX_LINES = 1_000_000


class BadExport(HandrailError):
    """An export that does not prove what it says; its text names the line and says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is taken of one stream: its head, its leaves, and entries of it."""

    head: SignedHead
    leaves: Sequence[bytes]
    entries: Sequence[Entry]


@dataclass
class Report:
    """What an export proves."""

    run: str
    tenant: str
    events: int = 0
    chunks: int = 0
    # Whether the key came with it, by which what it holds can be read.
    readable: bool = False
    heads: dict[str, SignedHead] = field(default_factory=dict)
    last: Entry | None = None


class Decrypts(Protocol):
    """A run's key at work."""

    def decrypt(self, data: bytes, place: str) -> bytes:
        """Return what was encrypted for a subject; raises HandrailError."""
        ...


def lines(run: str, tenant: str, parts: Iterable[Part], public_key: str, key: bytes = b"") -> Iterator[str]:
    """Return an export, line by line; without a key nobody can read what it holds."""
    taken = [part for part in parts if part.entries]
    heads = [part.head.as_dict() for part in taken]
    first = {"format": FORMAT, "run": run, "tenant": tenant, "heads": heads, "public_key": public_key}
    yield json.dumps(first | ({"key": key.hex()} if key else {}))
    for part in taken:
        tree, stream = merkle.Tree(part.leaves), part.head.head.stream
        for entry in part.entries:
            said = {
                "stream": stream,
                "sequence": entry.sequence,
                "time_ns": entry.time_ns,
                "subject": entry.subject,
                "trace": entry.trace,
                "data": base64.b64encode(entry.data).decode(),
                "previous": entry.previous.hex(),
                "proof": [one.hex() for one in tree.inclusion(entry.sequence - 1)],
            }
            yield json.dumps(said)


def key_of(first: str) -> str:
    """Return the public key that an export names; nothing vouches for it. Raises BadExport."""
    key = _read(first, 1).get("public_key")
    if not isinstance(key, str):
        raise BadExport("line 1: it names no public key")
    return key


def check(text: Iterable[str], checker: Checker, cipher: Callable[[bytes], Decrypts] | None = None) -> Report:
    """Check an export; raises BadExport where it does not prove what it says.

    With `cipher`, which makes a key work, also where it cannot be read with the key that it brings.
    """
    report: Report | None = None
    decrypts: Decrypts | None = None
    for number, line in enumerate(text, start=1):
        if number > MAX_LINES:
            raise BadExport(f"an export may have {MAX_LINES} lines")
        said = _read(line, number)
        try:
            if report is None:
                report = _begin(said, checker)
                if "key" in said and cipher is not None:
                    decrypts, report.readable = cipher(bytes.fromhex(text_of(said["key"]))), True
            else:
                _take(report, said, decrypts)
        except HandrailError as error:
            raise BadExport(f"line {number}: {error}") from None
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise BadExport(f"line {number}: it cannot be read: {error!r}") from None
    if report is None or not report.events:
        raise BadExport("it holds no event")
    return report


def _read(line: str, number: int) -> dict[str, Any]:
    if len(line) > MAX_LINE_CHARS:
        raise BadExport(f"line {number}: it has more than {MAX_LINE_CHARS} characters")
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadExport(f"line {number}: it is not JSON: {error}") from None
    if not isinstance(said, dict):
        raise BadExport(f"line {number}: it is not a JSON object")
    return said


def _begin(said: Mapping[str, Any], checker: Checker) -> Report:
    if said["format"] != FORMAT:
        raise BadExport(f"its format is {said['format']!r:.100}, and should be {FORMAT!r}")
    report = Report(run=text_of(said["run"]), tenant=text_of(said["tenant"]))
    for one in said["heads"]:
        head = SignedHead.read(one)
        head.check(checker)
        if head.head.stream in report.heads:
            raise BadExport(f"it has two heads of {head.head.stream}")
        if any(other.head.origin != head.head.origin for other in report.heads.values()):
            raise BadExport("its heads are of two logs")
        report.heads[head.head.stream] = head
    return report


def _take(report: Report, said: Mapping[str, Any], decrypts: Decrypts | None) -> None:
    """Check one message: it is in the tree of its stream, of this run, and behind the one before it."""
    entry = Entry(
        sequence=whole(said["sequence"]),
        time_ns=whole(said["time_ns"]),
        subject=text_of(said["subject"]),
        trace=text_of(said["trace"]),
        data=base64.b64decode(said["data"], validate=True),
        previous=bytes.fromhex(said["previous"]),
    )
    signed = report.heads.get(text_of(said["stream"]))
    if signed is None:
        raise BadExport(f"there is no head of {said['stream']}")
    proof = [bytes.fromhex(one) for one in said["proof"]]
    head = signed.head
    if merkle.root_from(entry.leaf, entry.sequence - 1, head.size, proof) != head.root:
        raise BadExport(f"message {entry.sequence} is not what was signed for in {head.stream}")
    kind, shard, tenant, run, *_ = entry.subject.split(".")
    if kind not in ("ev", "blob") or head.stream != f"{kind.upper()}_{shard}":
        raise BadExport(f"message {entry.sequence} is none of {head.stream}")
    if (tenant, run) != (report.tenant, report.run):
        raise BadExport(f"message {entry.sequence} of {head.stream} is not of run {report.run}")
    if decrypts is not None and entry.data.startswith(ENCRYPTED):
        decrypts.decrypt(entry.data, entry.subject)
    if kind == "blob":
        report.chunks += 1
        return
    if entry.previous != (report.last.leaf if report.last is not None else NOTHING):
        raise BadExport(f"something is missing before message {entry.sequence}")
    report.events, report.last = report.events + 1, entry
