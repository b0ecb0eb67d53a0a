"""Exports: what they prove, and that nothing else can be made of them."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from core import exported, merkle
from core.exported import BadExport, Part
from core.notarised import NOTHING, BadText, Entry, Head, SignedHead
from handrail.keys import PrivateKey, PublicKeys

ROOT = Path(__file__).resolve().parents[2]
RUN, OTHER, TENANT = "r0-0123456789", "r0-9876543210", "acme"
KEY = PrivateKey.generate()
KEYS = PublicKeys.parse(KEY.public, "the key")
MUTANTS = 2_000
Change = Callable[[list[dict[str, Any]]], None]


def signed(stream: str, entries: list[Entry], key: PrivateKey = KEY) -> SignedHead:
    head = Head("origin", stream, len(entries), merkle.root([one.leaf for one in entries]), 1_700_000_000)
    return SignedHead(head, key.key_id, key.sign(head.text()))


def log() -> list[Entry]:
    """Two runs, event by event in turn."""
    found: list[Entry] = []
    chains: dict[str, bytes] = {}
    for sequence in range(1, 12):
        run = RUN if sequence % 2 else OTHER
        subject = f"ev.0.{TENANT}.{run}.dec.note.x"
        entry = Entry(sequence, 10 * sequence, subject, "00-ab", bytes([sequence]), chains.get(run, NOTHING))
        chains[run] = entry.leaf
        found.append(entry)
    return found


def chunks() -> list[Entry]:
    return [Entry(n, n, f"blob.0.{TENANT}.{RUN}.aa.{n}", "", b"large") for n in (1, 2)]


def export(key: PrivateKey = KEY) -> list[dict[str, Any]]:
    parts = []
    for stream, entries in (("EV_0", log()), ("BLOB_0", chunks())):
        own = [one for one in entries if f".{RUN}." in one.subject]
        parts.append(Part(signed(stream, entries, key), [one.leaf for one in entries], own))
    return [json.loads(line) for line in exported.lines(RUN, TENANT, parts, key.public)]


def text(lines: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(line) for line in lines]


def audited(lines: list[dict[str, Any]], place: Path) -> subprocess.CompletedProcess[str]:
    """Have the example's script check it, which knows nothing of Handrail."""
    (place / "export").write_text("".join(f"{line}\n" for line in text(lines)))
    (place / "key").write_text(KEY.public)
    command = [sys.executable, "-I", str(ROOT / "examples/auditor.py"), "export", "key"]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60, check=False)


