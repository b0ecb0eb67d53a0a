"""Undos of runs that the core has lived through, as the outside sees them."""

from __future__ import annotations

from bus.subjects import build
from handrail.v1 import run_service_pb2
from tests.scenarios.play import Play
from tests.scenarios.test_undo import TELL, acted, booked, undo


def responses(play: Play) -> list[run_service_pb2.WatchRunResponse]:
    """The log of a play, as a watch sends it."""
    found = []
    for record in play.records:
        one = run_service_pb2.WatchRunResponse(
            cursor=str(record.sequence), subject=build(record.address), event=record.event
        )
        one.time.FromNanoseconds(record.time_ns)
        found.append(one)
    return found


def begun() -> Play:
    """A run that has paid and booked, and whose booking is being taken back."""
    return undo(booked(), reason="they kept it")


def stuck() -> Play:
    """The same; taking the booking back has gone wrong, and waits for somebody."""
    return begun().intent("undo-book-a1").failed("undo-book-a1")


def undone() -> Play:
    """The same, to its end."""
    return acted(acted(begun(), "undo-book-a1", None), "undo-pay-a1", None)


def told() -> Play:
    """A run that has paid, booked, and told somebody, which nothing can take back."""
    return acted(booked(TELL), "tell-a1", None)
