"""A permit is for one action, word for word, and only the decider's key makes one."""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from core import failures, values
from core.action import action_key
from core.permits import Grounds, bind, foreign, message, mismatch, refusal, sign
from core.ports import RunKey
from core.run import initial
from core.state import Instance
from handrail.keys import BadKey, PrivateKey, PublicKeys, ensure
from handrail.v1 import event_pb2
from tests.keys import CHECKER, SIGNER, STRANGER

KEY = RunKey(3, "acme", "r3-01m7ys1fmydrgyzd4n69mr88ac")
EXPIRES_NS = 1_700_000_000_000_000_000
NOW_NS = EXPIRES_NS - 1
ARGUMENTS = {"amount": 5, "to": "ada@example.com"}
GROUNDS = Grounds("v1", "g1", "b" * 64, ("small", "known_customer"))
TRANSIENT, PERMANENT = event_pb2.FAILURE_CLASS_TRANSIENT, event_pb2.FAILURE_CLASS_PERMANENT


def made(
    arguments: dict[str, Any] | None = None,
    pending: dict[str, str] | None = None,
    grounds: Grounds = GROUNDS,
) -> event_pb2.Action:
    """An action with something in every field, and its permit."""
    action = event_pb2.Action(
        attempt="pay-a2",
        step="pay",
        kind=event_pb2.ACTION_KIND_ACT,
        tool="pay",
        key=f"{KEY.run}:pay",
        replaces="pay-a1",
        post="output.paid",
        original_sequence=7,
        resolves=True,
        follows="look-a1",
    )
    for name, value in (ARGUMENTS if arguments is None else arguments).items():
        action.arguments[name].CopyFrom(values.inline(value))
    for name, reference in ({"rate": "$look.rate"} if pending is None else pending).items():
        action.pending[name].reference = reference
    action.timeout.FromSeconds(5)
    bind(action, KEY, "bank", loaded(action), grounds, EXPIRES_NS)
    sign([action], SIGNER)
    return action


def loaded(action: event_pb2.Action) -> dict[str, Any]:
    return {name: values.load(value, {}) for name, value in action.arguments.items()}


def refused(action: event_pb2.Action, **other: Any) -> event_pb2.Failure | None:
    """What a worker says to an action that it finds."""
    named = {"key": KEY, "toolbox": "bank", "now_ns": NOW_NS, **other}
    found = foreign([action], CHECKER)
    return found or refusal(action, arguments=named.pop("arguments", loaded(action)), **named)


def change(body: Any, field: FieldDescriptor) -> None:
    """Make a field another."""
    value = getattr(body, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        del value[next(iter(value))]
    elif field.is_repeated:
        value.append("x")
    elif field.message_type is not None:
        value.seconds += 1
    elif field.type == field.TYPE_BYTES:
        setattr(body, field.name, bytes([value[0] ^ 1]) + value[1:])
    elif field.type == field.TYPE_STRING:
        setattr(body, field.name, f"{value}x")
    else:
        setattr(body, field.name, value + 1 if field.type != field.TYPE_BOOL else not value)


ACTION_FIELDS = [f for f in event_pb2.Action.DESCRIPTOR.fields if f.name != "permit"]
PERMIT_FIELDS = list(event_pb2.Permit.DESCRIPTOR.fields)


def test_what_was_signed_is_accepted() -> None:
    action = made()
    assert refused(action) is None
    assert refused(event_pb2.Action.FromString(action.SerializeToString())) is None
    assert not [f.name for f in (*ACTION_FIELDS,) if not getattr(action, f.name)], "a field is not tried"
    assert not [f.name for f in PERMIT_FIELDS if not getattr(action.permit, f.name)], "a field is not tried"


@pytest.mark.parametrize("field", ACTION_FIELDS, ids=lambda f: f.name)
def test_an_action_of_which_anything_was_changed_is_refused(field: FieldDescriptor) -> None:
    action = made()
    change(action, field)
    found = refused(action)
    assert found is not None
    assert found.code == failures.PERMIT
    assert found.message


@pytest.mark.parametrize("field", PERMIT_FIELDS, ids=lambda f: f.name)
def test_a_permit_of_which_anything_was_changed_is_refused(field: FieldDescriptor) -> None:
    action = made()
    change(action.permit, field)
    found = refused(action)
    assert found is not None
    assert "signature" in found.message


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"key": RunKey(3, "acme", "r3-another")}, "run"),
        ({"key": RunKey(3, "other", KEY.run)}, "tenant"),
        ({"toolbox": "shop"}, "toolbox"),
        ({"arguments": {**ARGUMENTS, "amount": 5000}}, "arguments"),
        ({"arguments": {}}, "arguments"),
    ],
)
def test_a_permit_is_worth_nothing_elsewhere(other: dict[str, Any], says: str) -> None:
    found = refused(made(), **other)
    assert found is not None
    assert says in found.message
    assert failures.failure_class(found) == PERMANENT


