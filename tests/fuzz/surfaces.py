"""What others hand over: exports, books, tokens, keys, small files, and what a shut-in process says."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bus.broker import EmbeddedBroker
from bus.configuration import _passwords
from bus.directory import ENDPOINT_FILE, DataDirectory, find_endpoint, read_endpoint
from bus.foreign import ForeignBroker
from core import exported, notarised
from core.caller import BadToken
from core.errors import HandrailError
from core.exported import BadExport
from core.notarised import BadText, Entry
from core.schemas import Schema
from handrail import tokens
from handrail.calling import InvalidArguments, InvalidOutput, ShutTool, Stopped, ToolRaised
from handrail.issuer import Issuer, IssuerKeys, Tokens
from handrail.keys import BadKey, PrivateKey, PublicKeys
from handrail.sandbox.cell import Cell
from handrail.sandbox.profile import Profile, profile_of
from handrail.sandbox.toolbox import Sandbox
from handrail.settings import MaySettings, Settings, ToolboxSettings
from handrail.tokens import LocalKeys
from handrail.tool import ToolError
from orchestrator.book import BadBook, check_book, open_book
from tests.fuzz.campaign import Campaign, Trial
from tests.fuzz.files import get_order
from tests.fuzz.mutate import Mutator
from tests.unit.test_exported import KEY, KEYS, export, log, text

HEAR_S = 1.0


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        yield Path(name)


@contextmanager
def exports() -> Iterator[Trial]:
    """An export proves something, or is a BadExport that says which line."""
    lines = export()

    def make(m: Mutator) -> list[str]:
        changed = list(text(lines))
        for _ in m.rounds():
            at = m.chance.randrange(len(changed))
            kind = m.chance.random()
            changed[at] = json.dumps(m.value(lines[at])) if kind < 0.6 else m.text(changed[at])
            if kind > 0.95:
                del changed[at]
                changed += text(lines)[:1]
        return changed

    def check(given: list[str]) -> None:
        with suppress(BadExport):
            exported.key_of(given[0])
        try:
            report = exported.check(given, KEYS)
        except BadExport as error:
            str(error)
        else:
            assert report.events, "an export without events proves nothing"

    yield Trial(make, check)


@contextmanager
def entries() -> Iterator[Trial]:
    """A notary's copy is what was packed, or a BadText."""
    outer, inner = notarised.pack(one.dump() for one in log())

    def check(given: tuple[bytes, bytes]) -> None:
        # The second is empty in copies of before.
        for held in (given[1], b""):
            with suppress(BadText):
                for entry in notarised.unpack(given[0], held):
                    assert entry.dump()
        with suppress(BadText):
            Entry.parse(given[0][4:])

    yield Trial(lambda m: (m.data(outer), m.data(inner)), check)


@contextmanager
def books() -> Iterator[Trial]:
    """A notary's book is whole, or a BadBook."""
    with _folder() as folder:
        place = folder / "EV_0"
        book = open_book(place, "origin", "EV_0", KEY, KEYS, 1)
        entries = [(one.dump(), one.leaf) for one in log()]
        book.add(entries[:5], 7)
        book.add(entries[5:], 8)
        files = {path.name: path.read_bytes() for path in place.iterdir()}

        def make(m: Mutator) -> dict[str, bytes]:
            changed = dict(files)
            for _ in m.rounds():
                name = m.of(sorted(changed) or sorted(files))
                before = changed.get(name, b"")
                if name == "head.json" and m.maybe(0.7):
                    changed[name] = json.dumps(m.value(json.loads(files[name]))).encode()
                elif m.maybe(0.1):
                    changed[m.of((f"{m.chance.randrange(99):020d}.z", "x.z", "leaves"))] = before
                else:
                    changed[name] = m.data(before)
            return changed

        def check(given: dict[str, bytes]) -> None:
            for path in place.iterdir():
                path.unlink()
            for name, content in given.items():
                (place / name).write_bytes(content)
            for read in (
                lambda: check_book(place, KEYS),
                lambda: open_book(place, "origin", "EV_0", KEY, KEYS, 1),
            ):
                try:
                    read()
                except BadBook as error:
                    str(error).encode(errors="replace")

        yield Trial(make, check)


def _part(m: Mutator, value: Any) -> str:
    """Return a part of a token, changed: JSON in base64, or text in it that is none."""
    said = json.dumps(m.value(value)) if m.maybe(0.7) else m.text(json.dumps(value))
    said = m.of(("[" * 5_000, '{"a":' * 1_200, said[:6_000])) if m.maybe(0.1) else said
    return base64.urlsafe_b64encode(said.encode(errors="replace")).rstrip(b"=").decode()


