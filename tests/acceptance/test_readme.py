"""What newcomers read is true: every command of the documents is executed, tables are compared with the code.

What stands behind the language of a fence, or the language itself, says what becomes of it:
`sh` is executed, in order, in one shell for the whole document; `sh background` beside the rest, to its end;
`python` is executed; `file=PATH` is written to that file; `quotes=PATH` must stand in that file;
`text output` must have been printed by what was executed before; anything else is only shown.
A command that ends in `# exits N` must do that. All of it happens in a copy of the repository, on a terminal.
"""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ

import pytest
from pydantic import BaseModel

from bus import permissions
from handrail.cli.exits import MEANINGS
from handrail.settings import MaySettings, Settings, ToolboxSettings
from tests.acceptance.conftest import ROOT, environment

SHELL_TIMEOUT_S = 600
WIDTH, HEIGHT = 110, 50
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")])
_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_UNTIL_UP = "timeout 60 bash -c 'until grep -qs \"Handrail is up\" up.out; do sleep 0.1; done' || cat up.out"
_EXITS = re.compile(r"^(.*?)\s+# exits (\d+)$", re.MULTILINE)
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
_CHANGING = re.compile(r"r\d-[0-9a-z]{26}|\d[\d,.]* m?s\b|\d\d:\d\d:\d\d\.\d+|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_SCALES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "days": 86_400}


@dataclass(frozen=True)
class Block:
    """A fence of a document."""

    language: str
    words: tuple[str, ...]
    text: str

    def says(self, name: str) -> str:
        """The value of a word like `file=PATH`."""
        return next((word.removeprefix(f"{name}=") for word in self.words if word.startswith(f"{name}=")), "")

    @property
    def runs(self) -> bool:
        written = self.says("file") or self.says("quotes")
        return self.language == "sh" or (self.language == "python" and not written)


def blocks(document: Path) -> list[Block]:
    found = _FENCE.findall(document.read_text())
    return [Block(language, tuple(words.split()), text) for language, words, text in found]


def script(document: Path) -> str:
    """One shell script of a whole document; a line `@@@ n` begins the output of the n-th fence."""
    lines = ["set -eo pipefail", "trap 'kill -INT $(jobs -p) 2>&- || true; wait' EXIT"]
    for number, block in enumerate(blocks(document)):
        if file := block.says("file"):
            lines += [f"mkdir -p $(dirname {file})", f"cat > {file} <<'END'", f"{block.text}END"]
        elif not block.runs:
            continue
        elif block.language == "python":
            lines += [f"echo @@@ {number}", "python - <<'END'", f"{block.text}END"]
        elif "background" in block.words:
            lines += [f"{block.text.strip()} > up.out 2>&1 &", _UNTIL_UP]
        else:
            text = _EXITS.sub(r"code=0; \1 || code=$?; test $code -eq \2", block.text)
            lines += [f"echo @@@ {number}", text]
    lines.append("for job in $(jobs -p); do kill -INT $job; wait $job; done")
    return "\n".join(lines)


def on_a_terminal(command: list[str], cwd: Path, env: dict[str, str]) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its status and what it printed."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, pack("HHHH", HEIGHT, WIDTH, 0, 0))
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    printed = bytearray()
    deadline = time.monotonic() + SHELL_TIMEOUT_S
    try:
        while chunk := _read(ours, deadline):
            printed += chunk
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        raise AssertionError(f"{error}; so far:\n{_text(printed)[-4_000:]}") from None
    finally:
        if process.poll() is None:
            # With what it has started in the background.
            os.killpg(process.pid, signal.SIGTERM)
            process.kill()
        process.wait()
        os.close(ours)
    return code, _text(printed)


def _text(printed: bytes) -> str:
    return _ESCAPE.sub("", printed.decode(errors="replace"))


def _read(descriptor: int, deadline: float) -> bytes:
    if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        raise TimeoutError(f"it has not ended after {SHELL_TIMEOUT_S} s")
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # how a terminal says that its other end is closed
        return b""


def copy_repository(target: Path) -> Path:
    """A copy with this environment, in which nothing can be installed: that would be into this one."""
    ignore = shutil.ignore_patterns(".*", "*.db*", "out", "__pycache__", "tests")
    shutil.copytree(ROOT, target, ignore=ignore)
    (target / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != ".synced":
            (target / ".venv" / entry.name).symlink_to(entry)
    (target / ".venv" / ".synced").touch()
    (target / ".stubs").mkdir()
    (target / ".stubs" / "uv").write_text("#!/bin/sh\necho a test must not install >&2\nexit 1\n")
    (target / ".stubs" / "uv").chmod(0o755)
    return target


def seen(text: str) -> str:
    """A line as far as it is the same every time."""
    return " ".join(_CHANGING.sub("~", text).split())


def execute(document: Path, target: Path) -> tuple[int, str]:
    """Do all that a document says, in a copy of the repository."""
    repository = copy_repository(target)
    path = (str(repository / ".stubs"), str(Path(sys.executable).parent), os.environ["PATH"])
    env = environment(PATH=os.pathsep.join(path), TERM="xterm", COLUMNS=str(WIDTH), LINES=str(HEIGHT))
    return on_a_terminal(["bash", "-c", script(document)], repository, env)


@pytest.mark.timeout(SHELL_TIMEOUT_S + 30)
@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if any(block.runs for block in blocks(d))], ids=lambda d: d.name
)
def test_every_command_does_what_the_document_says(document: Path, tmp_path: Path) -> None:
    code, printed = execute(document, tmp_path / "handrail")
    assert code == 0, printed[-4_000:]
    outputs = {}
    for part in printed.split("@@@ ")[1:]:
        number, _, text = part.partition("\n")
        outputs[int(number)] = [seen(line) for line in text.splitlines()]
    last = -1
    for number, block in enumerate(blocks(document)):
        last = number if block.runs and "background" not in block.words else last
        for line in block.text.splitlines() if "output" in block.words else ():
            told = seen(line.partition("…")[0])
            assert any(told in real for real in outputs[last]), (line, printed[-4_000:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_quotation_is_literal(document: Path) -> None:
    for block in blocks(document):
        if quoted := block.says("quotes"):
            assert block.text in (ROOT / quoted).read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = _LINK.findall(_CODE.sub("", document.read_text()))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


def test_the_readme_lists_the_commands_and_the_exit_codes() -> None:
    from handrail.cli.main import app

    readme = (ROOT / "README.md").read_text()
    names = [command.name for command in app.registered_commands if not command.hidden]
    assert [name for name in names if f"`handrail {name}" not in readme] == []
    for code, meaning in MEANINGS.items():
        assert f"| {int(code)} | {meaning} |" in readme
        assert f"| {int(code)} | {meaning} |" in (ROOT / "docs" / "cli.md").read_text()


def test_the_documented_settings_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "project.md").read_text()
    rows = re.findall(r"^\| (`.*`) \| (?:`(.*)`)? ?\|", text.partition("## The data")[0], re.MULTILINE)
    documented = {key: default for keys, default in rows for key in re.findall(r"`([\w.]+)`", keys)}
    assert documented == dict(_settings(Settings, ""))


def _settings(section: type[BaseModel], path: str) -> Iterator[tuple[str, str]]:
    """Every key with its default, as TOML would have it."""
    for name, field in section.model_fields.items():
        where = f"{path}{name}"
        if name == "toolboxes":
            yield from _settings(ToolboxSettings, f"{where}.NAME.")
        elif name == "may":
            yield from _settings(MaySettings, f"{where}.")
        elif isinstance(field.default, BaseModel):
            yield from _settings(type(field.default), f"{where}.")
        else:
            yield where, "" if field.is_required() else json.dumps(field.default)


def test_the_documented_bounds_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| [^|]*\| ([\d,.]+) ?(\w*) \| `([\w.]+)` \|$", _architecture(), re.MULTILINE)
    assert len(rows) > 40
    for number, unit, name in rows:
        module, _, constant = name.rpartition(".")
        scale = 1e9 if constant.endswith("_NS") else _SCALES.get(unit, 1)
        documented = float(number.replace(",", "")) * scale
        assert documented == float(getattr(importlib.import_module(module), constant)), name


def test_the_documented_permissions_are_those_of_the_broker() -> None:
    text = (ROOT / "docs" / "broker.md").read_text()
    table = text.partition("<!-- permissions -->\n")[2].partition("<!-- /permissions -->")[0]
    assert table.strip() == permissions.markdown().strip()


def _architecture() -> str:
    return (ROOT / "ARCHITECTURE.md").read_text()
