"""AutoGen's gRPC runtime as a mark: five messages to five agents, one after another; nothing is kept.

The host, the worker with the agents, and the driver are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
from dataclasses import dataclass

from autogen_core import AgentId, MessageContext, RoutedAgent, message_handler
from autogen_core._serialization import try_get_known_serializers_for_type
from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime, GrpcWorkerAgentRuntimeHost

from bench.drive import serve_async

STEPS = 5
ATTEMPTS = 100


@dataclass
class Number:
    """What is sent and returned."""

    n: int


class Step(RoutedAgent):
    """Returns the next number."""

    @message_handler
    async def on_number(self, message: Number, ctx: MessageContext) -> Number:
        """Answer."""
        return Number(message.n + 1)


async def connect(address: str) -> GrpcWorkerAgentRuntime:
    """Return a runtime that is connected to the host, once that listens."""
    for _ in range(ATTEMPTS):
        try:
            _, writer = await asyncio.open_connection(*address.split(":"))
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            break
    runtime = GrpcWorkerAgentRuntime(host_address=address)
    runtime.add_message_serializer(try_get_known_serializers_for_type(Number))
    await runtime.start()
    return runtime


async def host(address: str) -> None:
    """Be the host, until killed."""
    server = GrpcWorkerAgentRuntimeHost(address=address)
    server.start()
    await asyncio.Event().wait()


async def work(address: str) -> None:
    """Be the worker, until killed."""
    runtime = await connect(address)
    for i in range(STEPS):
        await Step.register(runtime, f"step{i}", lambda: Step("a step"))
    print("ready", flush=True)
    await asyncio.Event().wait()


async def drive() -> None:
    """Start the others, and answer the bench."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    me = [sys.executable, __file__, "--address", address, "--role"]
    serving = await asyncio.create_subprocess_exec(*me, "host")
    working = await asyncio.create_subprocess_exec(*me, "worker", stdout=asyncio.subprocess.PIPE)
    assert working.stdout is not None
    if not await working.stdout.readline():
        raise RuntimeError("AutoGen's worker ended as it started")
    runtime = await connect(address)
    recipients = [AgentId(f"step{i}", "default") for i in range(STEPS)]

    async def run_plan(_: int) -> None:
        number = Number(0)
        for recipient in recipients:
            number = await runtime.send_message(number, recipient)
        if number.n != STEPS:
            raise AssertionError(f"the messages ended with {number}")

    try:
        await serve_async(run_plan, {})
    finally:
        for process in (working, serving):
            process.kill()
            await process.wait()


def main() -> None:
    """Be what the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=("host", "worker", "driver"), default="driver")
    parser.add_argument("--address", default="")
    parser.add_argument("--store", default="")
    parser.add_argument("--place", default="")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)
    if arguments.role == "host":
        asyncio.run(host(arguments.address))
    elif arguments.role == "worker":
        asyncio.run(work(arguments.address))
    else:
        asyncio.run(drive())


if __name__ == "__main__":
    main()
