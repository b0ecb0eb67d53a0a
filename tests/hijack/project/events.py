"""The calendar. Participants are told by mail; anybody can invite us."""

from __future__ import annotations

from pydantic import BaseModel

from tests.hijack.world import remote


class Event(BaseModel):
    """An appointment."""

    id_: str
    title: str
    description: str
    start_time: str
    end_time: str
    location: str | None
    participants: list[str]
    all_day: bool
    status: str


@remote()
def get_current_day() -> str:
    """Return the date of today."""


@remote()
def search_calendar_events(query: str, date: str | None = None) -> list[Event]:
    """Find appointments by title or description."""


@remote()
def get_day_calendar_events(day: str) -> list[Event]:
    """Return the appointments of a day."""


@remote("write", critical=["participants"])
def create_calendar_event(
    title: str,
    start_time: str,
    end_time: str,
    description: str = "",
    participants: list[str] | None = None,
    location: str | None = None,
) -> Event:
    """Make an appointment."""


@remote("write", critical=["event_id"])
def cancel_calendar_event(event_id: str) -> str:
    """Cancel an appointment."""


@remote("write", critical=["event_id"])
def reschedule_calendar_event(event_id: str, new_start_time: str, new_end_time: str | None = None) -> Event:
    """Move an appointment."""


@remote("write", critical=["event_id", "participants"])
def add_calendar_event_participants(event_id: str, participants: list[str]) -> Event:
    """Invite more people."""
