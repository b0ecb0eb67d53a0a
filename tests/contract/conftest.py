"""Both logs behind one bench, so that every contract is checked against each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from bus import streams
from bus.link import Link
from bus.memory import MemoryBroker
from tests.contract.bench import SHARDS, STREAM_BYTES, Bench
from tests.contract.nats_process import NatsProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    server = NatsProcess(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["nats", "memory"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    tenant = f"t{uuid4().hex[:10]}"
    bench = Bench(request.param, tenant)
    if bench.kind == "memory":
        bench.memory = MemoryBroker()
    else:
        bench.server = request.getfixturevalue("server")
        bench.admin = await Link.connect(bench.server.url)
        await streams.ensure(bench.admin, shards=SHARDS, consumers=[], max_bytes=STREAM_BYTES)
    yield bench
    for log in bench.logs:
        await log.close()
    if bench.admin is not None:
        await bench.admin.close()
