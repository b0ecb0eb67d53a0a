"""What a toolbox that is shut in says of itself, and whether a mechanism will do for it."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from handrail.cli import sandboxed
from handrail.sandbox import confine, mechanism, system_calls
from handrail.sandbox.mechanism import Mechanism
from handrail.sandbox.profile import Profile, profile_of
from handrail.settings import MaySettings, ProjectError, Settings, load_settings

BUBBLEWRAP = Mechanism("bubblewrap", "/usr/bin/bwrap", ())
LANDLOCK = Mechanism("landlock", "version 7", ("bubblewrap is not installed",))
NONE = Mechanism("none", "", ("bubblewrap is not installed", "Landlock is version 0"))


def settings(**more: Any) -> Settings:
    return Settings.model_validate(
        {
            "toolboxes": {
                "desk": {"modules": ["desk"], "may": {"write": ["out"]}, "env": {"NAME": "desk"}},
                "open": {"modules": ["shop.tools"], "env": {"SECRET": "x"}},
            },
            **more,
        }
    )


def profile(weakest: str = "landlock", *hosts: str) -> Profile:
    may = MaySettings(hosts=list(hosts))
    return Profile("desk", may, Path("/p"), ("desk",), weakest=weakest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("weakest", "found", "hosts", "says", "taken"),
    [
        ("bubblewrap", BUBBLEWRAP, ("a:1",), "", "bubblewrap"),
        ("bubblewrap", LANDLOCK, (), "cannot be shut in", ""),
        ("bubblewrap", NONE, (), "cannot be shut in", ""),
        ("landlock", BUBBLEWRAP, (), "", "bubblewrap"),
        ("landlock", LANDLOCK, (), "", "landlock"),
        ("landlock", LANDLOCK, ("a:1",), "lists hosts, which needs bubblewrap", ""),
        ("landlock", NONE, (), "cannot be shut in", ""),
        ("none", LANDLOCK, (), "", "landlock"),
        ("none", LANDLOCK, ("a:1",), "", "none"),
        ("none", NONE, ("a:1",), "", "none"),
    ],
)
def test_what_will_do(weakest: str, found: Mechanism, hosts: tuple[str, ...], says: str, taken: str) -> None:
    made = profile(weakest, *hosts)
    refusal = made.refusal(found)
    if not says:
        assert refusal == ""
        assert made.taken(found).name == taken
        return
    assert says in refusal
    assert "Install bubblewrap" in refusal
    assert "bubblewrap is not installed" in refusal


def test_a_profile_hides_what_is_secret_and_keeps_what_is_believed(tmp_path: Path) -> None:
    said = settings(
        tls={"key": "tls.key", "certificate": "tls.pem"},
        permits={"key": "decider.pem", "trusted": ["friend.pem"]},
        broker={"credentials": "broker.json"},
        playbooks={"paths": ["plans"]},
        minds={"proposer": "minds:propose"},
    )
    made = profile_of(tmp_path, said, "desk", tmp_path / "state")
    hidden = {".handrail", "handrail.toml", "state", "tls.key", "decider.pem", "broker.json"}
    assert {path.name for path in made.hidden} == hidden
    code = {
        "policy",
        "plans",
        "friend.pem",
        "tls.pem",
        "desk.py",
        "desk",
        "shop.py",
        "shop",
        "minds.py",
        "minds",
    }
    assert {path.name for path in made.code} == code
    assert made.env == {"NAME": "desk"}
    assert made.listed == ("desk", "shop.tools")
    with pytest.raises(ValueError, match="has no `may`"):
        profile_of(tmp_path, said, "open", None)


@pytest.mark.parametrize(
    "host",
    [
        "a",
        "a:",
        ":443",
        "http://a:443",
        "a:443/x",
        "*:443",
        "a.*:443",
        "*a:443",
        "a:123456",
        "::1:80",
        "a b:1",
    ],
)
def test_hosts_have_one_form(tmp_path: Path, host: str) -> None:
    refused(tmp_path, f"hosts = ['{host}']", "hosts")


@pytest.mark.parametrize(
    "line", ["cpu_s = 0", "memory_mb = 1", "processes = 0", "read = ['']", "wrote = ['x']"]
)
def test_bounds_are_bounded(tmp_path: Path, line: str) -> None:
    refused(tmp_path, line, line.partition(" ")[0])


def refused(directory: Path, line: str, says: str) -> None:
    head = '[toolboxes.desk]\nmodules = ["desk"]\n[toolboxes.desk.may]\n'
    (directory / "handrail.toml").write_text(head + line + "\n")
    with pytest.raises(ProjectError, match=says):
        load_settings(directory)


def test_an_empty_may_shuts_in(tmp_path: Path) -> None:
    (tmp_path / "handrail.toml").write_text('[toolboxes.desk]\nmodules = ["desk"]\n[toolboxes.desk.may]\n')
    may = load_settings(tmp_path).toolboxes["desk"].may
    assert may is not None
    assert (may.hosts, may.read, may.write) == ([], [], [])


def shown(monkeypatch: pytest.MonkeyPatch, found: Mechanism, said: Settings, toolbox: str = "desk") -> str:
    monkeypatch.setattr(mechanism, "found", lambda: found)
    return "\n".join(line.plain for line in sandboxed.may_lines(Path("/p"), said, toolbox))


def test_what_a_toolbox_may_touch_is_said_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "by bubblewrap" in shown(monkeypatch, BUBBLEWRAP, settings())
    assert "will not be called" in shown(monkeypatch, NONE, settings())
    assert "NO: the settings let it" in shown(monkeypatch, NONE, settings(sandbox={"weakest": "none"}))
    assert "no: it can touch whatever" in shown(monkeypatch, BUBBLEWRAP, settings(), "open")
    monkeypatch.setattr(mechanism, "found", lambda: BUBBLEWRAP)
    assert sandboxed.may_object(Path("/p"), settings(), "open") == {"shut_in": False, "secrets": []}


def test_what_runs_open_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(mechanism, "found", lambda: NONE)
    sandboxed.warn_of_open(tmp_path, settings())
    assert capsys.readouterr().err == ""
    sandboxed.warn_of_open(tmp_path, settings(sandbox={"weakest": "none"}))
    said = capsys.readouterr().err
    assert "Warning: not shut in" in said
    assert "desk" in said
    monkeypatch.setattr(mechanism, "found", lambda: LANDLOCK)
    assert sandboxed.runs_open(tmp_path, settings(sandbox={"weakest": "none"})) == ""


@pytest.mark.parametrize(
    ("found", "weakest", "status"),
    [
        (BUBBLEWRAP, "landlock", "ok"),
        (LANDLOCK, "landlock", "warn"),
        (LANDLOCK, "bubblewrap", "fail"),
        (NONE, "landlock", "fail"),
        (NONE, "none", "warn"),
    ],
)
def test_the_doctor_says_what_this_machine_can_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: Mechanism, weakest: str, status: str
) -> None:
    monkeypatch.setattr(mechanism, "found", lambda: found)
    text = '[toolboxes.desk]\nmodules = ["desk"]\n[toolboxes.desk.may]\n'
    (tmp_path / "handrail.toml").write_text(f'{text}[sandbox]\nweakest = "{weakest}"\n')
    findings = list(sandboxed.check_sandbox(tmp_path))
    assert [one.status for one in findings] == [status]
    assert all(one.todo for one in findings if one.status != "ok")


def answer(program: bytes, number: int, first: int = 0, mark: int = system_calls.MARKS["x86_64"]) -> int:
    """Run a filter as the kernel does."""
    data = struct.pack("=IIQQ", number, mark, 0, first)
    steps = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    held = at = 0
    for _ in steps:
        code, yes, no, value = steps[at]
        at += 1
        if code == 0x20:
            held = struct.unpack_from("=I", data, value)[0]
        elif code == 0x06:
            return int(value)
        else:
            holds = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
            at += yes if holds else no
    raise AssertionError("the filter has no end")


KILL, ALLOW, EPERM, ENOSYS, NOTHING = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026, 0x00050000


def numbers(names: Iterable[str]) -> list[int]:
    return system_calls.numbers("x86_64", *names)


def test_the_filter_of_system_calls() -> None:
    program = confine._program("x86_64", confine._NEVER, ["setsid", "chmod"])
    for number in numbers(confine._NEVER):
        assert answer(program, number) == EPERM
    for number in numbers(["setsid", "chmod"]):
        assert answer(program, number) == NOTHING
    assert answer(program, 0) == ALLOW
    assert answer(program, 0, mark=0x40000003) == KILL
    assert answer(program, 0x40000000) == KILL
    assert answer(program, 435) == ENOSYS
    (clone,) = numbers(["clone"])
    assert answer(program, clone, 0x01200011) == ALLOW
    for bit in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(program, clone, bit | 17) == EPERM
    for number in numbers(confine._OF_ITSELF):
        assert answer(program, number, 0) == ALLOW
        assert answer(program, number, 1) == EPERM


@pytest.mark.parametrize("machine", list(system_calls.MARKS))
def test_every_call_that_is_refused_has_a_number(machine: str) -> None:
    for names in (
        confine._NEVER,
        confine._SIGNALS,
        confine._OF_ITSELF,
        ("clone", "clone3", "setsid", "setpgid"),
    ):
        found = system_calls.numbers(machine, *names)
        assert len(set(found)) == len(names)
    assert system_calls.numbers(machine, *confine._NOT_OUTSIDE_NAMESPACES, *confine._QUIETLY_NOT)


@pytest.mark.skipif(sys.platform == "linux", reason="this is Linux")
def test_elsewhere_there_is_nothing() -> None:
    assert mechanism.found().name == "none"