def test_what_is_not_the_deciders_is_refused_for_now_and_says_what_to_do() -> None:
    unsigned, strangers, forged = made(), made(), made()
    unsigned.ClearField("signature")
    sign([strangers], STRANGER)
    forged.signature = STRANGER.sign(message([forged]))
    said = [refused(unsigned), refused(strangers), refused(forged)]
    assert all(one is not None and failures.failure_class(one) == TRANSIENT for one in said)
    texts = [one.message for one in said if one is not None]
    assert "is not signed" in texts[0]
    assert STRANGER.key_id in texts[1]
    assert SIGNER.key_id in texts[1]
    assert "[permits] trusted" in texts[1]
    assert "does not fit" in texts[2]


def test_an_expired_permit_is_refused_by_who_acts_and_not_by_who_judges() -> None:
    found = refused(made(), now_ns=EXPIRES_NS)
    assert found is not None
    assert "expired" in found.message
    assert failures.failure_class(found) == TRANSIENT
    assert refused(made(), now_ns=None) is None


def test_a_constant_is_not_a_reference_that_looks_like_it() -> None:
    constant, pending = made({"to": "$look.to"}, {}), made({}, {"to": "$look.to"})
    assert constant.permit.arguments_sha256 != pending.permit.arguments_sha256
    assert constant.permit.pending_sha256 != pending.permit.pending_sha256
    # The permit of the one under the other.
    for one, other in ((constant, pending), (pending, constant)):
        swapped = event_pb2.Action()
        swapped.CopyFrom(one)
        swapped.permit.CopyFrom(other.permit)
        swapped.signature = other.signature
        assert mismatch(swapped, KEY, "bank", loaded(swapped)) is not None


_texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=14, max_size=17)


def _action(texts: list[str], number: int) -> event_pb2.Action:
    """An action of which all that is signed is drawn."""
    strings = [f.name for f in PERMIT_FIELDS if f.type == f.TYPE_STRING and not f.is_repeated]
    action = event_pb2.Action()
    action.post, action.replaces, action.follows, *rest = texts
    action.permit.rules.extend(rest[len(strings) :])
    rest = rest[: len(strings)]
    for name, text in zip(strings, rest, strict=True):
        setattr(action.permit, name, text)
    action.permit.resolves, action.permit.kind = bool(number & 1), number >> 1 & 1
    action.permit.expires.FromNanoseconds(number)
    action.timeout.FromNanoseconds(number >> 2)
    return action


@settings(max_examples=300)
@given(st.lists(st.tuples(_texts, st.integers(0, 15)), min_size=1, max_size=3), st.data())
def test_no_two_asks_have_the_same_bytes(drawn: list[tuple[list[str], int]], data: Any) -> None:
    actions = [_action(*one) for one in drawn]
    assert message(actions) == message([event_pb2.Action.FromString(a.SerializeToString()) for a in actions])
    # The same characters, cut elsewhere; one less, or twice; or anything else.
    (texts, number), *rest = drawn
    cut = data.draw(st.integers(0, len(texts) - 2))
    moved = [*texts[:cut], texts[cut] + texts[cut + 1], "", *texts[cut + 2 :]]
    others = [
        [(moved, number), *rest],
        rest,
        [*drawn, drawn[-1]],
        drawn[::-1],
        [(data.draw(_texts), data.draw(st.integers(0, 15))), *rest],
    ]
    for other in ([_action(*one) for one in each] for each in others):
        assert (message(other) == message(actions)) == (other == actions)


