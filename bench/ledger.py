"""The world of the crash benchmark: a file into which whoever acts writes a line, and the bench its kills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path


class Ledger:
    """The world: lines written by whoever acts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        path.chmod(0o666)

    def lines(self, word: str) -> list[list[str]]:
        """Return the lines that begin with a word, without it."""
        found = (line.split() for line in self.path.read_text().splitlines())
        return [words[1:] for words in found if words and words[0] == word]

    def flying(self, items: Sequence[str]) -> list[str]:
        """Return the items that were called and had not come to the end when the last kill was noted."""
        called: Counter[str] = Counter()
        found: list[str] = []
        for words in (line.split() for line in self.path.read_text().splitlines()):
            if words[0] == "kill":
                found = [item for item in items if called[item]]
                called.clear()
            else:
                called[words[1]] += {"call": 1, "end": -1}.get(words[0], 0)
        return found

    def note(self, *words: str) -> None:
        """Write a line of the bench's own."""
        with self.path.open("a") as file:
            file.write(" ".join(words) + "\n")

    def items(self, word: str) -> Counter[str]:
        """Return how often each item has such a line."""
        return Counter(words[0] for words in self.lines(word))
