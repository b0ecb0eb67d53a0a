"""A secret is used in every way and on every path, and nothing that stays or is shown holds it.

The same tools spill a control text beside the secrets, which must be found in every place that is searched:
a search that finds nothing because it looks in the wrong place fails.
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bus import subjects
from handrail.cipher import Cipher
from handrail.keys import PublicKeys
from orchestrator.book import entries_of, head_of
from orchestrator.key_copy import KeyCopy
from tests.acceptance.conftest import OPEN_POLICY, Up, copy_sample, handrail, query, start
from tests.otlp_receiver import Receiver

# The quiet middles are searched for: no escaping changes them.
PIN_CORE, PASS_CORE, MOUNTED_CORE = "Vx7CanaryPinB3kq", "Hw2CanaryWordT9zp", "Kd5CanaryMountedE6yu"
PIN, PASS, MOUNTED = f'q"/{PIN_CORE}=+\\é', f"{PASS_CORE} & more", MOUNTED_CORE
CANARIES = (PIN_CORE, PASS_CORE, MOUNTED_CORE)
CONTROL = "Nq4LuckyControlText8Zr"

PLANS: dict[str, dict[str, dict[str, Any]]] = {
    "healed": {
        "look": {"tool": "look"},
        "chained": {"tool": "repeat", "with": {"text": "$look.plain"}},
        "again": {"tool": "repeat", "with": {"text": "$chained"}},
        "much": {"tool": "much"},
        "ring": {"tool": "ring_first"},
        "own": {"tool": "own"},
        "variables": {"tool": "variables"},
        "sign": {"tool": "sign_in", "with": {"password": "typed by somebody"}},
        "open": {"tool": "open_safe"},
    },
    **{
        tool: {"only": {"tool": tool}}
        for tool in ("open_once", "mistype", "unseen", "unverified", "refuted", "foreign", "fail_to_look")
    },
}
ENDS = {
    "healed": ("RUN_STATUS_DONE", ""),
    "open_once": ("RUN_STATUS_DONE", ""),
    "mistype": ("RUN_STATUS_FAILED", "bad_output"),
    "unseen": ("RUN_STATUS_FAILED", "pre_refuted"),
    "unverified": ("RUN_STATUS_WAITING", ""),
    "refuted": ("RUN_STATUS_FAILED", "post_refuted"),
    "foreign": ("RUN_STATUS_FAILED", "no_such_secret"),
    "fail_to_look": ("RUN_STATUS_FAILED", "tool_raised"),
}
READINGS = (("show",), ("show", "--full"), ("log",), ("trace",), ("replay",), ("gates",), ("audit show",))

Contents = list[tuple[str, bytes]]


class Stage:
    """A project whose tools spill, and all that was shown of it."""

    def __init__(self, project: Path, mounted: Path) -> None:
        self.project = project
        self.mounted = {"HANDRAIL_SECRETS_DIR": str(mounted)}
        self.shown: Contents = []
        self.server: tuple[str, ...] = ()

    def call(self, *arguments: str) -> str:
        """Call a command, keep what it shows, and return what it printed."""
        done = handrail(*arguments, *(self.server or ("--project", str(self.project))), **self.mounted)
        self.shown.append((" ".join(arguments), (done.stdout + done.stderr).encode()))
        return done.stdout

    def carry_out(self, *names: str) -> dict[str, dict[str, Any]]:
        """Have plans carried out, one after another, and say what became of each."""
        for name in names:
            plan = self.project / f"{name}.json"
            plan.write_text(json.dumps({"steps": [{"id": id, **step} for id, step in PLANS[name].items()]}))
            self.call("run", name, "--plan", str(plan), "--request-id", name)
        ids = [(run["goal"], run["id"]) for run in self.runs()]
        assert sorted(goal for goal, _ in ids) == sorted(names)
        return {name: json.loads(self.call("show", run, "--json"))["run"] for name, run in ids}

    def runs(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.call("list", "--json").splitlines()]

    def read(self, run: str) -> None:
        """Have everything about a run shown, for people and for programs."""
        for command, *options in READINGS:
            about = () if command == "gates" else (run,)
            self.call(*command.split(), *about, *options)
            self.call(*command.split(), *about, *options, "--json")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    target, mounted = tmp_path / "safe", tmp_path / "mounted"
    shutil.copytree(Path(__file__).parent / "safe", target, ignore=shutil.ignore_patterns("__pycache__"))
    for path, value in ((target / "secrets" / "pass", f"{PASS}\n"), (mounted / "shop-db" / "url", MOUNTED)):
        path.parent.mkdir(parents=True)
        path.write_text(value)
        path.chmod(0o600)
    (target / "policy").mkdir()
    (target / "policy" / "open.cedar").write_text(OPEN_POLICY)
    monkeypatch.setenv("SAFE_PIN", PIN)
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    return Stage(target, mounted)


def forms(text: str) -> list[bytes]:
    """A text as it is, and as it stands in base64 wherever it begins."""
    found = [text.encode()]
    for at in range(3):
        coded = base64.b64encode(b"\0" * at + text.encode())
        found.append(coded[4 if at else 0 : len(coded) // 4 * 4 - 4])
    return found


def places(contents: Contents, text: str) -> set[str]:
    """Where a text stands, in whatever form."""
    return {place for place, content in contents if any(form in content for form in forms(text))}


def files(data: Path) -> Contents:
    """What lies in a data directory, and what the log says, which is encrypted there."""
    found = [path for path in sorted(data.rglob("*")) if path.is_file()]
    return [(str(path.relative_to(data)), path.read_bytes()) for path in found] + log_of(data)


def log_of(data: Path) -> Contents:
    """What the log says, from the notary's copy of it and of its keys."""
    said: Contents = []
    keys = {run: Cipher(key) for place in data.glob("notary/EV_*") for run, key in KeyCopy(place).kept()}
    checker = PublicKeys.read([data / "notary" / "key.pub"])
    for place in sorted(path for path in data.glob("notary/*_*") if path.is_dir()):
        signed = head_of(place, None, checker)
        for entry in entries_of(place, signed) if signed is not None else ():
            run = subjects.run_at(entry.subject)
            assert run is not None
            text = keys[run].decrypt(entry.data, entry.subject)
            said.append((f"said {place.name} {entry.sequence}", text))
    assert said
    return said


