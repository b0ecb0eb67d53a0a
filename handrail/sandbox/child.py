"""What runs inside a sandbox: a process that imports a toolbox, carries one call out, and ends.

It reads its set-up and the call as lines of JSON, and answers likewise. What tools print goes elsewhere, so
it cannot be taken for an answer. Whoever started it believes nothing of it but that the tool says so.
"""

from __future__ import annotations

import json
import os
import select
import site
from pathlib import Path
from typing import Any, TextIO

READY, DONE = "ready", "done"
# How long it waits for a call. Whoever started it uses it for less than that.
MAX_IDLE_S = 90.0
MAX_MESSAGE_CHARS = 4_000


def main() -> None:
    """Do what the set-up says, once."""
    calls, answers = _channels()
    setup = json.loads(calls.readline())
    _shut_in(setup)
    if setup["egress"]:
        from handrail.sandbox.forward import forward

        os.environ.update(forward(setup["egress"]))
    for entry in setup["path"]:
        site.addsitedir(entry)
    # What a call needs is there before it comes.
    from handrail.sandbox.carrying import carry_out
    from handrail.toolboxes import import_tools

    tools, problems = import_tools(Path(setup["directory"]), setup["modules"], setup["listed"])
    described = [
        {
            "contract": tool.contract.model_dump(mode="json"),
            "parameters": list(tool.parameters),
            "source_sha256": tool.source_sha256,
        }
        for tool in tools
    ]
    _say(answers, {READY: {"tools": described, "problems": problems}})
    readable, _, _ = select.select([calls], [], [], MAX_IDLE_S)
    line = calls.readline() if readable else ""
    if line:
        _say(answers, {DONE: carry_out(json.loads(line), {tool.contract.name: tool for tool in tools})})


def _channels() -> tuple[TextIO, TextIO]:
    """Take the two channels out of the tools' way: what they read is empty, what they print is on stderr."""
    calls = os.fdopen(os.dup(0), "r", encoding="utf-8", buffering=1)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return calls, answers


def _shut_in(setup: dict[str, Any]) -> None:
    from handrail.sandbox import confine

    if setup["mechanism"] == "landlock":
        confine.keep(setup["scratch"])
    confine.end_with_parent()
    confine.bound(**setup["bounds"])
    if setup["mechanism"] == "none":
        return
    confine.give_up_privileges()
    landlock = setup["landlock"]
    if landlock is None:
        confine.forbid_calls(namespaces=True)
        return
    places = ([Path(text) for text in landlock[what]] for what in ("read", "listed", "write"))
    confine.forbid_calls(namespaces=False, landlock=confine.lock(*places))


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
