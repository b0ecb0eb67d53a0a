"""What a process prints, logs and traces goes out without secrets, whichever way it takes."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from handrail import secrets
from observability import logs, outlets
from observability.tool_spans import CleanSpans

VALUE = 'hunter22"canary'

PROCESS = """
import os, subprocess, sys
from handrail import secrets
from observability import outlets
secrets.remember("box", {{"KEY": {value!r}}})
outlets.guard_process()
{body}
"""


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_memory", secrets._Memory())
    secrets.remember("box", {"KEY": VALUE})


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    file = io.StringIO()
    logs.configure(file)
    yield file
    structlog.reset_defaults()
    logging.basicConfig(force=True)


def of_process(body: str) -> subprocess.CompletedProcess[bytes]:
    script = PROCESS.format(value=VALUE, body=body)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)


class Talkative:
    def __repr__(self) -> str:
        return f"it is {VALUE}"


def test_logs(written: io.StringIO) -> None:
    structlog.get_logger().warning(
        f"said {VALUE}", deep={VALUE: [VALUE]}, thing=Talkative(), password="x", tokens=3
    )
    try:
        raise KeyError(VALUE)
    except KeyError:
        structlog.get_logger().exception("raised")
        logging.getLogger("a.tool").exception("theirs %s", VALUE, extra={"more": VALUE})
    assert "hunter22" not in written.getvalue()
    first, second, third = map(json.loads, written.getvalue().splitlines())
    assert (first["event"], first["password"], first["tokens"]) == ("said [secret KEY]", "**********", 3)
    assert first["thing"] == "it is [secret KEY]"
    assert first["deep"] == {"[secret KEY]": ["[secret KEY]"]}
    assert "KeyError: '[secret KEY]'" in second["exception"]
    assert third["event"] == "theirs [secret KEY]"


def test_a_handler_of_a_tools_own(capsys: pytest.CaptureFixture[str]) -> None:
    restore = outlets.guard_streams()
    file = io.StringIO()
    handler, logger = logging.StreamHandler(file), logging.Logger("own")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    try:
        raise ValueError(VALUE)
    except ValueError:
        record = logging.getLogRecordFactory()("own", 40, __file__, 1, "it is %s", (VALUE,), sys.exc_info())
        logger.handle(record)
    finally:
        restore()
    assert "hunter22" not in file.getvalue()
    assert "it is [secret KEY]" in file.getvalue()
    assert "ValueError: [secret KEY]" in file.getvalue()


def test_streams_beside_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    restore = outlets.guard_streams()
    print("a", VALUE)
    sys.stderr.writelines([f"b {VALUE}\n", "c\n"])
    assert sys.stdout.isatty() is before.isatty()
    restore()
    assert sys.stdout is before
    assert capsys.readouterr() == ("a [secret KEY]\n", "b [secret KEY]\nc\n")


def test_a_process_and_its_children() -> None:
    done = of_process(
        "value = 'hunter22\"canary'\n"
        "print('printed', value, flush=True); os.write(2, f'written {value}\\n'.encode())\n"
        "subprocess.run(['echo', 'inherited', value])\n"
        "sys.stdout.write('no end ' + value); sys.stdout.flush()\n"
        "os.write(1, b' \\xff ' + value[:9].encode()); os.write(1, value[9:].encode())\n"
        "raise SystemExit(3)"
    )
    assert done.returncode == 3
    lines = b"printed [secret KEY]\ninherited [secret KEY]\nno end [secret KEY] \xff [secret KEY]"
    assert (done.stdout, done.stderr) == (lines, b"written [secret KEY]\n")


def test_what_ends_a_process_is_told() -> None:
    done = of_process("raise ValueError('hunter22\"canary')")
    assert done.returncode == 1
    assert b"ValueError: [secret KEY]\n" in done.stderr
    assert b"hunter22" not in done.stderr


def test_a_line_without_an_end_is_bounded_and_cut_where_no_secret_is() -> None:
    done = of_process("value = 'hunter22\"canary'\nfor _ in range(9_000): sys.stdout.write('.' * 31 + value)")
    assert done.stdout == (b"." * 31 + b"[secret KEY]") * 9_000


def test_much_is_passed_on_whole() -> None:
    done = of_process("for _ in range(50_000): sys.stdout.write('x' * 99 + '\\n')")
    assert len(done.stdout) == 5_000_000


def test_spans_of_tools() -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(CleanSpans(kept)))
    tracer = provider.get_tracer("tool")
    attributes = {VALUE: VALUE, "api_key": "k", "n": 3}
    with suppress(ValueError), tracer.start_as_current_span(f"span {VALUE}", attributes=attributes) as span:
        span.add_event(f"event {VALUE}", {"list": (VALUE, "b")})
        raise ValueError(VALUE)
    (found,) = kept.get_finished_spans()
    assert "hunter22" not in found.to_json()
    assert found.name == "span [secret KEY]"
    assert dict(found.attributes or {}) == {"[secret KEY]": "[secret KEY]", "api_key": "**********", "n": 3}
    assert [event.name for event in found.events] == ["event [secret KEY]", "exception"]
    assert found.status.description == "ValueError: [secret KEY]"