def test_an_export_proves_what_it_says(tmp_path: Path) -> None:
    report = exported.check(text(export()), KEYS)
    assert (report.run, report.tenant, report.events, report.chunks) == (RUN, TENANT, 6, 2)
    assert {name: head.head.size for name, head in report.heads.items()} == {"EV_0": 11, "BLOB_0": 2}
    assert exported.key_of(text(export())[0]) == KEY.public
    done = audited(export(), tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{RUN}: 8 messages, as they were signed for\n"), done.stderr


def _set(number: int, name: str, value: Any) -> Change:
    def change(lines: list[dict[str, Any]]) -> None:
        lines[number][name] = value

    return change


def _drop(number: int) -> Change:
    def change(lines: list[dict[str, Any]]) -> None:
        del lines[number]

    return change


def _head(name: str, value: Any) -> Change:
    def change(lines: list[dict[str, Any]]) -> None:
        lines[0]["heads"][0][name] = value

    return change


def _swap(lines: list[dict[str, Any]]) -> None:
    lines[2], lines[3] = lines[3], lines[2]


def _twice(lines: list[dict[str, Any]]) -> None:
    lines.insert(3, lines[2])


def _foreign(lines: list[dict[str, Any]]) -> None:
    lines[0]["run"] = OTHER


CHANGES: dict[str, Change] = {
    "data": _set(2, "data", base64.b64encode(b"x").decode()),
    "time": _set(2, "time_ns", 31),
    "sequence": _set(2, "sequence", 4),
    "subject": _set(2, "subject", f"ev.0.{TENANT}.{RUN}.dec.note.y"),
    "trace": _set(2, "trace", ""),
    "previous": _set(2, "previous", NOTHING.hex()),
    "stream": _set(2, "stream", "BLOB_0"),
    "no such stream": _set(2, "stream", "EV_1"),
    "no proof": _set(2, "proof", []),
    "a chunk's data": _set(7, "data", ""),
    "the first left out": _drop(1),
    "one left out": _drop(3),
    "two swapped": _swap,
    "one twice": _twice,
    "of another run": _foreign,
    "of another tenant": _set(0, "tenant", "other"),
    "another root": _head("root", NOTHING.hex()),
    "another size": _head("size", 12),
    "another time": _head("time_ns", 1),
    "another origin": _head("origin", "elsewhere"),
    "no signature": _head("signature", ""),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_export_proves_nothing(change: Change) -> None:
    lines = export()
    change(lines)
    with pytest.raises(BadExport):
        exported.check(text(lines), KEYS)


def test_the_auditors_script_finds_the_same(tmp_path: Path) -> None:
    for name in ("data", "one left out", "another size"):
        lines = export()
        CHANGES[name](lines)
        assert audited(lines, tmp_path).returncode != 0, name


def test_somebody_elses_signature_is_not_believed() -> None:
    mallory = PrivateKey.generate()
    exported.check(text(export(mallory)), PublicKeys.parse(mallory.public, "theirs"))
    with pytest.raises(BadExport, match="not signed by a key that is believed"):
        exported.check(text(export(mallory)), KEYS)


NONSENSE = [
    "",
    "null",
    "[]",
    "{",
    "{}",
    '{"format": 1}',
    "[" * 100_000,
    '{"format": "handrail export 1"}',
    "\ud800",
]
NONSENSE += [json.dumps({**export()[0], "heads": heads}) for heads in (None, 1, [None], [{}], [[]], {"a": 1})]


@pytest.mark.parametrize("first", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_refused_with_the_line(first: str) -> None:
    with pytest.raises(BadExport, match="line 1"):
        exported.check([first], KEYS)


@pytest.mark.parametrize(
    "name", ["sequence", "time_ns", "subject", "trace", "data", "previous", "proof", "stream"]
)
@pytest.mark.parametrize("value", [None, -1, 1 << 70, "", "é", [], [1], {}, "\ud800", 1.5])
def test_nonsense_in_a_line_is_refused(name: str, value: Any) -> None:
    lines = export()
    lines[1][name] = value
    with pytest.raises(BadExport):
        exported.check(text(lines), KEYS)


@pytest.mark.parametrize(("name", "value"), [("origin", "\ud800"), ("size", float("inf")), ("size", "x")])
def test_nonsense_in_a_head_is_refused(name: str, value: Any) -> None:
    lines = export()
    lines[0]["heads"][0][name] = value
    with pytest.raises(BadText):
        SignedHead.read(lines[0]["heads"][0])
    with pytest.raises(BadExport, match="line 1"):
        exported.check(text(lines), KEYS)


def test_an_export_without_events_proves_nothing() -> None:
    with pytest.raises(BadExport, match="no event"):
        exported.check(text(export())[:1], KEYS)
    with pytest.raises(BadExport, match="no event"):
        exported.check([], KEYS)


def test_heads_of_two_logs_or_two_of_one_stream_are_refused(tmp_path: Path) -> None:
    elsewhere = SignedHead.read(export()[0]["heads"][1]).head
    moved = Head("elsewhere", elsewhere.stream, elsewhere.size, elsewhere.root, elsewhere.time_ns)
    other = SignedHead(moved, KEY.key_id, KEY.sign(moved.text())).as_dict()
    for heads in ([export()[0]["heads"][0], other], [export()[0]["heads"][0]] * 2):
        lines = export()
        lines[0]["heads"] = heads
        with pytest.raises(BadExport, match=r"line 1: (its heads are of two logs|it has two heads of EV_0)"):
            exported.check(text(lines), KEYS)
        assert audited(lines, tmp_path).returncode != 0


def test_a_trace_of_any_length_is_signed_for() -> None:
    """The broker takes 64 KiB, and what is no text grows threefold: such a header must not end the notary."""
    entry = Entry(1, 1, f"ev.0.{TENANT}.{RUN}.x", "\ufffd" * 65_535, b"")
    assert Entry.parse(entry.dump()) == entry


WORDS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.0, 1e3, 1 << 64, [], {}, [1], ["00" * 32]),
    *("", " ", "0", "1", "é", "\u2028", "\x85", "\ud800", "A" * 70_000, "=", "==", "\n", "-", "_"),
    *("00" * 32, "00" * 40, "handrail export 2", "EV_0", "BLOB_0"),
)


def _spoil(value: Any, chance: random.Random) -> Any:
    """Return something like a value, or something else."""
    if isinstance(value, bool) or not isinstance(value, (str, int, list)) or chance.random() < 0.3:
        return chance.choice(WORDS)
    if isinstance(value, int):
        return chance.choice((value + 1, value - 1, -value, float(value), str(value), bool(value)))
    at = chance.randrange(len(value) + 1)
    if isinstance(value, list):
        return chance.choice((value[:at], value[::-1], value + value[:at], dict.fromkeys(map(str, value))))
    other = chance.choice(("a", "F", " ", "\n", "=", "-", "é", "\x85", "\ud800", "."))
    cut = (value[:at], value[:at] + other + value[at:], value[:at] + other + value[at + 1 :])
    return chance.choice(
        (*cut, value.upper(), value.lower(), value + other, value.rstrip("="), other + value)
    )


BASE = json.dumps(export())


def _mutant(chance: random.Random) -> str:
    """Return an export to which a few things were done."""
    lines: list[dict[str, Any]] = json.loads(BASE)
    for _ in range(chance.randint(1, 2)):
        line = chance.choice(lines)
        place = chance.choice([line, line, *line["heads"]]) if "heads" in line else line
        name = chance.choice(list(place))
        match chance.randrange(8):
            case 0:
                del place[name]
            case 1:
                lines.remove(line)
            case 2:
                lines.insert(chance.randrange(len(lines) + 1), dict(chance.choice(lines)))
            case _:
                place[name] = _spoil(place[name], chance)
        if not lines:
            break
    plain = chance.random() < 0.5
    ends = chance.choices(("\n", "\n\n", "\r\n", "\r", ""), (20, 1, 1, 1, 1))[0]
    made = ends.join(json.dumps(line, ensure_ascii=plain) for line in lines) + chance.choice(("\n", ""))
    return made.replace("\ud800", "\\ud800")


def test_both_checkers_believe_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of exports to which something was done: the script and Handrail never differ."""
    seed, believed, differ = 20, 0, []
    chance = random.Random(seed)
    script = compile((ROOT / "examples/auditor.py").read_text(), "auditor.py", "exec")
    file, key = tmp_path / "export", tmp_path / "key"
    key.write_text(KEY.public)
    monkeypatch.setattr(sys, "argv", ["auditor.py", str(file), str(key)])
    for number in range(MUTANTS):
        file.write_bytes(_mutant(chance).encode())
        try:
            with file.open(encoding="utf-8") as lines:
                exported.check(lines, KEYS)
            ours = True
        except (BadExport, UnicodeDecodeError):
            ours = False
        try:
            with redirect_stdout(StringIO()):
                exec(script, {"__name__": "__main__"})
            theirs = True
        except (Exception, SystemExit):  # noqa: BLE001 - whatever ends it is a no
            theirs = False
        believed += ours
        if ours != theirs:
            differ.append((number, ours, file.read_text()))
    assert not differ, f"seed {seed}: {len(differ)}, first {differ[0]!r:.3000}"
    assert 0 < believed < MUTANTS / 2
