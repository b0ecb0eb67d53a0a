"""A broker of one's own, as `handrail broker config` has it: runs go through it, and it can grow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bus.probe import CredentialsRefused, check_foreign
from tests.acceptance.conftest import handrail, wait_for

START_TIMEOUT_S = 10.0


@contextmanager
def server(out: Path) -> Iterator[str]:
    """The real nats-server on the files, on a free port."""
    where = ["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(out), "-l", str(out / "log")]
    binary = Path(sys.executable).with_name("nats-server")
    process = subprocess.Popen([binary, "-c", str(out / "nats-server.conf"), *where])
    ports = out / f"nats-server_{process.pid}.ports"
    try:
        wait_for("the server", lambda: ports.exists() and ports.read_text().endswith("}"), START_TIMEOUT_S)
        yield json.loads(ports.read_text())["nats"][0]
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)


async def test_a_run_goes_through_a_broker_of_ones_own(project: Path) -> None:
    out, settings = project / "broker", project / "handrail.toml"
    configured = ("broker", "config", "--out", str(out), "--project", str(project))
    done = handrail(*configured)
    assert done.returncode == 0, done.stderr
    passwords = json.loads((out / "credentials.json").read_text())
    assert not any(each in done.stdout for each in passwords.values())
    text = settings.read_text() + '\n[broker]\nurl = "URL"\ncredentials = "broker/credentials.json"\n'
    with server(out) as url:
        settings.write_text(text.replace("URL", url))
        done = handrail("run", "refund order 1022", "--project", str(project))
        assert done.returncode == 0, done.stdout + done.stderr
        with pytest.raises(CredentialsRefused, match="without credentials"):
            await check_foreign(url)

    # Another toolbox: one more user, and nothing else is another.
    settings.write_text(text + '\n[toolboxes.more]\nmodules = ["more"]\n')
    told = json.loads(handrail(*configured, "--json").stdout)
    assert told["new_users"] == ["worker-more"]
    assert told["left"] == ["nats-server.conf"]
    grown = json.loads((out / "credentials.json").read_text())
    assert {name: grown[name] for name in passwords} == passwords

    # And back: kept, and named, until it is dropped.
    settings.write_text(text)
    assert "worker-more (--drop drops them)" in handrail(*configured).stdout
    with server(out) as url:
        await check_foreign(url, user="worker-more", password=grown["worker-more"])
    assert json.loads(handrail(*configured, "--drop", "--json").stdout)["dropped_users"] == ["worker-more"]
    with server(out) as url:
        with pytest.raises(CredentialsRefused):
            await check_foreign(url, user="worker-more", password=grown["worker-more"])
        settings.write_text(text.replace("URL", url))
        done = handrail("run", "refund order 1020", "--project", str(project))
        assert done.returncode == 0, done.stdout + done.stderr


def test_without_a_directory_it_shows_all_and_no_secret(project: Path) -> None:
    shown = handrail("broker", "config", "--project", str(project))
    assert shown.returncode == 0, shown.stderr
    for part in (
        "| `executor-<pool>` |",
        "EV_3: decider",
        "sync_interval: always",
        'user: "worker-backoffice"',
    ):
        assert part in shown.stdout
    assert shown.stdout.count("password: ") == shown.stdout.count('password: "<password>"')
    assert not (project / ".handrail").exists()
    told = json.loads(handrail("broker", "config", "--project", str(project), "--json").stdout)
    assert told["users"]["tracer"]["subscribe"] == ["_INBOX_tracer.>", "heard.key.*.*.*"]


def test_what_cannot_be_done_is_said(project: Path) -> None:
    out = project / "broker"
    out.mkdir()
    (out / "credentials.json").write_text("{")
    told = handrail("broker", "config", "--out", str(out), "--project", str(project))
    assert told.returncode == 5
    assert "move it away" in told.stderr
    told = handrail("broker", "config", "--drop", "--project", str(project))
    assert told.returncode == 2
    assert "--out" in told.stderr
    shutil.rmtree(out)
    out.write_text("")
    told = handrail("broker", "config", "--out", str(out), "--project", str(project))
    assert (told.returncode, "Traceback" in told.stderr) == (5, False)
