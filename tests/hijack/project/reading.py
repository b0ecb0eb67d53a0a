"""The mind that reads what others have written, and answers in a type: it has no other tool, and nobody
believes it. What it says is as untrusted as what it was shown.

It stands for a quarantined language model: it selects, composes, and reads values out of text.
"""

from __future__ import annotations

from typing import Any

from tests.hijack.world import remote


@remote()
def extract_text(
    question: str, a: Any = None, b: Any = None, c: Any = None, d: Any = None, e: Any = None, f: Any = None
) -> str:
    """Answer with a text."""


@remote()
def extract_number(
    question: str, a: Any = None, b: Any = None, c: Any = None, d: Any = None, e: Any = None, f: Any = None
) -> float:
    """Answer with a number."""


@remote()
def extract_count(
    question: str, a: Any = None, b: Any = None, c: Any = None, d: Any = None, e: Any = None, f: Any = None
) -> int:
    """Answer with a whole number."""


@remote()
def extract_texts(
    question: str, a: Any = None, b: Any = None, c: Any = None, d: Any = None, e: Any = None, f: Any = None
) -> list[str]:
    """Answer with texts."""


@remote()
def extract_rows(
    question: str, a: Any = None, b: Any = None, c: Any = None, d: Any = None, e: Any = None, f: Any = None
) -> list[dict[str, Any]]:
    """Answer with a table."""
