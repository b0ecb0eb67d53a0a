"""What the campaign puts into the processes of a stack, without a line of the product.

Named points: wherever an event is appended, a timer armed or a delivery acknowledged, the process looks for
an armed point that fits (a file `<kind>@<moment>@<deed>@<number>` in `$CHAOS_DIR/armed`), takes it with a
rename, which only one process can, says so in `$CHAOS_DIR/struck`, and kills or stops itself.
Connections to the broker go through the campaign's proxy, under a name that tells role and process.
Clocks: a process adds what `$CHAOS_DIR/clock/<child>` says to the time of day.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

HEALTHY_AFTER_S = 1.0
"""The campaign kills what lives; the supervisor's patience with crash loops is not its subject."""

_now_ns = time.time_ns


def install() -> None:
    """Hook modules as they are imported."""
    sys.meta_path.insert(0, _Finder())
    _bend_time()


def child() -> str:
    """Return which child of a stack this process is, as `_child` has it; "" for an actor of Ray."""
    arguments = sys.orig_argv
    return arguments[arguments.index("_child") + 1] if "_child" in arguments else ""


# --- named points ----------------------------------------------------------------------------------


def strike(kinds: set[str], moment: str, **told: Any) -> None:
    """End or stop this process where a point is armed for it."""
    base = os.environ["CHAOS_DIR"]
    try:
        armed = os.listdir(os.path.join(base, "armed"))
    except OSError:
        return
    for name in armed:
        kind, when, deed, _ = name.split("@")
        if kind not in kinds or when != moment:
            continue
        taken = os.path.join(base, "taken", name)
        try:
            os.rename(os.path.join(base, "armed", name), taken)
        except OSError:
            continue
        with open(taken, "w") as file:
            json.dump({"pid": os.getpid(), "child": child(), "time_ns": _now_ns(), **told}, file)
        os.rename(taken, os.path.join(base, "struck", name))
        os.kill(os.getpid(), signal.SIGKILL if deed == "kill" else signal.SIGSTOP)


def _kinds(event: Any) -> set[str]:
    """Return what is said in an event: of a compensation, "undo-action" as well as "action"."""
    found = set()
    for one in (event, *event.before):
        kind = one.WhichOneof("body") or ""
        body = getattr(one, kind) if kind else None
        of_undo = str(getattr(body, "attempt", "")).startswith("undo-")
        found |= {kind, f"undo-{kind}"} if of_undo else {kind}
    return found


def _hook_records(module: ModuleType) -> None:
    append, reserve, put_blob = module.StoreLog.append, module.StoreLog.reserve, module.StoreLog.put_blob

    async def appending(self: Any, address: Any, event: Any, **options: Any) -> int:
        kinds = _kinds(event)
        told = {"run": address.key.run, "topic": list(address.topic), "id": event.id, "writer": event.writer}
        strike(kinds, "before", **told)
        sequence: int = await append(self, address, event, **options)
        strike(kinds, "after", sequence=sequence, **told)
        return sequence

    async def reserving(self: Any, cell: str, content: bytes) -> bytes:
        strike({"request"}, "before", cell=cell)
        held: bytes = await reserve(self, cell, content)
        strike({"request"}, "after", cell=cell)
        return held

    async def putting(self: Any, key: Any, content: bytes) -> Any:
        strike({"blob"}, "before", run=key.run)
        blob = await put_blob(self, key, content)
        strike({"blob"}, "after", run=key.run)
        return blob

    module.StoreLog.append, module.StoreLog.reserve, module.StoreLog.put_blob = appending, reserving, putting


def _hook_log(module: ModuleType) -> None:
    arm = module.NatsLog.arm

    async def arming(self: Any, key: Any, timer: str, due_ns: int) -> None:
        strike({"timer"}, "before", run=key.run, timer=timer)
        await arm(self, key, timer, due_ns)
        strike({"timer"}, "after", run=key.run, timer=timer)

    module.NatsLog.arm = arming


def _hook_intake(module: ModuleType) -> None:
    ack = module.NatsDelivery.ack

    async def acking(self: Any) -> None:
        role = self._intake._consumer.name.split("-")[0]
        event = self.record.event if self.record is not None else None
        kinds = {"tick"} if self.record is None else set()
        if event is not None:
            kinds = _kinds(event)
        strike({f"{role}_{kind}" for kind in kinds}, "ack", run=self.key.run)
        await ack(self)

    module.NatsDelivery.ack = acking


# --- the way to the broker, and the supervisor -----------------------------------------------------


def _hook_link(module: ModuleType) -> None:
    connect = module.Link.connect.__func__

    async def connecting(cls: Any, url: str, *, name: str = "handrail", **options: Any) -> Any:
        # A broker that comes back is looked at by its administrator where nobody else finds it.
        via = url if name == "admin" else f"nats://{os.environ['CHAOS_BROKER']}"
        return await connect(cls, via, name=f"{name}/{os.getpid()}", **options)

    module.Link.connect = classmethod(connecting)


def _hook_supervisor(module: ModuleType) -> None:
    module.HEALTHY_AFTER_S = HEALTHY_AFTER_S


def _hook_streams(module: ModuleType) -> None:
    """Make the streams as large as a case of its own wants them."""
    if "CHAOS_STREAM_BYTES" in os.environ:
        limit = int(os.environ["CHAOS_STREAM_BYTES"])
        module.DEFAULT_MAX_BYTES = limit
        module.ensure.__kwdefaults__["max_bytes"] = limit


HOOKS: dict[str, Callable[[ModuleType], None]] = {
    "bus.records": _hook_records,
    "bus.log": _hook_log,
    "bus.intake": _hook_intake,
    "bus.link": _hook_link,
    "bus.streams": _hook_streams,
    "orchestrator.supervisor": _hook_supervisor,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules to hook where the others find them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in HOOKS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, HOOKS[fullname])
        return spec


class _Loader(importlib.abc.Loader):
    """Loads a module and hooks it."""

    def __init__(self, loader: Any, hook: Callable[[ModuleType], None]) -> None:
        self._loader, self._hook = loader, hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._hook(module)


# --- clocks ------------------------------------------------------------------------------------------


def _bend_time() -> None:
    """Let the time of day of one child jump while it runs."""
    if not child():
        return
    file = os.path.join(os.environ["CHAOS_DIR"], "clock", child())

    def offset_ns() -> int:
        # Looked at every time: whoever sets it must not wait for it.
        with suppress(OSError, ValueError), open(file) as there:
            return int(float(there.read()) * 1e9)
        return 0

    time.time_ns = lambda: _now_ns() + offset_ns()
    time.time = lambda: (_now_ns() + offset_ns()) / 1e9
