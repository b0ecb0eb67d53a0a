"""What stands around every call: who makes it is asked first, and every exception becomes a status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from core.caller import PACKAGE, Caller
from core.errors import HandrailError
from orchestrator import callers
from orchestrator.callers import ANYBODY, OPEN, Callers
from orchestrator.rpc_errors import DETAILS_KEY, Refusal, invalid_field, of_any, status

ASK_AGAIN_S = 5.0
"""After how long a stream whose token was revoked ends at the latest."""


class Supervision(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Asks who calls, parses the requests of our services, answers every exception of theirs with a status.

    A message that is no valid protobuf would otherwise reach the client as UNKNOWN. This is the gateway's
    supervision point. Without `callers` nobody is asked: whoever can call may do everything.
    """

    def __init__(self, known: Callers | None = None, tenants: Sequence[str] = ()) -> None:
        """With tenants nobody else's calls are answered."""
        self._callers, self._tenants = known, tenants

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap every handler but those of health; reflection looks after its messages itself."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(OPEN):
            return handler
        if not method.startswith(PACKAGE):
            return grpc.stream_stream_rpc_method_handler(
                self._both(method, handler),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler), response_serializer=handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler), response_serializer=handler.response_serializer
        )

    async def _identify(self, method: str, context: Any) -> Caller:
        if self._callers is None:
            return ANYBODY
        return await callers.identify(
            self._callers, method, context.invocation_metadata() or (), self._tenants
        )

    def _unary(self, method: str, handler: Any) -> Callable[[bytes, Any], Awaitable[Any]]:
        async def answer(raw: bytes, context: Any) -> Any:
            try:
                with callers.answering(await self._identify(method, context)):
                    return await handler.unary_unary(_parse(handler, raw), context)
            except Exception as error:  # noqa: BLE001 - the supervision point
                await _abort(context, method, error)

        return answer

    def _stream(self, method: str, handler: Any) -> Callable[[bytes, Any], AsyncIterator[Any]]:
        async def answer(raw: bytes, context: Any) -> AsyncIterator[Any]:
            try:
                who = await self._identify(method, context)
                with callers.answering(who):
                    responses = handler.unary_stream(_parse(handler, raw), context)
                    again = partial(self._identify, method, context)
                    async for response in _while_believed(responses, who, again):
                        yield response
            except Exception as error:  # noqa: BLE001 - the supervision point
                await _abort(context, method, error)

        return answer

    def _both(self, method: str, handler: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def answer(requests: Any, context: Any) -> AsyncIterator[Any]:
            try:
                await self._identify(method, context)
                async with aclosing(handler.stream_stream(requests, context)) as responses:
                    async for response in responses:
                        yield response
            except Exception as error:  # noqa: BLE001 - the supervision point
                await _abort(context, method, error)

        return answer


async def _while_believed(
    responses: Any, who: Caller, again: Callable[[], Awaitable[Caller]]
) -> AsyncIterator[Any]:
    """Pass a stream on until the token ends with which it was asked for, or is believed no more (`again`)."""
    loop, refused = asyncio.get_running_loop(), list[Exception]()
    left_s = (who.ends_ns - time.time_ns()) / 1e9
    ends = loop.time() + left_s if who.ends_ns else None
    patience = asyncio.timeout_at(ends)

    async def ask_again() -> None:
        while not refused:
            await asyncio.sleep(ASK_AGAIN_S)
            try:
                await again()
            except (HandrailError, OSError) as error:
                refused.append(error)
                with suppress(RuntimeError):  # nothing is waited for just now
                    patience.reschedule(loop.time())

    asking = asyncio.create_task(ask_again()) if who.ends_ns else None
    try:
        async with aclosing(responses):
            while not refused:
                patience = asyncio.timeout_at(ends)
                try:
                    async with patience:
                        response = await anext(responses)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if not patience.expired():
                        raise
                    break
                yield response
        message = "the token has ended, and the watch with it: come back with another"
        raise refused[0] if refused else Refusal(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_ENDED", message)
    finally:
        if asking is not None:
            asking.cancel()


def _parse(handler: Any, raw: bytes) -> Any:
    try:
        return handler.request_deserializer(raw)
    except DecodeError as error:
        message = f"the message is truncated, nested too deep, or not of this type: {error}"
        raise invalid_field("MALFORMED_MESSAGE", "", "malformed_message", message) from None


async def _abort(context: Any, method: str, error: Exception) -> None:
    refusal = of_any(error, method)
    detailed = status(refusal)
    await context.abort(
        refusal.code, detailed.message, trailing_metadata=((DETAILS_KEY, detailed.SerializeToString()),)
    )
