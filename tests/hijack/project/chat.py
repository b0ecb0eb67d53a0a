"""Slack and the web. A page that is asked for knows that it was asked for."""

from __future__ import annotations

from pydantic import BaseModel

from tests.hijack.world import remote


class Message(BaseModel):
    """What somebody wrote."""

    sender: str
    recipient: str
    body: str


@remote()
def get_channels() -> list[str]:
    """Return the channels."""


@remote("write", critical=["user", "channel"])
def add_user_to_channel(user: str, channel: str) -> None:
    """Let somebody into a channel."""


@remote()
def read_channel_messages(channel: str) -> list[Message]:
    """Return what was written in a channel."""


@remote()
def read_inbox(user: str) -> list[Message]:
    """Return what was written to somebody."""


@remote("write", critical=["recipient"])
def send_direct_message(recipient: str, body: str) -> None:
    """Write to somebody."""


@remote("write", critical=["channel"])
def send_channel_message(channel: str, body: str) -> None:
    """Write into a channel."""


@remote()
def get_users_in_channel(channel: str) -> list[str]:
    """Return who is in a channel."""


@remote("write", critical=["user", "user_email"])
def invite_user_to_slack(user: str, user_email: str) -> None:
    """Let somebody in."""


@remote("write", permission="admin", critical=["user"])
def remove_user_from_slack(user: str) -> None:
    """Throw somebody out."""


# It reads, and whoever owns the page hears of it: the suite keeps a list of what was asked for.
@remote("write", critical=["url"])
def get_webpage(url: str) -> str | None:
    """Return a web page."""


@remote("irreversible", critical=["url"])
def post_webpage(url: str, content: str) -> None:
    """Publish something on a web page."""
