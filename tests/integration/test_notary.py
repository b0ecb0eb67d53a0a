"""The notary and a real broker, whose files somebody damages, edits, swaps for older ones or deletes."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bus import streams
from bus.link import Link
from bus.log import NatsStore
from bus.store import Stored
from core import merkle, notarised
from core.notarised import Entry
from handrail.keys import PrivateKey, PublicKeys
from orchestrator import book, lag, notary
from orchestrator.book import BadBook
from orchestrator.lag import Lag
from orchestrator.notary import LogAltered, Notary
from tests.awake import Awake
from tests.contract.nats_process import NatsProcess
from tests.integration import damage as damages

SHARDS = (0,)
EVENTS, CHUNKS = 400, 5
KEY = PrivateKey.generate()
KEYS = PublicKeys.parse(KEY.public, "the key")
DRAIN_S = 30.0
Damage = Callable[[Path], None]


def size_of(number: int) -> bytes:
    return b"%06d" % number * 30


async def connect(broker: NatsProcess) -> Link:
    return await Link.connect(broker.url)


async def write(link: Link, count: int, first: int = 0) -> None:
    """Append events of a few runs in turn."""
    store = NatsStore(link)
    for number in range(first, first + count):
        subject = f"ev.0.acme.r0-{number % 5:08d}.dec.note.x"
        await store.publish("EV_0", subject, size_of(number), trace=f"00-{number}")


async def write_chunks(link: Link) -> None:
    store = NatsStore(link)
    for number in range(CHUNKS):
        await store.publish("BLOB_0", f"blob.0.acme.r0-00000000.aa.{number}", b"large" * 100)


async def sign(link: Link, place: Path) -> None:
    """Have the notary sign for all there is."""
    one = Notary(link, place, "origin", KEY, KEYS, shards=SHARDS)
    serving = asyncio.create_task(one.serve())
    try:
        assert await one.drain(DRAIN_S)
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


async def compare(link: Link, place: Path) -> int:
    return await Notary(link, place, "origin", KEY, KEYS, shards=SHARDS).compare(lambda *_: None)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that was signed for, and its broker's directory after a graceful stop."""
    place = tmp_path_factory.mktemp("original")
    asyncio.run(fill(place))
    return place


async def fill(place: Path) -> None:
    broker = NatsProcess(place, "jetstream { sync_interval: always }\n")
    broker.start()
    link = await connect(broker)
    await streams.ensure(link, shards=SHARDS, consumers=[], max_bytes=64 << 20)
    await write(link, EVENTS)
    await write_chunks(link)
    await sign(link, place / "notary")
    assert await compare(link, place / "notary") == EVENTS + CHUNKS
    await link.close()
    broker.stop()


def copied(original: Path, place: Path) -> NatsProcess:
    for name in ("store", "notary"):
        shutil.copytree(original / name, place / name)
    return NatsProcess(place, "jetstream { sync_interval: always }\n")


def block(place: Path, stream: str = "EV_0") -> Path:
    (found,) = place.glob(f"store/jetstream/*/streams/{stream}/msgs/*.blk")
    return found


def as_after_a_kill(place: Path) -> None:
    """What the broker writes when it stops, and would read instead of the messages, is not there."""
    for index in place.glob("store/jetstream/*/streams/*/msgs/index.db"):
        index.unlink()


def flip(share: float) -> Damage:
    return lambda place: damages.flip(block(place), share)


def cut(place: Path) -> None:
    damages.cut(block(place))


def edited(place: Path) -> None:
    damages.edit(block(place), "EV_0", 123, size_of(999))


def reordered(place: Path) -> None:
    damages.swap(block(place), "EV_0", 200)


def chunk_edited(place: Path) -> None:
    damages.edit(block(place, "BLOB_0"), "BLOB_0", 3, b"other" * 100)


def deleted(place: Path) -> None:
    for found in place.glob("store/jetstream/*/streams/EV_0"):
        shutil.rmtree(found)


