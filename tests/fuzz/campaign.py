"""A campaign: inputs made of a seed and a number each, tried until the time is over, and what they broke.

An input that raised what it should not, or took too long, is a finding; the same place is told of once.
"""

from __future__ import annotations

import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NamedTuple

from google.protobuf.message import Message

from tests.awake import Awake
from tests.fuzz.mutate import Mutator

MAX_INPUT_CPU_S = 2.0
"""What one input may take; of CPU, so that a busy machine fails nobody."""
MAX_FINDINGS = 20
MAX_SHOWN_CHARS = 2_000


class TooLong(BaseException):
    """An input that is still being looked at after all of its time."""


class Trial(NamedTuple):
    """How a campaign makes an input, and what is done with it."""

    make: Callable[[Mutator], Any]
    check: Callable[[Any], None]


@dataclass(frozen=True)
class Campaign:
    """One surface, and how long it is tried in CI."""

    name: str
    ci_s: float
    begin: Callable[[], AbstractContextManager[Trial]]


@dataclass
class Report:
    """What became of a campaign."""

    name: str
    inputs: int = 0
    took_s: float = 0.0
    slowest_s: float = 0.0
    findings: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rate = self.inputs / self.took_s if self.took_s else 0.0
        return (
            f"{self.name:<12} {self.inputs:>8} inputs {rate:>8.0f}/s"
            f"  slowest {self.slowest_s * 1e3:>5.0f} ms  {len(self.findings)} findings"
        )


def run(campaign: Campaign, seed: int, seconds: float, number: int | None = None) -> Report:
    """Try inputs for so long, or the one with that number."""
    report = Report(campaign.name)
    with campaign.begin() as trial, _bell(), Awake() as awake:
        while awake.seconds < seconds and len(report.findings) < MAX_FINDINGS:
            at = report.inputs if number is None else number
            _try(campaign.name, trial, seed, at, report)
            report.inputs += 1
            if number is not None:
                break
    report.took_s = awake.seconds
    return report


def _try(name: str, trial: Trial, seed: int, number: int, report: Report) -> None:
    given = trial.make(Mutator(random.Random(f"{seed}/{name}/{number}")))
    before_s = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_INPUT_CPU_S)
    try:
        trial.check(given)
    except BaseException as error:
        if not _is_finding(error):
            raise
        place = traceback.extract_tb(error.__traceback__)
        where = [f"{one.filename}:{one.lineno}" for one in place if "/tests/fuzz/" not in one.filename]
        mark = f"{type(error).__name__} {where[-1] if where and not isinstance(error, TooLong) else ''}"
        report.findings.setdefault(
            mark,
            f"seed {seed} campaign {name} number {number}: {type(error).__name__}: {error!s:.500}\n"
            f"input: {shown(given)[:MAX_SHOWN_CHARS]}\n{''.join(traceback.format_list(place)[-8:])}",
        )
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    report.slowest_s = max(report.slowest_s, time.process_time() - before_s)


def _is_finding(error: BaseException) -> bool:
    # A panic of a library in Rust is no Exception.
    return isinstance(error, Exception | TooLong) or type(error).__module__ == "pyo3_runtime"


@contextmanager
def _bell() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"more than {MAX_INPUT_CPU_S} s of CPU")

    before = signal.signal(signal.SIGVTALRM, ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGVTALRM, before)


def shown(given: Any) -> str:
    """Return an input as text: bytes and messages in hex."""
    if isinstance(given, bytes):
        return f"hex {given.hex()}"
    if isinstance(given, Message):
        return f"{type(given).__name__} hex {given.SerializeToString().hex()}"
    if isinstance(given, list | tuple):
        return "[" + ", ".join(map(shown, given)) + "]"
    return repr(given)