def test_a_chain_is_signed_as_a_whole() -> None:
    chain = [made(pending={}), made(), made()]
    for action in chain:
        action.ClearField("signature")
    sign(chain, SIGNER)
    assert [bool(action.signature) for action in chain] == [False, False, True]
    assert foreign(chain, CHECKER) is None
    last = chain[-1]
    for other in ([last], chain[1:], [chain[1], chain[0], last], [*chain[:-1], last, last]):
        assert foreign(other, CHECKER) is not None
    assert foreign(chain[:-1], CHECKER) is not None
    chain[0].permit.tool = "other"
    assert foreign(chain, CHECKER) is not None


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from("abc"), st.text(st.characters(codec="utf-8"), max_size=5), max_size=3),
    st.dictionaries(st.sampled_from("abc"), st.text(st.characters(codec="utf-8"), max_size=5), max_size=3),
)
def test_a_permit_is_for_its_arguments_and_no_others(one: dict[str, str], other: dict[str, str]) -> None:
    assert (refused(made(one), arguments=other) is None) == (one == other)


def test_the_encoding_stays_what_it_is() -> None:
    """Another one is another version: a decider and its workers may be of different days."""
    # Of before permits had rules.
    without = made(grounds=replace(GROUNDS, rules=()))
    said, of_today = message([without, without]), message([made(), made()])
    assert said.startswith(b"handrail permit 1\0")
    assert [hashlib.sha256(one).hexdigest() for one in (said, of_today)] == [
        "12cd9bbe233bbc70dde5d476d44a67b47fba54c8c54c7954a650d90894d94c03",
        "36d821c33302885dbcf4c894d7790e77ead4803eb737180d293071d0af272f86",
    ]


# --- keys ------------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "permits.key"
    made = ensure(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure(path).key_id == made.key_id
    assert made.dump() not in repr(made)


def test_a_damaged_key_is_told_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "permits.key"
    path.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    with pytest.raises(BadKey, match=r"permits\.key holds no private key") as told:
        ensure(path)
    assert "c2VjcmV0" not in str(told.value)
    assert path.exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
def test_what_openssl_makes_is_a_key(tmp_path: Path) -> None:
    private, public = tmp_path / "decider.pem", tmp_path / "decider.pub.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    key = PrivateKey.read(private)
    believed = PublicKeys.read([public], SIGNER.public)
    assert set(believed.key_ids) == {key.key_id, SIGNER.key_id}
    assert believed.check(key.key_id, b"m", key.sign(b"m"))
    assert believed.check(SIGNER.key_id, b"m", SIGNER.sign(b"m"))
    assert not believed.check(SIGNER.key_id, b"m", key.sign(b"m"))
    assert not believed.check(key.key_id, b"n", key.sign(b"m"))
    assert not believed.check(STRANGER.key_id, b"m", STRANGER.sign(b"m"))
    again = PublicKeys.parse(believed.dump(), "a child's environment")
    assert set(again.key_ids) == set(believed.key_ids)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds 0 public keys"),
        (SIGNER.dump(), "holds 0 public keys"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (SIGNER.public * 65, "holds 65 public keys"),
    ],
)
def test_what_is_no_public_key_is_told(text: str, says: str) -> None:
    with pytest.raises(BadKey, match=says) as told:
        PublicKeys.parse(text, "keys.pem")
    assert "keys.pem" in str(told.value)
    assert "PRIVATE KEY" not in str(told.value)


def test_a_key_of_another_kind_is_told(tmp_path: Path) -> None:
    private = tmp_path / "other.pem"
    key = X25519PrivateKey.generate()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(BadKey, match="not Ed25519"):
        PrivateKey.read(private)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match="cannot be read"):
        PublicKeys.read([tmp_path / "none.pem"])


def test_tenants_with_runs_of_one_id_have_keys_of_their_own() -> None:
    """A client may choose its run's id: what another tenant's tool has done must not count as done here."""
    states = [initial(RunKey(KEY.shard, tenant, KEY.run)) for tenant in ("default", "acme", "shop")]
    keys = [action_key(state, Instance("refund", "refund")) for state in states]
    assert keys[0] == f"{KEY.run}:refund"
    assert len(set(keys)) == 3
