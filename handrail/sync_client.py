"""The client without asyncio: the same calls, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from handrail import goals
from handrail.client import DEFAULT_OUTAGE_S, DEFAULT_TIMEOUT_S, Client, RunPage, Submitted
from handrail.v1 import auth_service_pb2, run_service_pb2, tool_pb2
from handrail.v1.event_pb2 import RunStatus

_T = TypeVar("_T")


class SyncClient:
    """The same calls without asyncio; they run on an event loop in a thread of this client's own."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """See `Client`."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="handrail-client", daemon=True)
        self._thread.start()
        self._client = self._run(_connect(address, timeout_s, token, token_file))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect and end the thread."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(
        self, goal: str, *, request_id: str | None = None, **options: Unpack[goals.Options]
    ) -> Submitted:
        """See `Client.submit`."""
        return self._run(self._client.submit(goal, request_id=request_id, **options))

    def run(
        self,
        goal: str,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[goals.Options],
    ) -> run_service_pb2.Run:
        """See `Client.run`."""
        return self._run(self._client.run(goal, request_id=request_id, timeout_s=timeout_s, **options))

    def confirm(self, run: str, *, submitter: str = "") -> Submitted:
        """See `Client.confirm`."""
        return self._run(self._client.confirm(run, submitter=submitter))

    def get(self, run: str) -> run_service_pb2.Run:
        """See `Client.get`."""
        return self._run(self._client.get(run))

    def list(self, *, status: RunStatus.ValueType | int = 0) -> Iterator[run_service_pb2.RunSummary]:
        """See `Client.list`."""
        return self._iterate(self._client.list(status=status))

    def list_page(
        self, *, status: RunStatus.ValueType | int = 0, page_size: int = 0, page_token: str = ""
    ) -> RunPage:
        """See `Client.list_page`."""
        return self._run(self._client.list_page(status=status, page_size=page_size, page_token=page_token))

    def watch(
        self,
        run: str,
        *,
        after: str = "",
        until_now: bool = False,
        timeout_s: float | None = None,
        outage_s: float | None = DEFAULT_OUTAGE_S,
    ) -> Iterator[run_service_pb2.WatchRunResponse]:
        """See `Client.watch`."""
        return self._iterate(
            self._client.watch(run, after=after, until_now=until_now, timeout_s=timeout_s, outage_s=outage_s)
        )

    def wait(self, run: str, *, timeout_s: float | None = None) -> run_service_pb2.Run:
        """See `Client.wait`."""
        return self._run(self._client.wait(run, timeout_s=timeout_s))

    def undo(
        self,
        run: str,
        *,
        step: str = "",
        reason: str = "",
        submitter: str = "",
        dry_run: bool = False,
        timeout_s: float | None = None,
    ) -> run_service_pb2.Run:
        """See `Client.undo`."""
        undoing = self._client.undo(
            run, step=step, reason=reason, submitter=submitter, dry_run=dry_run, timeout_s=timeout_s
        )
        return self._run(undoing)

    def begin_undo(
        self, run: str, *, step: str = "", reason: str = "", submitter: str = "", dry_run: bool = False
    ) -> bool:
        """See `Client.begin_undo`."""
        asking = self._client.begin_undo(run, step=step, reason=reason, submitter=submitter, dry_run=dry_run)
        return self._run(asking)

    def forget(self, run: str, *, reason: str = "", submitter: str = "") -> run_service_pb2.ForgetRunResponse:
        """See `Client.forget`."""
        return self._run(self._client.forget(run, reason=reason, submitter=submitter))

    def cancel(self, run: str, *, reason: str = "") -> None:
        """See `Client.cancel`."""
        self._run(self._client.cancel(run, reason=reason))

    def pause(self, run: str, *, reason: str = "") -> None:
        """See `Client.pause`."""
        self._run(self._client.pause(run, reason=reason))

    def resume(self, run: str) -> None:
        """See `Client.resume`."""
        self._run(self._client.resume(run))

    def gate(self, gate: str) -> run_service_pb2.Gate:
        """Return a gate; see `Client.gate`."""
        return self._run(self._client.gate(gate))

    def gate_value(self, gate: str, argument: str, *, step: str = "") -> Any:
        """Return an argument of what waits, whole; see `Client.gate_value`."""
        return self._run(self._client.gate_value(gate, argument, step=step))

    def gates(self) -> Iterator[run_service_pb2.Gate]:
        """Yield the gates that are open, the oldest first."""
        return self._iterate(self._client.gates())

    def watch_gates(self, *, outage_s: float | None = DEFAULT_OUTAGE_S) -> Iterator[run_service_pb2.Gate]:
        """Yield gates as they open and close; see `Client.watch_gates`."""
        return self._iterate(self._client.watch_gates(outage_s=outage_s))

    def decide(self, gate: str, *, approve: bool, approver: str, binding: str = "", reason: str = "") -> bool:
        """Approve or deny what waits at a gate; see `Client.decide`."""
        decision = self._client.decide(
            gate, approve=approve, approver=approver, binding=binding, reason=reason
        )
        return self._run(decision)

    def settle(
        self,
        gate: str,
        *,
        happened: bool,
        approver: str,
        output: Any = None,
        binding: str = "",
        reason: str = "",
    ) -> bool:
        """Settle a doubt; see `Client.settle`."""
        settled = self._client.settle(
            gate, happened=happened, approver=approver, output=output, binding=binding, reason=reason
        )
        return self._run(settled)

    def amend(
        self, gate: str, *, arguments: Mapping[str, Any], approver: str, binding: str = "", reason: str = ""
    ) -> bool:
        """Change arguments of what waits at a gate; see `Client.amend`."""
        amended = self._client.amend(
            gate, arguments=arguments, approver=approver, binding=binding, reason=reason
        )
        return self._run(amended)

    def delegate(self, gate: str, *, to: str, approver: str, binding: str = "", reason: str = "") -> bool:
        """Hand one's own decision at a gate to somebody else; see `Client.delegate`."""
        handed = self._client.delegate(gate, to=to, approver=approver, binding=binding, reason=reason)
        return self._run(handed)

    def audit(self, run: str) -> dict[str, Any]:
        """See `Client.audit`."""
        return self._run(self._client.audit(run))

    def export(self, run: str) -> Iterator[str]:
        """See `Client.export`."""
        return self._iterate(self._client.export(run))

    def tools(self) -> tuple[tool_pb2.ToolContract, ...]:
        """See `Client.tools`."""
        return self._run(self._client.tools())

    def tool(self, name: str) -> tool_pb2.ToolContract:
        """See `Client.tool`."""
        return self._run(self._client.tool(name))

    def whoami(self) -> auth_service_pb2.WhoAmIResponse:
        """See `Client.whoami`."""
        return self._run(self._client.whoami())

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C reaches this thread only
            future.cancel()
            raise

    def _iterate(self, items: AsyncGenerator[_T, None]) -> Iterator[_T]:
        async def advance() -> _T | None:
            return await anext(items, None)

        try:
            while (item := self._run(advance())) is not None:
                yield item
        finally:
            self._run(items.aclose())


async def _connect(
    address: str, timeout_s: float, token: str | None, token_file: str | os.PathLike[str] | None
) -> Client:
    return Client(address, timeout_s=timeout_s, token=token, token_file=token_file)
