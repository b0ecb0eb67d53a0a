"""What every log does over a store: appends that know their outcome, single reads, blobs, request cells.

Events and large values are encrypted here under the key of their run, and decrypted. In plain text are only
that a run is to be forgotten, and that it was.
"""

from __future__ import annotations

from contextlib import suppress

from google.protobuf.message import DecodeError

from bus import blobs, subjects
from bus.keyring import Keyring, Listen
from bus.store import Patience, Store, Stored, patiently, write_once
from core.ports import Address, Fence, FenceLost, LogError, LogUnavailable, Record, RunForgotten, RunKey
from handrail.cipher import BadCipherText, is_encrypted
from handrail.v1 import event_pb2, plan_pb2

TIMEOUT_S = 10.0
MAX_EVENT_BYTES = 1_000_000
MAX_CELL_BYTES = 64 * 1024
FORGOTTEN = ("dec", "note", "forgotten")
PLAIN = frozenset({("cmd", "forget"), FORGOTTEN})
"""Where events lie that are read when the key is gone."""


class StoreLog:
    """The part of a log that needs no more than a store."""

    def __init__(
        self,
        store: Store,
        shards: tuple[int, ...],
        timeout_s: float = TIMEOUT_S,
        listen: Listen | None = None,
    ) -> None:
        self.store = store
        self.timeout_s = timeout_s
        self.keys = Keyring(store, timeout_s, listen)
        self._shards = shards

    @property
    def shards(self) -> tuple[int, ...]:
        """The open shards."""
        return self._shards

    async def append(
        self, address: Address, event: event_pb2.Event, *, fence: Fence | None = None, trace: str = ""
    ) -> int:
        """Append durably, with a trace context beside the event, and return the sequence.

        With a fence exactly once, or FenceLost. Without one at least once: readers drop an event whose id
        they have seen. LogUnavailable, after the log's timeout, leaves the outcome open.
        """
        stream, subject = subjects.ev_stream(address.key.shard), subjects.build(address)
        data = event.SerializeToString()
        if len(data) > MAX_EVENT_BYTES:
            raise LogError(
                f"the event for {subject} has {len(data)} bytes, the most is {MAX_EVENT_BYTES}: "
                "put large values in blobs"
            )
        if (address.channel, *address.topic) not in PLAIN:
            data = (await self.keys.to_write(address.key)).encrypt(data, subject)
        patience = Patience(self.store, self.timeout_s)
        while True:
            try:
                return await self.store.publish(stream, subject, data, fence, trace)
            except (LogUnavailable, FenceLost) as error:
                if fence is not None:
                    sequence = await self._resolve(stream, fence, event.id, error)
                    if sequence is not None:
                        return sequence
                await patience.wait(error)

    async def _resolve(self, stream: str, fence: Fence, id: str, error: LogError) -> int | None:
        """Return where our event stands, or None where nobody has written and it is to be sent again.

        If it was accepted it is the first on the filter after the fence, whatever came later.
        """
        try:
            found = await self.store.first(stream, fence.filter, fence.sequence)
        except LogUnavailable:
            return None
        if found is None:
            return None
        record = await self.record(found)
        if record is not None and record.event is not None and record.event.id == id:
            return found.sequence
        raise FenceLost(
            f"another event ({found.sequence}, {found.subject}) came first on {fence.filter}: "
            "read it and decide again"
        ) from error

    async def record(self, stored: Stored | None) -> Record | None:
        """Read a message of a run's log; None where there is none, or its subject is none of the log's."""
        if stored is None or not is_encrypted(stored.data):
            record = record_of(stored)
            if record is not None and (record.address.channel, *record.address.topic) == FORGOTTEN:
                self.keys.drop(record.address.key)
            return record
        try:
            address = subjects.parse(stored.subject)
        except subjects.BadSubject:
            return None
        event, forgotten = None, False
        try:
            event = decode(await self.keys.decrypt(address.key, stored.data, stored.subject))
        except RunForgotten:
            forgotten = True
        except BadCipherText:
            # Somebody wrote it who has not the key, or for whose run there is none: it is no event.
            pass
        return Record(stored.sequence, stored.time_ns, address, event, stored.trace, forgotten)

    def expect(self, subject: str, data: bytes) -> None:
        """Ask for the key of a message that will be read, while those before it are."""
        if is_encrypted(data):
            with suppress(subjects.BadSubject):
                self.keys.expect(subjects.parse(subject).key)

    async def last(self, shard: int, filter: str) -> Record | None:
        """Return the last record on a subject filter, read through the stream's leader."""
        stream = subjects.ev_stream(shard)
        return await self.record(
            await patiently(self.store, self.timeout_s, lambda: self.store.last(stream, filter))
        )

    async def end(self, key: RunKey) -> int:
        """Return the sequence of the last message of a run, were it one that is no record; 0 without any."""
        stream, filter = subjects.ev_stream(key.shard), subjects.run_filter(key)
        last = await patiently(self.store, self.timeout_s, lambda: self.store.last(stream, filter))
        return last.sequence if last is not None else 0

    async def get(self, shard: int, sequence: int) -> Record | None:
        """Return one record by its sequence."""
        stream = subjects.ev_stream(shard)
        return await self.record(
            await patiently(self.store, self.timeout_s, lambda: self.store.get(stream, sequence))
        )

    async def put_blob(self, key: RunKey, content: bytes) -> plan_pb2.Blob:
        """Store a large value under its digest; storing it twice is storing it once."""
        return await blobs.put(self.store, key, content, self.timeout_s, await self.keys.to_write(key))

    async def get_blob(self, key: RunKey, blob: plan_pb2.Blob) -> bytes:
        """Return a large value; raises LogError where it is incomplete or its digest is wrong."""
        return await blobs.get(self.store, key, blob, self.timeout_s, await self.keys.find(key))

    async def begin(self, key: RunKey) -> None:
        """Make the key under which a run's payloads are encrypted; what is written first makes it as well."""
        await self.keys.begin(key)

    async def key_of(self, key: RunKey) -> bytes | None:
        """Return that key; None where there is none. Raises RunForgotten where it was deleted."""
        self.keys.drop(key)
        found = await self.keys.find(key)
        return found.key if found is not None else None

    async def erase(self, key: RunKey) -> None:
        """Delete that key for good; erasing it twice is erasing it once."""
        await self.keys.erase(key)

    async def reserve(self, cell: str, content: bytes) -> bytes:
        """Write a request cell if it is empty; return what it holds now."""
        if len(content) > MAX_CELL_BYTES:
            raise LogError(f"a request cell takes {MAX_CELL_BYTES} bytes, not {len(content)}")
        stream, subject = subjects.REQUEST_STREAM, subjects.request_cell(cell)
        if await write_once(self.store, stream, subject, content, self.timeout_s):
            return content
        found = await patiently(self.store, self.timeout_s, lambda: self.store.first(stream, subject))
        if found is None:
            raise LogError(f"request cell {cell} is taken and empty at once: was stream {stream} changed?")
        return found.data


def record_of(stored: Stored | None) -> Record | None:
    """Read a message of a run's log as it is, without an event where it is encrypted.

    None where there is none, or its subject is none of the log's.
    """
    if stored is None:
        return None
    try:
        address = subjects.parse(stored.subject)
    except subjects.BadSubject:
        return None
    return Record(stored.sequence, stored.time_ns, address, decode(stored.data), stored.trace)


def decode(data: bytes) -> event_pb2.Event | None:
    """Decode an event; None where it is none, is nested too deep or is too large."""
    if len(data) > MAX_EVENT_BYTES:
        return None
    try:
        return event_pb2.Event.FromString(data)
    except DecodeError:
        return None
