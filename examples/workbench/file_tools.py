"""Files on the desk, the one directory that the toolbox may write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from handrail.tool import call, tool

DESK = Path(__file__).parent / "desk"
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


class Page(BaseModel):
    """A file and what stands in it."""

    name: str
    text: str


@tool(effect="read")
def read_page(name: FileName) -> Page | None:
    """Read a file of the desk."""
    path = DESK / name
    return Page(name=name, text=path.read_text()) if path.is_file() else None


@tool(effect="write", idempotency="natural")
def remove_page(name: FileName) -> bool:
    """Remove a file of the desk."""
    (DESK / name).unlink(missing_ok=True)
    return True


@tool(
    effect="write",
    idempotency="natural",
    undo=call("remove_page", name="args.name"),
    reads={"before": call("read_page", name="args.name"), "page": call("read_page", name="output.name")},
    pre="reads.before == null || reads.before.text == args.text",
    post="reads.page != null && reads.page.text == args.text",
)
def write_page(name: FileName, text: str) -> Page:
    """Write a file that is not there yet."""
    (DESK / name).write_text(text)
    return Page(name=name, text=text)