@contextmanager
def bearer() -> Iterator[Trial]:
    """A token names somebody, or is a BadToken: one of ours, of an issuer, or of nobody."""
    with _folder() as folder:
        local = LocalKeys(folder)
        local.ensure()
        outer = ec.generate_private_key(ec.SECP256R1())
        jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(outer.public_key()))
        (folder / "jwks.json").write_text(json.dumps({"keys": [{**jwk, "kid": "k1", "alg": "ES256"}]}))
        known = Tokens(local, Issuer("https://id", "handrail", str(folder / "jwks.json")))
        kept = local.read().keys[0]
        claims = {"iss": "handrail", "aud": "handrail", "sub": "bob", "roles": ["approver"], "tenant": "shop"}
        claims |= {"iat": int(time.time()), "exp": int(time.time()) + 600, "jti": "ab"}  # type: ignore[dict-item]

        def make(m: Mutator) -> str:
            kind = m.chance.random()
            if kind < 0.4:
                # Signed as it should be: only then are the claims looked at.
                ours = m.maybe(0.5)
                said = {**claims, "iss": "handrail" if ours else "https://id"}
                key, algorithm = (kept.pem, "EdDSA") if ours else (outer, "ES256")
                signer = jwt.api_jws.PyJWS()
                headers = {"kid": kept.id if ours else "k1"}
                payload = json.dumps(m.value(said)).encode()
                return signer.encode(payload, key, algorithm=algorithm, headers=headers)
            header = {
                "alg": m.of(("EdDSA", "ES256", "none", "HS256")),
                "kid": m.of((kept.id, "k1")),
                "typ": "JWT",
            }
            if kind < 0.8:
                return f"{_part(m, header)}.{_part(m, claims)}.{m.of(('', 'AAAA', '=', 'é'))}"
            return m.text(local.sign("bob", ["approver"], life_s=60))

        def check(given: str) -> None:
            for believe in (known.check, local.check, local.revoke):
                with suppress(BadToken):
                    believe(given)
            known.known(given)

        yield Trial(make, check)


@contextmanager
def jwks() -> Iterator[Trial]:
    """An issuer's keys are read, or the token is a BadToken."""
    elliptic = json.loads(
        jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())
    )
    large = json.loads(
        jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65_537, 2_048).public_key())
    )
    edwards = {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(bytes(32)).rstrip(b"=").decode()}
    document = {
        "keys": [{**one, "kid": f"k{n}", "use": "sig"} for n, one in enumerate((elliptic, large, edwards))]
    }
    written = json.dumps(document)

    def make(m: Mutator) -> bytes:
        changed = json.dumps(m.value(document)) if m.maybe(0.7) else m.text(written)
        return changed.encode(errors="replace") if m.maybe(0.9) else m.data(written.encode())

    with _folder() as folder:
        path = folder / "jwks.json"

        def check(given: bytes) -> None:
            path.write_bytes(given)
            with suppress(BadToken):
                IssuerKeys(str(path)).key("k0")

        yield Trial(make, check)


@contextmanager
def keys() -> Iterator[Trial]:
    """A PEM file holds keys, or is a BadKey."""
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    pems = (
        KEY.dump(),
        KEY.public,
        KEY.public,
        PrivateKey.generate().public,
        other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    )

    def make(m: Mutator) -> bytes:
        pem = m.of(pems)
        if m.maybe(0.5):
            first, *middle, last = pem.strip().split("\n")
            body = base64.b64encode(m.data(base64.b64decode("".join(middle[:2])))).decode()
            return f"{first}\n{body}\n{last}\n".encode()
        return m.data(pem.encode())

    with _folder() as folder:
        path = folder / "permits.key"

        def check(given: bytes) -> None:
            path.write_bytes(given)
            for read in (lambda: PrivateKey.read(path), lambda: PublicKeys.read([path])):
                with suppress(BadKey):
                    read()

        yield Trial(make, check)