def nothing_is_seen(contents: Contents) -> None:
    for canary in CANARIES:
        assert places(contents, canary) == set()


def check_ends(ends: dict[str, dict[str, Any]]) -> None:
    """Every path was really taken."""
    said = {name: (run["status"], run.get("failure", {}).get("code", "")) for name, run in ends.items()}
    assert said == {name: ENDS[name] for name in ends}
    steps = {step["id"]: step for step in ends["healed"]["steps"]}
    assert json.loads(steps["own"]["output"]["json"]) == len(MOUNTED)
    assert json.loads(steps["sign"]["output"]["json"]) == {"api_key": "**********", "tokens_used": 3}
    look = json.loads(steps["look"]["output"]["json"])
    assert look["plain"] == f"[secret PIN] [secret PASS] {CONTROL}"
    assert f"[secret PIN] [secret PASS] {CONTROL}" in look["fields"]
    heals = [heal["strategy"] for id in ("open", "ring") for heal in steps[id]["heals"]]
    assert heals == ["retry", "retry_same_key", "alternative"]
    assert "blob" in steps["much"]["output"]


def test_the_search_finds_what_is_there() -> None:
    for at in range(3):
        coded = base64.b64encode(b"." * at + PIN.encode() + b"...")
        assert places([("coded", coded)], PIN_CORE) == {"coded"}
    assert places([("plain", json.dumps({"a": PIN}).encode())], PIN_CORE) == {"plain"}
    assert places([("other", b"nothing")], PIN_CORE) == set()


@pytest.mark.timeout(400)
def test_nothing_holds_a_secret_where_everything_is_one_process(stage: Stage) -> None:
    ends = stage.carry_out("healed", "refuted", "mistype")
    check_ends(ends)
    stage.call("undo", ends["healed"]["id"])
    stage.read(ends["healed"]["id"])
    stage.call("doctor")
    left = files(stage.project / ".handrail")
    nothing_is_seen(left + stage.shown)
    found = places(left + stage.shown, CONTROL)
    assert {"logs/run.log", "traces.jsonl"} <= found
    assert any(place.startswith("said EV_") for place in found)
    assert {"run", "show", "log", "replay", "audit"} <= {
        place.split()[0] for place in places(stage.shown, CONTROL)
    }


