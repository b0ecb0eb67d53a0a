"""A notary's book of one stream, outside the broker: leaves of its tree, a compressed copy, the signed head.

They are written in the order copy, leaves, head, each durable before the next. What lies behind the head was
being written when somebody died: it is overwritten.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from bus import subjects
from bus.directory import write_file
from core import merkle, notarised
from core.exported import Part
from core.notarised import BadText, Entry, Head, NotAsSigned, SignedHead
from core.permits import Checker, Signer
from core.ports import RunKey

HEAD_FILE = "head.json"
LEAVES_FILE = "leaves"
COPY_SUFFIX = ".z"
MAX_SEGMENT_BYTES = 16 * 1024 * 1024
"""Of one file of the copy, compressed."""
MAX_BATCH_BYTES = 16 * 1024 * 1024
"""More is not added at a time, beyond the message that exceeds it."""
MAX_PART_BYTES = 2 * MAX_BATCH_BYTES + notarised.MAX_ENTRY_BYTES
_LEVEL = 1
_SEGMENT = re.compile(r"[0-9]{20}\.z")


class BadBook(NotAsSigned):
    """A book that is not what its head says, or whose head nobody who is believed has signed."""


class Book:
    """The book of one stream, open for writing."""

    def __init__(self, place: Path, origin: str, stream: str, signer: Signer) -> None:
        """Use `open_book`."""
        self.place = place
        self.origin = origin
        self.stream = stream
        self._signer = signer
        self.tree = merkle.Frontier()
        # The last event of each run, which its next one goes on from.
        self.chains: dict[str, bytes] = {}
        self.last: Entry | None = None
        self._segment, self._segment_bytes = "", 0

    @property
    def size(self) -> int:
        """How many messages it has."""
        return self.tree.size

    def add(self, entries: Sequence[tuple[bytes, bytes]], now_ns: int) -> SignedHead:
        """Write messages down, which come with their leaves, and sign for all there are now."""
        leaves = [leaf for _, leaf in entries]
        if not self._segment or self._segment_bytes >= MAX_SEGMENT_BYTES:
            self._segment, self._segment_bytes = f"{self.size + 1:020d}{COPY_SUFFIX}", 0
        outer, inner = notarised.pack(one for one, _ in entries)
        part = zlib.compress(outer, _LEVEL) + inner
        with (self.place / self._segment).open("ab") as file:
            file.truncate(self._segment_bytes)
            _append(file, len(part).to_bytes(4, "big") + part)
        with (self.place / LEAVES_FILE).open("ab") as file:
            file.truncate(self.size * merkle.HASH_BYTES)
            _append(file, b"".join(leaves))
        self._segment_bytes += 4 + len(part)
        for one in leaves:
            self.tree.add(one)
        self.last = Entry.parse(entries[-1][0])
        return self.sign(now_ns)

    def sign(self, now_ns: int) -> SignedHead:
        """Sign for all there are."""
        head = Head(self.origin, self.stream, self.size, self.tree.root, now_ns)
        signed = SignedHead(
            head, self._signer.key_id, self._signer.sign(head.text()), self._segment, self._segment_bytes
        )
        where = {"segment": signed.segment, "segment_bytes": signed.segment_bytes}
        write_file(self.place / HEAD_FILE, json.dumps(signed.as_dict() | where))
        return signed


def _append(file: BinaryIO, data: bytes) -> None:
    file.seek(0, os.SEEK_END)
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def open_book(place: Path, origin: str, stream: str, signer: Signer, checker: Checker, now_ns: int) -> Book:
    """Open a book where it was left; raises BadBook where it is not what its head says."""
    book = Book(place, origin, stream, signer)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    signed = head_of(place, origin, checker)
    if signed is None:
        # A head before all else: leaves without one are then never what somebody had not finished.
        book.sign(now_ns)
        return book
    book._segment, book._segment_bytes = signed.segment, signed.segment_bytes
    for entry, leaf in checked(place, signed):
        book.tree.add(leaf)
        book.last = entry
        if entry.run:
            book.chains[entry.run] = leaf
    return book


def head_of(place: Path, origin: str | None, checker: Checker) -> SignedHead | None:
    """Return the last head of a book of a log, or of any; None where there is no book. Raises BadBook."""
    try:
        text = (place / HEAD_FILE).read_text()
    except FileNotFoundError:
        if (place / LEAVES_FILE).exists():
            raise BadBook(f"{place / HEAD_FILE} is gone, and {place / LEAVES_FILE} is not") from None
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BadBook(f"{place / HEAD_FILE} cannot be read: {error}") from None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadBook(f"{place / HEAD_FILE} cannot be read: {error}") from None
    try:
        signed = SignedHead.read(said)
        signed.check(checker)
        segment = notarised.text_of(said.get("segment"))
        end = notarised.whole(said.get("segment_bytes"))
    except BadText as error:
        raise BadBook(f"{place / HEAD_FILE}: {error}") from None
    if signed.head.stream != place.name:
        raise BadBook(f"{place / HEAD_FILE} is the head of another stream: {signed.head.stream}")
    if origin not in (None, signed.head.origin):
        raise BadBook(f"{place / HEAD_FILE} is of another log: {signed.head.origin}, and not {origin}")
    if bool(signed.head.size) != bool(_SEGMENT.fullmatch(segment)):
        raise BadBook(f"{place / HEAD_FILE} does not say where its copy ends")
    return replace(signed, segment=segment, segment_bytes=end)


def leaves_of(place: Path, signed: SignedHead) -> list[bytes]:
    """Return the leaves that a head is about; raises BadBook where they are not those."""
    size = signed.head.size * merkle.HASH_BYTES
    text = b""
    with suppress(OSError), (place / LEAVES_FILE).open("rb") as file:
        text = file.read(size)
    leaves = [text[at : at + merkle.HASH_BYTES] for at in range(0, len(text), merkle.HASH_BYTES)]
    if len(text) != size or merkle.root(leaves) != signed.head.root:
        raise BadBook(f"{place / LEAVES_FILE} is not what the head of {signed.head.stream} signs")
    return leaves


def segments(place: Path) -> list[Path]:
    """Return the files of the copy, in order."""
    return sorted(path for path in place.iterdir() if path.suffix == COPY_SUFFIX)


def entries_of(place: Path, signed: SignedHead) -> Iterator[Entry]:
    """Yield the copy, as far as a head goes; raises BadBook where it cannot be read."""
    expected = 1
    for path in segments(place):
        if path.name > signed.segment:
            break
        most = signed.segment_bytes if path.name == signed.segment else None
        try:
            for part in _parts(path, most):
                for entry in notarised.unpack(*part):
                    if entry.sequence != expected:
                        raise BadBook(f"{path}: message {expected} is missing")
                    expected += 1
                    yield entry
        except (OSError, zlib.error, BadText) as error:
            raise BadBook(f"{path} cannot be read at message {expected}: {error}") from None
    if expected != signed.head.size + 1:
        raise BadBook(f"the copy of {signed.head.stream} ends at {expected - 1} of {signed.head.size}")


def last_of(place: Path, signed: SignedHead) -> Entry | None:
    """Return the last message of the copy; raises BadBook where that is not what a head signs."""
    if not signed.head.size:
        return None
    leaves, last = leaves_of(place, signed), None
    try:
        for part in _parts(place / signed.segment, signed.segment_bytes):
            for last in notarised.unpack(*part):
                _check_leaf(signed, last, leaves)
    except (OSError, zlib.error, BadText) as error:
        raise BadBook(f"{place / signed.segment} cannot be read: {error}") from None
    if last is None or last.sequence != len(leaves):
        raise BadBook(f"the copy of {signed.head.stream} does not end with what was signed for")
    return last


def _parts(path: Path, most: int | None) -> Iterator[tuple[bytes, bytes]]:
    with path.open("rb") as file:
        while most is None or file.tell() < most:
            size = file.read(4)
            if not size and most is None:
                return
            packed = file.read(int.from_bytes(size, "big"))
            if len(size) < 4 or len(packed) < int.from_bytes(size, "big"):
                raise BadBook(f"{path} ends too early")
            unpacking = zlib.decompressobj()
            text = unpacking.decompress(packed, MAX_PART_BYTES)
            if not unpacking.eof:
                raise BadBook(f"{path}: a part is not whole, or has more than {MAX_PART_BYTES} bytes")
            yield text, unpacking.unused_data


def check_book(place: Path, checker: Checker) -> SignedHead | None:
    """Check a whole book and return its head, None where nothing was signed yet; raises BadBook."""
    signed = head_of(place, None, checker)
    if signed is None:
        return None
    for _ in checked(place, signed):
        pass
    return signed


def checked(place: Path, signed: SignedHead) -> Iterator[tuple[Entry, bytes]]:
    """Yield the copy with its leaves; raises BadBook where one is not the other's."""
    leaves = leaves_of(place, signed)
    for entry in entries_of(place, signed):
        _check_leaf(signed, entry, leaves)
        yield entry, leaves[entry.sequence - 1]


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the books of a data directory lie, and the notary's public key beside them."""

    place: Path
    public_file: str
    # Reads a text with public keys, and where it is from.
    keys: Callable[[str, str], Checker]

    @property
    def public_key(self) -> str:
        """The notary's public key, in PEM."""
        return (self.place / self.public_file).read_text()

    @property
    def checker(self) -> Checker:
        """Whose signatures are believed here."""
        return self.keys(self.public_key, str(self.place / self.public_file))


def parts_of(place: Path, key: RunKey, checker: Checker) -> Iterator[Part]:
    """Yield what the copy holds of a run, and of its large values; raises BadBook."""
    for stream, prefix in (
        (subjects.ev_stream(key.shard), f"{subjects.ev_prefix(key)}."),
        (subjects.blob_stream(key.shard), f"blob.{key.shard}.{key.tenant}.{key.run}."),
    ):
        signed = head_of(place / stream, None, checker)
        if signed is None:
            continue
        leaves = leaves_of(place / stream, signed)
        entries = [entry for entry in entries_of(place / stream, signed) if entry.subject.startswith(prefix)]
        for entry in entries:
            _check_leaf(signed, entry, leaves)
        if entries:
            yield Part(signed, leaves, entries)


def _check_leaf(signed: SignedHead, entry: Entry, leaves: Sequence[bytes]) -> None:
    if entry.sequence > len(leaves) or entry.leaf != leaves[entry.sequence - 1]:
        raise BadBook(f"the copy of {signed.head.stream} is altered at message {entry.sequence}")