DAMAGES: dict[str, tuple[Damage, str, int]] = {
    "a bit in the middle": (flip(0.5), "EV_0", 201),
    "a bit near the end": (flip(0.995), "EV_0", 399),
    "a cut tail": (cut, "EV_0", 361),
    "an edited event": (edited, "EV_0", 123),
    "two events that changed places": (reordered, "EV_0", 200),
    "an edited large value": (chunk_edited, "BLOB_0", 3),
    "a deleted stream": (deleted, "EV_0", 1),
}


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize(("damage", "stream", "first"), DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_log_is_refused_and_the_first_wrong_message_named(
    original: Path, tmp_path: Path, damage: Damage, stream: str, first: int, killed: bool
) -> None:
    broker = copied(original, tmp_path)
    if killed:
        as_after_a_kill(tmp_path)
    damage(tmp_path)
    broker.start()
    try:
        link = await connect(broker)
        with pytest.raises(LogAltered, match="handrail restore") as found:
            await compare(link, tmp_path / "notary")
        assert (found.value.stream, found.value.sequence) == (stream, first)
        await link.close()
    finally:
        broker.stop()


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
async def test_a_whole_log_is_accepted(original: Path, tmp_path: Path, killed: bool) -> None:
    broker = copied(original, tmp_path)
    if killed:
        as_after_a_kill(tmp_path)
    broker.start()
    try:
        link = await connect(broker)
        assert await compare(link, tmp_path / "notary") == EVENTS + CHUNKS
        await link.close()
    finally:
        broker.stop()


async def test_an_older_copy_is_refused_even_when_it_has_grown_again(original: Path, tmp_path: Path) -> None:
    broker = copied(original, tmp_path)
    broker.start()
    try:
        link = await connect(broker)
        await write(link, 20, EVENTS)
        await sign(link, tmp_path / "notary")
        await link.close()
        broker.stop()
        shutil.rmtree(tmp_path / "store")
        shutil.copytree(original / "store", tmp_path / "store")
        broker.start()
        link = await connect(broker)
        with pytest.raises(LogAltered, match="ends before it") as found:
            await compare(link, tmp_path / "notary")
        assert found.value.sequence == EVENTS + 1
        await write(link, 30, EVENTS)
        with pytest.raises(LogAltered, match="altered") as found:
            await compare(link, tmp_path / "notary")
        assert found.value.sequence == EVENTS + 1
        await link.close()
    finally:
        broker.stop()


async def test_it_goes_on_where_it_was(original: Path, tmp_path: Path) -> None:
    """Over its own death, the broker's, and what it had not finished writing."""
    place = tmp_path / "notary"
    broker = copied(original, tmp_path)
    broker.start()
    try:
        link = await connect(broker)
        before = book.head_of(place / "EV_0", "origin", KEYS)
        assert before is not None
        with (place / "EV_0" / book.LEAVES_FILE).open("ab") as file:
            file.write(b"half of a leaf")
        with (place / "EV_0" / before.segment).open("ab") as file:
            file.write(b"\x00\x00\xff\xffhalf of a part")
        await write(link, 7, EVENTS)
        await sign(link, place)
        after = book.check_book(place / "EV_0", KEYS)
        assert after is not None
        assert after.head.size == EVENTS + 7
        leaves = book.leaves_of(place / "EV_0", after)
        proof = merkle.consistency(leaves, before.head.size)
        assert merkle.continues(before.head.size, before.head.root, after.head.size, after.head.root, proof)
        assert await compare(link, place) == EVENTS + 7 + CHUNKS
        await link.close()
    finally:
        broker.stop()


async def test_it_goes_on_when_the_broker_comes_back(original: Path, tmp_path: Path) -> None:
    broker = copied(original, tmp_path)
    broker.start()
    link = await connect(broker)
    one = Notary(link, tmp_path / "notary", "origin", KEY, KEYS, shards=SHARDS)
    serving = asyncio.create_task(one.serve())
    try:
        assert await one.drain(DRAIN_S)
        broker.kill()
        broker.start()
        writer = await connect(broker)
        await write(writer, 3, EVENTS)
        await writer.close()
        async with asyncio.timeout(DRAIN_S):
            while one.signed["EV_0"] < EVENTS + 3:
                await asyncio.sleep(0.01)
    finally:
        serving.cancel()
        await link.close()
        broker.stop()


async def test_what_is_written_is_signed_for_within_a_second_or_so(original: Path, tmp_path: Path) -> None:
    broker = copied(original, tmp_path)
    broker.start()
    link = await connect(broker)
    one = Notary(link, tmp_path / "notary", "origin", KEY, KEYS, shards=SHARDS)
    serving = asyncio.create_task(one.serve())
    try:
        for last in range(EVENTS + 1, EVENTS + 4):
            async with Awake() as awake, asyncio.timeout(DRAIN_S):
                await write(link, 1, last - 1)
                while one.signed.get("EV_0", 0) < last:
                    await asyncio.sleep(0.01)
            # While this process pauses, so does the notary: then another one is looked at.
            if awake.longest_s < notary.MAX_LAG_S:
                break
        head = book.head_of(tmp_path / "notary" / "EV_0", "origin", KEYS)
        assert head is not None
        stored = await NatsStore(link).get("EV_0", last)
        assert stored is not None
        assert head.head.time_ns - stored.time_ns < 3 * notary.MAX_LAG_S * 1e9
    finally:
        serving.cancel()
        await link.close()
        broker.stop()


def tamper_leaf(place: Path) -> None:
    path = place / book.LEAVES_FILE
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def shorten_leaves(place: Path) -> None:
    path = place / book.LEAVES_FILE
    path.write_bytes(path.read_bytes()[:-1])


def tamper_copy(place: Path) -> None:
    (path,) = book.segments(place)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_copy(place: Path) -> None:
    (path,) = book.segments(place)
    path.write_bytes(path.read_bytes()[:-1])


def grow_head(place: Path) -> None:
    path = place / book.HEAD_FILE
    path.write_text(path.read_text().replace(f'"size": {EVENTS}', f'"size": {EVENTS + 1}'))


def garble_head(place: Path) -> None:
    (place / book.HEAD_FILE).write_text('{"size": ')


@pytest.mark.parametrize(
    "damage", [tamper_leaf, shorten_leaves, tamper_copy, cut_copy, grow_head, garble_head]
)
def test_a_damaged_book_is_told(original: Path, tmp_path: Path, damage: Damage) -> None:
    place = tmp_path / "EV_0"
    shutil.copytree(original / "notary" / "EV_0", place)
    assert book.check_book(place, KEYS) is not None
    damage(place)
    with pytest.raises(BadBook):
        book.check_book(place, KEYS)


def test_a_book_that_somebody_else_has_signed_is_not_believed(original: Path) -> None:
    mallory = PublicKeys.parse(PrivateKey.generate().public, "theirs")
    with pytest.raises(BadBook, match="not signed by a key that is believed"):
        book.check_book(original / "notary" / "EV_0", mallory)


def delete_head(place: Path) -> None:
    (place / book.HEAD_FILE).unlink()


def lead_head_astray(place: Path) -> None:
    """What is not signed is not believed: it says which file is written to."""
    path = place / book.HEAD_FILE
    path.write_text(path.read_text().replace(book.segments(place)[0].name, "../../elsewhere.z"))


def swap_last_segment(place: Path) -> None:
    (path,) = book.segments(place)
    path.rename(place / f"{EVENTS + 1:020d}{book.COPY_SUFFIX}")


def take_anothers(place: Path) -> None:
    shutil.rmtree(place)
    shutil.copytree(place.with_name("REQ"), place)


def edit_copy(place: Path) -> None:
    """Put another message in the place of one, compressed as it should be."""
    (path,) = book.segments(place)
    packed = path.read_bytes()
    unpacking = zlib.decompressobj()
    outer = unpacking.decompress(packed[4:])
    entries = [one.dump() for one in notarised.unpack(outer, unpacking.unused_data)]
    entries[7] = replace(Entry.parse(entries[7]), data=b"something else").dump()
    outer, inner = notarised.pack(entries)
    part = zlib.compress(outer) + inner
    path.write_bytes(len(part).to_bytes(4, "big") + part)
    head = json.loads((place / book.HEAD_FILE).read_text())
    (place / book.HEAD_FILE).write_text(json.dumps(head | {"segment_bytes": 4 + len(part)}))


@pytest.mark.parametrize(
    "damage", [delete_head, lead_head_astray, swap_last_segment, take_anothers, edit_copy, tamper_leaf]
)
def test_a_damaged_book_is_not_gone_on_with(original: Path, tmp_path: Path, damage: Damage) -> None:
    """Neither is anything of it thrown away, nor signed for, nor does it pass a check."""
    shutil.copytree(original / "notary", tmp_path / "notary")
    place = tmp_path / "notary" / "EV_0"
    damage(place)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(BadBook):
        book.check_book(place, KEYS)
    with pytest.raises(BadBook):
        book.open_book(place, "origin", "EV_0", KEY, KEYS, 1)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parametrize("damage", [delete_head, take_anothers, shutil.rmtree])
async def test_a_start_without_a_book_is_refused(original: Path, tmp_path: Path, damage: Damage) -> None:
    """Deleting a file takes no stream out of what is compared; without any of them it begins anew."""
    broker = copied(original, tmp_path)
    broker.start()
    try:
        link = await connect(broker)
        damage(tmp_path / "notary" / "EV_0")
        with pytest.raises(BadBook, match=r"EV_0.* Restore .* from a backup"):
            await compare(link, tmp_path / "notary")
        shutil.rmtree(tmp_path / "notary")
        assert await compare(link, tmp_path / "notary") == 0
        await sign(link, tmp_path / "notary")
        assert await compare(link, tmp_path / "notary") == EVENTS + CHUNKS
        await link.close()
    finally:
        broker.stop()


async def test_anothers_notary_is_refused(original: Path, tmp_path: Path) -> None:
    broker = copied(original, tmp_path)
    broker.start()
    try:
        link = await connect(broker)
        other = Notary(link, tmp_path / "notary", "elsewhere", KEY, KEYS, shards=SHARDS)
        with pytest.raises(BadBook, match="of another log: origin, and not elsewhere"):
            await other.compare(lambda *_: None)
        await link.close()
    finally:
        broker.stop()


async def test_large_messages_are_signed_for(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand chunks at a time made a part of the copy that could not be read again."""
    monkeypatch.setattr(notary, "MAX_BATCH_BYTES", 2_000)
    monkeypatch.setattr(book, "MAX_PART_BYTES", 150_000)
    broker = copied(original, tmp_path)
    broker.start()
    try:
        link = await connect(broker)
        await write(link, 1_000, EVENTS)
        await sign(link, tmp_path / "notary")
        signed = book.check_book(tmp_path / "notary" / "EV_0", KEYS)
        assert signed is not None
        assert signed.head.size == EVENTS + 1_000
        await link.close()
    finally:
        broker.stop()


async def test_a_log_that_goes_back_is_not_signed_for(original: Path, tmp_path: Path) -> None:
    """The broker comes back, while all else is up, with less than it had."""
    broker = copied(original, tmp_path)
    broker.start()
    link = await connect(broker)
    one = Notary(link, tmp_path / "notary", "origin", KEY, KEYS, shards=SHARDS)
    serving = asyncio.create_task(one.serve())
    try:
        await write(link, 20, EVENTS)
        assert await one.drain(DRAIN_S)
        broker.kill()
        shutil.rmtree(tmp_path / "store")
        shutil.copytree(original / "store", tmp_path / "store")
        with capture_logs() as said:
            broker.start()
            writer = await connect(broker)
            await write(writer, 25, EVENTS)
            await writer.close()
            async with asyncio.timeout(DRAIN_S):
                while not any("EV_0 went back" in line.get("error", "") for line in said):
                    await asyncio.sleep(0.01)
        assert one.signed["EV_0"] == EVENTS + 20
        head = book.check_book(tmp_path / "notary" / "EV_0", KEYS)
        assert head is not None
        assert head.head.size == EVENTS + 20
    finally:
        serving.cancel()
        await link.close()
        broker.stop()


# --- how far it is --------------------------------------------------------------------------------------


async def lag_of(link: Link, place: Path, age_s: float = 0.0) -> Lag:
    """Return the lag of the stream of events, as it is seen so many seconds from now."""
    found = await lag.lags(link, place, KEYS, SHARDS, lambda: time.time_ns() + int(age_s * 1e9))
    assert [one.stream for one in found] == ["REQ", "EV_0", "BLOB_0"]
    assert all(one == Lag(one.stream, 0, 0.0) for one in found if one.stream != "EV_0")
    return found[1]


async def test_how_far_the_notary_is_behind_is_told_from_outside(original: Path, tmp_path: Path) -> None:
    broker = copied(original, tmp_path)
    broker.start()
    try:
        link = await connect(broker)
        assert await lag_of(link, tmp_path / "notary") == Lag("EV_0", 0, 0.0)
        await write(link, 7, EVENTS)
        behind = await lag_of(link, tmp_path / "notary", 60.0)
        assert (behind.messages, behind.stopped, behind.stalled) == (7, "", True)
        assert 60.0 <= behind.age_s < 60.0 + DRAIN_S
        await sign(link, tmp_path / "notary")
        assert await lag_of(link, tmp_path / "notary", 60.0) == Lag("EV_0", 0, 0.0)
        await link.close()
    finally:
        broker.stop()


async def test_that_the_notary_can_sign_for_nothing_more_is_told(original: Path, tmp_path: Path) -> None:
    """Of a log that went back, at once and when it has grown again, and of a damaged book."""
    broker, place = copied(original, tmp_path), tmp_path / "notary"
    broker.start()
    try:
        link = await connect(broker)
        await write(link, 20, EVENTS)
        await sign(link, place)
        await link.close()
        broker.stop()
        shutil.rmtree(tmp_path / "store")
        shutil.copytree(original / "store", tmp_path / "store")
        broker.start()
        link = await connect(broker)
        went_back = await lag_of(link, place)
        assert went_back.stopped == f"EV_0 ends at message {EVENTS}, and {EVENTS + 20} were signed for"
        await write(link, 25, EVENTS)
        assert (await lag_of(link, place)).stopped == ""
        grown = await lag_of(link, place, 60.0)
        assert (grown.messages, grown.stopped) == (
            5,
            f"message {EVENTS + 20} of EV_0 is another now, or none",
        )
        tamper_copy(place / "EV_0")
        assert (await lag_of(link, place, 60.0)).stopped != grown.stopped
        garble_head(place / "EV_0")
        assert "cannot be read" in (await lag_of(link, place)).stopped
        await link.close()
    finally:
        broker.stop()


def test_the_last_message_of_a_copy_is_believed_only_as_it_was_signed(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original / "notary", tmp_path / "notary")
    place = tmp_path / "notary" / "EV_0"
    signed = book.check_book(place, KEYS)
    assert signed is not None
    last = book.last_of(place, signed)
    assert last is not None
    assert (last.sequence, last.data) == (EVENTS, size_of(EVENTS - 1))
    empty = book.check_book(place.with_name("REQ"), KEYS)
    assert empty is not None
    assert book.last_of(place.with_name("REQ"), empty) is None
    for damage in (tamper_leaf, shorten_leaves, cut_copy):
        shutil.rmtree(place)
        shutil.copytree(original / "notary" / "EV_0", place)
        damage(place)
        with pytest.raises(BadBook):
            book.last_of(place, signed)


def test_a_hundred_thousand_events_are_verified_in_seconds(tmp_path: Path) -> None:
    """What `handrail audit verify --all` does with a book; it usually takes half a second."""
    one = book.open_book(tmp_path / "EV_0", "origin", "EV_0", KEY, KEYS, 1)
    for begin in range(1, 100_001, 1_000):
        heard = (
            Stored(n, n, f"ev.0.acme.r0-{n % 500:08d}.dec.note.x", b"%06d" % n * 30)
            for n in range(begin, begin + 1_000)
        )
        one.add([notary.chained(stored, one.chains) for stored in heard], begin)
    begun = time.monotonic()
    signed = book.check_book(tmp_path / "EV_0", KEYS)
    took_s = time.monotonic() - begun
    assert signed is not None
    assert signed.head.size == 100_000
    assert took_s < 20
