"""What each child process of a stack runs (`handrail.cli.child`)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from actors.host import Host, InProcessHost
from actors.ray_head import RayHead
from core.errors import HandrailError
from handrail.project import load, load_settings
from handrail.stack import parts
from observability import logs, outlets, tracing
from orchestrator.supervisor import GENERATION, last_ended
from orchestrator.tracer import LINGER_S
from workers.instance import Instance, site_of

EPOCH_ENV = "HANDRAIL_EPOCH"
ADDRESS_FILE = "gateway.address"
MINDS_FILE = "minds.ready"
DRAIN_S = 8.0
HEAD_WAIT_S = 60.0
TRACER_NICENESS = 19
NOTARY_NICENESS = 10


class UnknownChild(HandrailError):
    """There is no such child."""


async def child(name: str, project_dir: Path, data_dir: Path) -> None:
    """Run one child of a stack until SIGTERM."""
    kind, *arguments = name.split(":")
    runners: dict[str, Callable[..., Awaitable[None]]] = {
        "gateway": _gateway,
        "decider": _decider,
        "worker": _worker,
        "minds": _minds,
        "tracer": _tracer,
        "notary": _notary,
    }
    if kind not in runners:
        raise UnknownChild(f"there is no child {name!r}; `handrail up` starts the children itself")
    logs.configure(sys.stdout)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await runners[kind](stop, project_dir, data_dir, *arguments)


def _instance() -> str:
    return f"{os.environ.get(EPOCH_ENV, '0')}-{os.environ.get(GENERATION, '1')}"


async def _until(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Work until told to stop; a failure of the work is the process's end, and its supervisor's business."""
    task = asyncio.ensure_future(work)
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        await task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def addresses_in(data_dir: Path) -> tuple[str, str] | None:
    """Return where the gateway listens, for this machine and for others; None where it has not said yet."""
    file = data_dir / ADDRESS_FILE
    if not file.exists():
        return None
    local, public = file.read_text().split("\n")[:2]
    return local, public


async def _gateway(stop: asyncio.Event, project_dir: Path, data_dir: Path) -> None:
    project = load(project_dir, playbooks=False, data=data_dir)
    log = await parts.ways()["gateway"].open()
    gateway = parts.gateway(log, project, project_dir, data_dir)
    address_file = data_dir / ADDRESS_FILE
    # A gateway that comes back comes back where its clients look for it.
    tls, listen = parts.tls_of(project.settings, project_dir), project.settings.gateway.listen
    local, public = addresses_in(data_dir) or ("", "")
    if local:
        listen = public or local
    addresses = await gateway.start(listen, tls=tls, local=local or "127.0.0.1:0")
    scratch = address_file.with_suffix(".new")
    scratch.write_text(f"{addresses.local}\n{addresses.public}\n")
    scratch.replace(address_file)
    await stop.wait()
    await gateway.stop(2.0)
    await log.close()


async def _decider(stop: asyncio.Event, project_dir: Path, data_dir: Path) -> None:
    # Before the tools are imported: nothing of theirs is to find the key.
    signer = parts.signer()
    project = load(project_dir, playbooks=False, data=data_dir)
    log = await parts.ways()["decider"].open()
    await _until(stop, parts.decider(log, project, signer, _instance()).serve())
    await log.close()


async def _worker(stop: asyncio.Event, project_dir: Path, data_dir: Path, toolbox: str, slot: str) -> None:
    _guard(project_dir, toolbox)
    project = load(project_dir, playbooks=False, data=data_dir)
    log = await parts.ways()["worker"].open()
    epoch, generation = int(os.environ[EPOCH_ENV]), int(os.environ[GENERATION])
    instance = Instance(site_of(data_dir), epoch, f"{toolbox}_{slot}", generation)

    def ended(slot: str) -> int:
        box, _, number = slot.rpartition("_")
        return last_ended(data_dir, f"worker-{box}-{number}")

    worker = parts.worker(log, project, toolbox, parts.checker(), instance, ended)
    # When the tools are there: they may have seen to their own traces.
    tracing.configure(f"worker-{toolbox}", str(instance))
    await _until(stop, worker.serve())
    await worker.drain(DRAIN_S)
    await asyncio.to_thread(tracing.flush)
    await log.close()


def _guard(project_dir: Path, *toolboxes: str) -> None:
    """Keep secrets out of what this process prints, before there are any tools."""
    settings = load_settings(project_dir)
    wanted = [box for box in toolboxes or settings.toolboxes if parts.has_secrets(settings, box)]
    asks = not toolboxes and bool(settings.minds.asking and settings.openai.key)
    if wanted or asks:
        outlets.guard_process()
        parts.meet_secrets(settings, project_dir, wanted, endpoint=asks)


async def _tracer(stop: asyncio.Event, project_dir: Path, data_dir: Path) -> None:
    os.nice(TRACER_NICENESS)
    log = await parts.ways()["tracer"].open()
    settings = load_settings(project_dir)
    place = parts.notary_place(settings, project_dir, data_dir)
    tracer, exporter, metrics = parts.tracer(log, settings, data_dir, place, _instance(), linger_s=LINGER_S)
    await _until(stop, tracer.serve())
    await exporter.close()
    await asyncio.to_thread(metrics.close)
    await log.close()


async def _notary(stop: asyncio.Event, project_dir: Path, data_dir: Path) -> None:
    os.nice(NOTARY_NICENESS)
    link = await parts.ways()["notary"].link()
    settings = load_settings(project_dir)
    notary = parts.notary(link, settings, parts.notary_place(settings, project_dir, data_dir))
    serving = asyncio.create_task(notary.serve())
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if serving.done():
        await serving
    await notary.drain(DRAIN_S)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await link.close()


async def _minds(stop: asyncio.Event, project_dir: Path, data_dir: Path, host_kind: str) -> None:
    settings = load_settings(project_dir)
    specs = parts.mind_specs(settings, project_dir, data_dir, parts.ways(), parts.checker())
    host: Host
    if host_kind == "inline":
        _guard(project_dir)
        host = InProcessHost(parts.build_agent)
        # The verifier's read tools are the only ones that are called here.
        tracing.configure("verifier", _instance())
        await host.ensure(specs)
        (data_dir / MINDS_FILE).touch()
        await stop.wait()
    else:
        from actors.ray_host import HeadLost, RayHost

        ray = host = RayHost("handrail.stack.parts:build_agent_alone", python_path=_python_path())
        await ray.connect(await _head_address(data_dir))
        await ray.ensure(specs)
        (data_dir / MINDS_FILE).touch()
        try:
            await _until(stop, ray.watch())
        except HeadLost:
            # Ray keeps what is left of a lost head in this process: only a fresh one can connect again.
            os._exit(1)
    await host.stop(DRAIN_S)
    await asyncio.to_thread(tracing.flush)


async def _head_address(data_dir: Path) -> str:
    head = RayHead.of(data_dir)
    try:
        async with asyncio.timeout(HEAD_WAIT_S):
            while (address := head.address()) is None:
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise HandrailError(
            f"Ray's head did not come up within {HEAD_WAIT_S:g} s; see logs/ray-head.log"
        ) from None
    return address


def _python_path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
