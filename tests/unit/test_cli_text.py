"""Text for a terminal: cleaned, cut to a width, and measured."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from handrail.cli.text import ASCII, UNICODE, clean, cut, duration, exact, glyphs_for, pad, size, value, wrap
from handrail.v1 import plan_pb2


@pytest.mark.parametrize(
    ("dirty", "cleaned"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\r\nb\tc", "a b c"),
        ("\u202eexe.gnp\u202c", "exe.gnp"),
        ("a\u200bb\u2066c\ufeff", "abc"),
        ("bell\x07 null\x00 c1\x9b5m", "bell null c15m"),
        ("half \ud800 pair", "half pair"),
        ("[red]not markup[/]", "[red]not markup[/]"),
        ("größe 表 🙂", "größe 表 🙂"),
    ],
)
def test_clean(dirty: str, cleaned: str) -> None:
    assert clean(dirty) == cleaned


@given(st.text(max_size=200))
def test_clean_leaves_one_printable_line(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned.splitlines()) <= 1
    assert "\x1b" not in cleaned
    assert clean(cleaned) == cleaned


@given(st.text(max_size=80), st.integers(0, 60))
def test_cut_never_exceeds_its_width(text: str, width: int) -> None:
    for glyphs in (UNICODE, ASCII):
        assert cell_len(cut(clean(text), width, glyphs)) <= width


def test_cut_marks_what_is_missing() -> None:
    assert cut("abcdef", 4) == "abc…"
    assert cut("abcdef", 5, ASCII) == "ab..."
    assert cut("表表表", 5) == "表表…"
    assert cut("abc", 3) == "abc"


def test_pad_counts_cells() -> None:
    assert pad("表", 4) == "表  "


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (12, "12 ms"),
        (9_999, "9,999 ms"),
        (18_540, "18.5 s"),
        (150_000, "2 min 30 s"),
        (3_720_000, "1 h 02 min"),
    ],
)
def test_duration(ms: int, text: str) -> None:
    assert duration(ms * 1_000_000) == text


def test_value_shows_json_or_where_a_large_one_lies() -> None:
    assert value(plan_pb2.Value(json='{"a":1,"b":"\\u202e"}')) == '{"a": 1, "b": ""}'
    assert value(plan_pb2.Value(json="not json")) == "not json"
    blob = plan_pb2.Value(blob=plan_pb2.Blob(sha256="ab" * 32, size_bytes=131_072))
    assert value(blob) == "128 KiB in the blob stream (sha256 abababababab)"
    assert size(5) == "5 B"
    assert size(3 << 30) == "3 GiB"


def test_glyphs_follow_the_encoding() -> None:
    assert glyphs_for(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) is UNICODE
    assert glyphs_for(io.TextIOWrapper(io.BytesIO(), encoding="ascii")) is ASCII
    assert glyphs_for(io.TextIOWrapper(io.BytesIO(), encoding="latin-1")) is ASCII


@pytest.mark.parametrize(
    ("dirty", "shown"),
    [
        ("plain  text", "plain  text"),
        ("\x1b[31mred\x07\x7f", r"\u001b[31mred\u0007\u007f"),
        ("a\nb\r\tc", r"a\u000ab\u000d\u0009c"),
        ("\u202eexe.gnp", r"\u202eexe.gnp"),
        ("a\u200bb\xa0c\u3000d\u2028", r"a\u200bb\u00a0c\u3000d\u2028"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\udb40\udc41"),
        ("x\u0301\u0302\u0303\u0304", "x\u0301\u0302" + r"\u0303\u0304"),
        ("\u3164\u2800", r"\u3164\u2800"),
        ("größe 表 🙂", "größe 表 🙂"),
    ],
)
def test_exact(dirty: str, shown: str) -> None:
    assert exact(dirty) == shown


@given(st.text(max_size=200))
def test_exact_loses_nothing_and_needs_no_cleaning(text: str) -> None:
    shown = exact(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown) == text
    assert "".join(clean(shown).split()) == "".join(shown.split())
    assert len(shown.splitlines()) == 1


@given(st.text(max_size=200), st.integers(10, 60))
@example("🏻", 10)
def test_wrapped_lines_fit_and_do_not_begin_anew(text: str, width: int) -> None:
    lines = wrap(exact(text), width, "a: ", " | ")
    assert all(cell_len(line) <= width for line in lines)
    assert [line[:3] for line in lines] == ["a: ", *[" | "] * (len(lines) - 1)]
    assert "".join(line[3:] for line in lines) == exact(text)