@contextmanager
def small_files() -> Iterator[Trial]:
    """The data directory's small files, and a foreign broker's credentials: read, or an error of ours."""
    endpoint = {"gateway": "127.0.0.1:1", "broker_url": "nats://x", "pid": os.getpid(), "epoch": 3}
    endpoint |= {"project": "/p", "host": "inline", "public": ""}
    with _folder() as folder:
        local = LocalKeys(folder)
        local.ensure()
        documents: dict[str, Any] = {
            ENDPOINT_FILE: endpoint,
            "credentials.json": {"admin": "a", "gateway": "b", "worker-shop": "c"},
            tokens.KEYS_FILE: json.loads((folder / tokens.KEYS_FILE).read_text()),
        }
        directory = DataDirectory.acquire(folder)

        def make(m: Mutator) -> tuple[str, bytes]:
            name = m.of(sorted(documents))
            if m.maybe(0.6):
                return name, json.dumps(m.value(documents[name])).encode()
            said = json.dumps(documents[name])
            return name, m.text(said).encode(errors="replace") if m.maybe(0.6) else m.data(said.encode())

        def check(given: tuple[str, bytes]) -> None:
            name, content = given
            path = folder / name
            path.write_bytes(content)
            if name == ENDPOINT_FILE:
                read_endpoint(folder)
                find_endpoint(folder)
                return
            readers: dict[str, list[Callable[[], Any]]] = {
                "credentials.json": [
                    lambda: ForeignBroker("nats://x", path).credentials("gateway"),
                    lambda: EmbeddedBroker(directory, {}),
                    lambda: _passwords(path),
                ],
                tokens.KEYS_FILE: [
                    lambda: LocalKeys(folder).read(),
                    lambda: LocalKeys(folder).sign("bob", []),
                    lambda: Tokens(LocalKeys(folder)).check("e30.e30.AA"),
                    lambda: LocalKeys(folder).rotate(),
                ],
            }
            for read in readers[name]:
                with suppress(HandrailError):
                    read()

        try:
            yield Trial(make, check)
        finally:
            directory.release()


class _Said:
    """A cell whose process is a pipe that has something in it."""

    def __init__(self, said: bytes) -> None:
        reading, writing = os.pipe()
        errors, none = os.pipe()
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            os.write(writing, said)
        os.close(writing)
        os.close(none)
        self.cell = Cell.__new__(Cell)
        self.cell._unsent, self.cell._heard = bytearray(), bytearray()
        self.cell._printed, self.cell._printed_bytes = bytearray(), 0
        self.cell._out, self.cell._err = os.fdopen(reading, "rb"), os.fdopen(errors, "rb")
        self.cell._in = io.BytesIO()
        self.cell._watched = math.inf
        self.cell._how_it_ended = lambda: "it is over"  # type: ignore[method-assign]

    def close(self) -> None:
        self.cell._out.close()
        self.cell._err.close()


@contextmanager
def answers() -> Iterator[Trial]:
    """What a shut-in process says of its tools and of a call: an output, or an error that can be told."""
    contract = get_order.__handrail_tool__.contract  # type: ignore[attr-defined]
    told = {"contract": contract.model_dump(mode="json"), "parameters": ["order_id"]}
    ready = {"ready": {"tools": [told], "problems": ["tools.py: odd"]}}
    documents: tuple[Mapping[str, Any], ...] = (
        ready,
        {"done": {"output": {"id": 7}}},
        {"done": {"failed": "tool", "message": "no", "code": "busy", "transient": True, "in_doubt": False}},
        {"done": {"failed": "raised", "kind": "ValueError", "message": "x"}},
    )
    with _folder() as folder:
        settings = Settings(toolboxes={"shop": ToolboxSettings(modules=["tools"], may=MaySettings())})
        sandbox = Sandbox(_profile(folder, settings))
        sandbox._schemas = {"get_order": Schema(contract.output_schema)}

        def make(m: Mutator) -> bytes:
            document = m.of(documents)
            if m.maybe(0.7):
                return json.dumps(m.value(document)).encode() + b"\n"
            said = m.text(json.dumps(document)).encode(errors="replace")
            return (said if m.maybe(0.7) else m.data(said)) + b"\n" * m.maybe(0.9)

        def check(given: bytes) -> None:
            for kind in ("ready", "done"):
                said = _Said(given)
                try:
                    answer = said.cell._hear(kind, time.monotonic() + HEAR_S)
                    if kind == "done":
                        sandbox._output("get_order", answer)
                    else:
                        _described(sandbox, said.cell, answer)
                except (
                    Stopped,
                    TimeoutError,
                    InvalidArguments,
                    InvalidOutput,
                    ToolRaised,
                    ToolError,
                ) as error:
                    str(error).encode()
                finally:
                    said.close()

        yield Trial(make, check)


def _profile(folder: Path, settings: Settings) -> Profile:
    return profile_of(folder, settings, "shop", None)


def _described(sandbox: Sandbox, cell: Cell, answer: dict[str, Any]) -> None:
    cell._told = answer
    cell.end = lambda: None  # type: ignore[method-assign]
    sandbox._start = lambda: cell  # type: ignore[method-assign]
    before = sandbox._schemas
    tools, problems = sandbox.describe()
    sandbox._schemas = before
    assert all(isinstance(one, ShutTool) for one in tools)
    "\n".join(problems).encode(errors="replace")


CAMPAIGNS = (
    Campaign("exports", 0.75, exports),
    Campaign("entries", 0.5, entries),
    Campaign("books", 0.75, books),
    Campaign("bearer", 0.75, bearer),
    Campaign("jwks", 0.5, jwks),
    Campaign("keys", 0.5, keys),
    Campaign("small_files", 0.75, small_files),
    Campaign("answers", 0.75, answers),
)
