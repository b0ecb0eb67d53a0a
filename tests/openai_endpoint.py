"""An endpoint of OpenAI's protocol for tests, over real HTTP: the real ones are paid for, or need a GPU.

It holds who asks to the protocol as the real ones do (key, model, strict schemas) and answers what a test
says, or misbehaves in the ways that they do: slow, overloaded, broken off, cut, malformed, without end.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "tests/tool-caller"
DRIP_S = 0.02


@dataclass(frozen=True)
class Reply:
    """What is sent back."""

    body: bytes | Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    # Not before the test is over.
    hangs: bool = False
    # A byte at a time, until whoever asked hangs up.
    drips: bool = False
    # Hangs up after so many bytes of the body.
    cut: int | None = None

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def message(finish: str = "tool_calls", **said: Any) -> dict[str, Any]:
    """An answer with one choice."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **said}, "finish_reason": finish}
    usage = {"prompt_tokens": 1_200, "completion_tokens": 34, "total_tokens": 1_234}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": MODEL,
        "choices": [choice],
        "usage": usage,
    }


def call(name: str, arguments: Any) -> dict[str, Any]:
    """One call; arguments that are a text stand as they are."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": text}}


def calls(*made: tuple[str, Any]) -> Reply:
    """An answer that makes calls."""
    return Reply(message(tool_calls=[call(name, arguments) for name, arguments in made]))


def says(text: str) -> Reply:
    """An answer that makes none."""
    return Reply(message("stop", content=text))


def fails(status: int, text: str = "it went wrong", **headers: str) -> Reply:
    """An error as they tell it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"error": {"message": text, "type": "error", "code": status}}, status, named)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # As many may come at once as somebody asks.
    request_queue_size = 128


Answers = Callable[[dict[str, Any]], Reply]


class Endpoint:
    """Answers until it is closed; `asked` is what came, `keys` what it came with."""

    def __init__(self, *replies: Reply, answers: Answers | None = None, key: str = "") -> None:
        """The last of `replies` is given again and again; `answers` makes one of each question."""
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.models: Reply = Reply({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        self.over = threading.Event()
        self._replies = list(replies)
        self._answers = answers
        self._key = key
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        """Stop, and let go of whoever waits."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply(self, path: str, key: str | None, body: bytes) -> Reply:
        """Return what is sent back."""
        with self._lock:
            self.keys.append(key)
        if self._key and key != f"Bearer {self._key}":
            return fails(401, f"Incorrect API key provided: {key}. You can find yours where you pay for it.")
        if path == "/v1/models":
            return self.models
        if path != "/v1/chat/completions":
            return fails(404, "Not Found")
        question = json.loads(body)
        with self._lock:
            self.asked.append(question)
        if question["model"] != MODEL:
            return fails(404, f"The model `{question['model']}` does not exist.")
        if wrong := list(_wrong(question)):
            return fails(400, "; ".join(wrong))
        if self._answers is not None:
            return self._answers(question)
        with self._lock:
            return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]


@contextmanager
def endpoint(*replies: Reply, answers: Answers | None = None, key: str = "") -> Iterator[Endpoint]:
    """Put one up."""
    made = Endpoint(*replies, answers=answers, key=key)
    try:
        yield made
    finally:
        made.close()


def tools_of(question: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The tools of a question, by name."""
    return {one["function"]["name"]: one["function"] for one in question["tools"]}


def _wrong(question: Mapping[str, Any]) -> Iterator[str]:
    """What the real ones refuse of a question."""
    names = [one["function"]["name"] for one in question["tools"]]
    if len(set(names)) != len(names):
        yield "two tools have one name"
    for name in names:
        if not 1 <= len(name) <= 64 or not all(char.isalnum() or char in "_-" for char in name):
            yield f"{name!r} is not a name"
    for function in tools_of(question).values():
        if len(function.get("description", "")) > 1_024:
            yield f"{function['name']}: the description is too long"
        if function.get("strict"):
            yield from _not_strict(function["name"], function["parameters"])
    if not any(one["role"] == "user" and one["content"] for one in question["messages"]):
        yield "nothing is asked"


def _not_strict(where: str, part: Mapping[str, Any]) -> Iterator[str]:
    known = {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "anyOf",
        "description",
    }
    known |= {"pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    known |= {"minItems", "maxItems"}
    if not {"type", "enum", "anyOf"} & part.keys():
        yield f"{where} has no type"
    if unknown := part.keys() - known:
        yield f"{where} has {sorted(unknown)}, which strict schemas do not"
    kinds = part.get("type", [])
    if "object" in ([kinds] if isinstance(kinds, str) else kinds):
        if part.get("additionalProperties") is not False:
            yield f"{where} is open"
        if set(part.get("required", ())) != set(part.get("properties", {})):
            yield f"{where} does not require all of its properties"
        for name, inner in part.get("properties", {}).items():
            yield from _not_strict(f"{where}.{name}", inner)
    if "array" in ([kinds] if isinstance(kinds, str) else kinds):
        yield from _not_strict(f"{where}[]", part.get("items", {}))
    for number, inner in enumerate(part.get("anyOf", ())):
        yield from _not_strict(f"{where}|{number}", inner)


def _handler(owner: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

        def _answer(self, body: bytes) -> None:
            reply = owner.reply(self.path, self.headers.get("Authorization"), body)
            if reply.hangs:
                owner.over.wait()
            content = reply.content
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.close_connection = True
            try:
                if reply.drips:
                    for at in range(len(content)):
                        self.wfile.write(content[at : at + 1])
                        if owner.over.wait(DRIP_S):
                            return
                else:
                    self.wfile.write(content[: reply.cut])
            except OSError:
                # Whoever asked has hung up.
                return

    return Handler