@pytest.mark.timeout(400)
def test_nothing_holds_a_secret_where_everything_has_a_process(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver().start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    try:
        up = start(stage.project, "inline", **stage.mounted, SPILL_DESCRIPTORS="1")
        stage.server = ("--server", up.address)
        try:
            ends = stage.carry_out(*PLANS)
            check_ends(ends)
            (variables,) = [step for step in ends["healed"]["steps"] if step["id"] == "variables"]
            assert json.loads(variables["output"]["json"]) == []
            stage.call("undo", ends["healed"]["id"])
            for name in ("healed", "open_once", "refuted", "unverified"):
                stage.read(ends[name]["id"])
            check_environments(up)
        finally:
            assert up.stop() == 0
        sent = [(f"span {span.name[:8]} {span.service}", span.content) for span in receiver.spans()]
    finally:
        receiver.stop()
    left = files(stage.project / ".handrail")
    nothing_is_seen(left + stage.shown + sent)
    found = places(left + stage.shown + sent, CONTROL)
    assert {"logs/worker-safe-0.log", "logs/minds.log"} <= found
    assert {"span spilling handrail-worker-safe", "span spilling handrail-verifier"} <= found
    assert any(place.startswith("said EV_") for place in found)
    log = b"".join(content for place, content in left if place.startswith("logs/worker-safe"))
    for line in (
        b"printed ",
        b"on stderr ",
        b"logged ",
        b'"value": "',
        b"written ",
        b"inherited ",
        b"caught ",
    ):
        assert line + b"[secret PIN] [secret PASS] " + CONTROL.encode() in log
    masked = [span for span in receiver.spans() if "api_key" in span.attributes]
    assert masked
    assert {span.attributes["api_key"] for span in masked} == {"**********"}


def check_environments(up: Up) -> None:
    """Only those who call tools with secrets have the variables."""
    having = set()
    for name, pid in up.children().items():
        if PIN_CORE.encode() in Path(f"/proc/{pid}/environ").read_bytes():
            having.add(name)
    assert {"gateway", "decider", "broker", "worker:other:0"} <= up.children().keys()
    assert having == {"worker:safe:0", "worker:safe:1", "minds:inline"}


def test_a_missing_secret_is_told_before_anything_is_done(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAFE_PIN")
    looked = [json.loads(line) for line in stage.call("doctor", "--json").splitlines()]
    assert [line["status"] for line in looked if line["check"] == "secrets"] == ["fail", "ok"]
    (run,) = stage.carry_out("open_once").values()
    assert run["failure"]["code"] == "secret_missing"
    assert "toolbox safe: secret PIN (env:SAFE_PIN): SAFE_PIN is not set" in run["failure"]["message"]
    assert not (stage.project / "world").exists()
    kinds = [json.loads(line)["event"].keys() for line in stage.call("log", run["id"], "--json").splitlines()]
    assert not any("intent" in kind for kind in kinds)
    nothing_is_seen(files(stage.project / ".handrail") + stage.shown)


SPILLING = f"""

# --- appended by a test: every tool of the sample spills a secret ---
import logging as _logging

from handrail.tool import secret as _secret

_plain = injectable


def injectable(function):
    inner = _plain(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        said = _secret("PIN").get_secret_value() + " {CONTROL}"
        print(function.__name__, said)
        _logging.getLogger("sample").warning("called with %s", said)
        try:
            output = inner(*args, **kwargs)
        except ToolError as error:
            again = dict(code=error.code, transient=error.transient, in_doubt=error.in_doubt)
            raise ToolError(f"{{error}}, with {{said}}", **again) from error
        if function.__name__ in ("draft_email", "get_draft"):
            return output.model_copy(update={{"body": f"{{output.body}} {{said}}"}})
        return output

    return call
"""


@pytest.mark.timeout(300)
def test_nothing_holds_a_secret_that_the_sample_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = copy_sample(tmp_path / "backoffice")
    with (project / "faults.py").open("a") as file:
        file.write(SPILLING)
    with (project / "handrail.toml").open("a") as file:
        file.write('\n[toolboxes.backoffice.secrets]\nPIN = "env:SAMPLE_PIN"\n')
    monkeypatch.setenv("SAMPLE_PIN", PIN)
    stage = Stage(project, tmp_path)
    up = start(project, "inline")
    stage.server = ("--server", up.address)
    try:
        for tool, kind in (
            ("refund_order", "crash_after"),
            ("draft_email", "transient"),
            ("get_order", "lie"),
        ):
            query(project, "REPLACE INTO faults VALUES (?, ?, 1, 1.0)", tool, kind)
        stage.call("run", "refund order 1013 and tell the customer")
        query(project, "REPLACE INTO faults VALUES ('get_order', 'transient', 99, 1.0)")
        stage.call("run", "refund order 1012 and tell the customer")
        runs = {run["goal"]: run for run in stage.runs()}
        ends = {goal.split()[2]: run["status"] for goal, run in runs.items()}
        assert ends == {"1013": "RUN_STATUS_DONE", "1012": "RUN_STATUS_FAILED"}
        query(project, "DELETE FROM faults")
        stage.call("undo", runs["refund order 1013 and tell the customer"]["id"], "--as", "ines")
        for run in runs.values():
            stage.read(run["id"])
    finally:
        assert up.stop() == 0
    left = files(project / ".handrail")
    nothing_is_seen(left + stage.shown)
    found = places(left + stage.shown, CONTROL)
    assert {"logs/worker-backoffice-0.log", "logs/minds.log"} <= found
    assert any(place.startswith("said EV_") for place in found)
    assert {"run", "show", "log"} <= {place.split()[0] for place in places(stage.shown, CONTROL)}
