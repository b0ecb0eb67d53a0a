"""The cloud drive. Others can share files with us; ids are the drive's own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tests.hijack.world import remote


class File(BaseModel):
    """A file."""

    id_: Annotated[str, Field(pattern=r"^\d{1,9}$")]
    filename: str
    content: str
    owner: str
    last_modified: str
    shared_with: dict[str, str]
    size: int


@remote("write", critical=["file_id"])
def append_to_file(file_id: str, content: str) -> File:
    """Write more into a file."""


@remote()
def search_files_by_filename(filename: str) -> list[File]:
    """Find files by name."""


# The id of a file that we have just made is the drive's, and nobody else has a say in it.
@remote("write", endorses=["id_"])
def create_file(filename: str, content: str) -> File:
    """Make a file."""


@remote("write", permission="delete", critical=["file_id"])
def delete_file(file_id: str) -> File:
    """Delete a file."""


@remote()
def get_file_by_id(file_id: str) -> File:
    """Return a file."""


@remote()
def list_files() -> list[File]:
    """Return all files."""


@remote("write", critical=["file_id", "email", "permission"])
def share_file(file_id: str, email: str, permission: Literal["r", "rw"]) -> File:
    """Let somebody see a file, or change it."""


@remote()
def search_files(query: str) -> list[File]:
    """Find files by what is in them."""
