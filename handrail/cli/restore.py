"""`handrail restore`: the broker's log rebuilt from the notary's copy."""

from __future__ import annotations

import asyncio
from pathlib import Path

from handrail.cli import options
from handrail.cli.server import data_dir


def restore(project: options.Project = None, data: options.Data = None, json: options.Json = False) -> None:
    """Rebuild a damaged log from the notary's copy.

    Nothing may be up on the data directory. What was damaged is kept beside what is new. Runs that had not
    ended go on at the next start.
    """
    from handrail.cli.output import Output
    from handrail.stack.restoring import restore as rebuild

    output = Output(as_json=json)

    def progress(stream: str, at: int, size: int) -> None:
        output.note(f"{stream}: {at} of {size} messages")

    place = data_dir(project, data)
    done = asyncio.run(rebuild((project or Path()).resolve(), place, progress))
    told = {"messages": done.messages, "salvaged": done.salvaged, "aside": str(done.aside)}
    output.json({"ok": True, **told})
    behind = f", {done.salvaged} of them from behind the last head" if done.salvaged else ""
    output.line(f"{output.glyphs.done} {done.messages} messages put back, as they were signed for{behind}")
    output.line(f"  the damaged files are in {done.aside}")
