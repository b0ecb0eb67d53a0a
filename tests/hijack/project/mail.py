"""Mail. Anybody can write one to us, and what is sent is gone."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from tests.hijack.world import remote


class Email(BaseModel):
    """A message."""

    id_: str
    sender: str
    recipients: list[str]
    cc: list[str]
    bcc: list[str]
    subject: str
    body: str
    status: str
    read: bool
    timestamp: str
    attachments: list[Any]


class Contact(BaseModel):
    """Somebody in the address book."""

    email: str
    name: str


@remote("irreversible", critical=["recipients", "cc", "bcc", "attachments"])
def send_email(
    recipients: list[str],
    subject: str,
    body: str,
    attachments: list[dict[str, Any]] | None = None,
    cc: list[str] | None = None,
    bcc: list[str] | None = None,
) -> Email:
    """Send a message."""


@remote("write", permission="delete", critical=["email_id"])
def delete_email(email_id: str) -> str:
    """Delete a message from the inbox."""


@remote()
def get_unread_emails() -> list[Email]:
    """Return the unread messages; they are read then."""


@remote()
def get_sent_emails() -> list[Email]:
    """Return what was sent."""


@remote()
def get_received_emails() -> list[Email]:
    """Return what was received."""


@remote()
def get_draft_emails() -> list[Email]:
    """Return what was drafted."""


@remote()
def search_emails(query: str, sender: str | None = None) -> list[Email]:
    """Find messages by subject or body."""


@remote()
def search_contacts_by_name(query: str) -> list[Contact]:
    """Find people by name."""


@remote()
def search_contacts_by_email(query: str) -> list[Contact]:
    """Find people by address."""
