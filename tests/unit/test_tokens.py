"""Tokens: whom they name, and all that is not believed."""

from __future__ import annotations

import base64
import json
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from core.caller import ADMIN, CALLS, ROLES, BadToken, Caller, markdown
from handrail import tokens
from handrail.issuer import FETCH_AGAIN_S, FETCH_EVERY_S, Issuer, IssuerKeys, Tokens
from handrail.keys import PrivateKey
from handrail.tokens import MAX_LIFE_S, BadKeys, LocalKeys, digest

NOW_S = 1_800_000_000


class Clock:
    """A clock that is turned by hand."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def keys(tmp_path: Path) -> LocalKeys:
    found = LocalKeys(tmp_path)
    found.ensure()
    return found


def claims(**changes: Any) -> dict[str, Any]:
    said: dict[str, Any] = {
        "iss": "handrail",
        "aud": "handrail",
        "sub": "bob",
        "roles": ["approver"],
        "iat": int(time.time()),
        "exp": int(time.time()) + 60,
    }
    return {name: value for name, value in {**said, **changes}.items() if value is not None}


def signed(keys: LocalKeys, **changes: Any) -> str:
    key = keys.read().keys[0]
    return jwt.encode(claims(**changes), key.pem, algorithm="EdDSA", headers={"kid": key.id})


def test_a_token_names_whom_it_was_signed_for(keys: LocalKeys) -> None:
    who = Tokens(keys).check(keys.sign("bob", ["approver", "auditor"], tenant="shop", life_s=60))
    assert (who.name, who.roles, who.tenant) == ("bob", frozenset({"approver", "auditor"}), "shop")
    assert 0 < who.ends_ns - time.time_ns() <= 60_000_000_000
    assert not who.speaks_for_all
    assert Tokens(keys).check(keys.sign("ann", ROLES)).speaks_for_all


@pytest.mark.parametrize(
    ("said", "known"),
    [("a1b2", "a1b2"), (None, ""), ("x" * 101, ""), ("a\n\u202eb", ""), ("\ud800", "")],
    ids=["id", "none", "long", "unseen", "no text"],
)
def test_a_token_is_known_by_its_id_if_a_log_can_hold_that(
    keys: LocalKeys, said: str | None, known: str
) -> None:
    assert Tokens(keys).check(signed(keys, jti=said)).token_id == known


def test_every_token_of_ours_has_an_id_of_its_own(keys: LocalKeys) -> None:
    one, other = (Tokens(keys).check(keys.sign("bob", ["approver"])).token_id for _ in range(2))
    assert one
    assert other
    assert one != other


def test_only_the_owner_can_read_the_keys_and_the_token(tmp_path: Path, keys: LocalKeys) -> None:
    tokens.write_owner_token(tmp_path, "ines")
    for name in (tokens.KEYS_FILE, tokens.TOKEN_FILE, "auth.lock"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert Tokens(keys).check((tmp_path / tokens.TOKEN_FILE).read_text()).roles == frozenset(ROLES)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": NOW_S - 900_000_000}, "expired"),
        ({"exp": None}, '"exp"'),
        ({"iat": None}, '"iat"'),
        ({"sub": None}, '"sub"'),
        ({"aud": "somebody"}, "Audience"),
        ({"aud": None}, '"aud"'),
        ({"iss": "somebody"}, "issuer"),
        ({"sub": "  "}, "names nobody"),
        ({"sub": "b" * 101}, "too long"),
        ({"sub": "bob\n\u202eeve"}, "cannot be read"),
        ({"sub": "\ud800"}, "cannot be read"),
        ({"exp": 10**30}, "never ends"),
        ({"exp": float("inf")}, "."),
        ({"tenant": "Shop.>"}, "tenant"),
        ({"tenant": 7}, "tenant"),
        ({"nbf": 4_000_000_000}, "not yet valid"),
    ],
    ids=str,
)
def test_what_says_something_else_is_not_believed(keys: LocalKeys, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(BadToken, match=why):
        Tokens(keys).check(signed(keys, **changes))


def test_what_nobody_of_ours_has_signed_is_not_believed(keys: LocalKeys, tmp_path: Path) -> None:
    key = keys.read().keys[0]
    public = PrivateKey.parse(key.pem, "key").public
    header = {"kid": key.id}
    stranger = PrivateKey.generate().dump()
    none = jwt.encode(claims(), None, algorithm="none", headers=header)
    # The public key taken for a shared secret: PyJWT will not sign so, whoever cheats does.
    head = _part({"alg": "HS256", "typ": "JWT", "kid": key.id}) + "." + _part(claims())
    import hashlib
    import hmac

    confused = head + "." + _raw(hmac.new(public.encode(), head.encode(), hashlib.sha256).digest())
    good = signed(keys)
    first, _, rest = good.partition(".")
    altered = first + "." + _part(claims(roles=["admin"])) + "." + rest.partition(".")[2]
    for token in (
        none,
        confused,
        altered,
        jwt.encode(claims(), stranger, algorithm="EdDSA", headers=header),
        jwt.encode(claims(), stranger, algorithm="EdDSA", headers={"kid": "other"}),
        jwt.encode(claims(), key.pem, algorithm="EdDSA"),
        good[:-4],
        good + "x" * 9_000,
        "",
        "a.b.c",
        "é" * 40,
        "\x00",
    ):
        with pytest.raises(BadToken):
            Tokens(keys).check(token)
        assert Tokens(keys).known(token) is None


def test_a_role_that_there_is_not_is_none(keys: LocalKeys) -> None:
    assert Tokens(keys).check(signed(keys, roles=["approver", "root", 7])).roles == frozenset({"approver"})
    assert Tokens(keys).check(signed(keys, roles="approver auditor")).roles == {"approver", "auditor"}
    assert Tokens(keys).check(signed(keys, roles=None)).roles == frozenset()
    assert Tokens(keys).check(signed(keys, roles={"admin": True})).roles == frozenset()
    assert Tokens(keys).check(signed(keys, roles={"why": "no admin here"})).roles == frozenset()


def test_a_token_is_remembered_until_it_ends_or_something_changes(keys: LocalKeys) -> None:
    clock = Clock()
    known = Tokens(keys, clock=lambda: int(clock.now_s * 1e9))
    token = keys.sign("bob", ["approver"])
    assert known.known(token) is None
    clock.now_s = time.time()
    who = known.check(token)
    assert known.known(token) == who
    clock.now_s += FETCH_EVERY_S + 1
    assert known.known(token) is None
    clock.now_s -= FETCH_EVERY_S
    assert known.known(token) == who
    keys.revoke(token)
    assert known.known(token) is None
    with pytest.raises(BadToken, match="revoked"):
        known.check(token)


def test_two_tokens_of_one_second_are_not_the_same(keys: LocalKeys) -> None:
    first, second = (keys.sign("bob", ["approver"]) for _ in range(2))
    keys.revoke(first)
    assert Tokens(keys).check(second).name == "bob"


def test_what_is_revoked_is_so_however_its_signature_is_written(keys: LocalKeys) -> None:
    token = keys.sign("bob", ["approver"])
    keys.revoke(token)
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(token[-1])
    for other in range(64):
        if other >> 4 == last >> 4:
            letter = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[other]
            with pytest.raises(BadToken, match=r"revoked|no token"):
                Tokens(keys).check(token[:-1] + letter)
    with pytest.raises(BadToken):
        Tokens(keys).check(token + "=")
    Tokens(keys).check(keys.sign("bob", ["auditor"]))


def test_a_key_that_takes_over_leaves_the_older_ones_believed_while_a_token_can_live(tmp_path: Path) -> None:
    clock = Clock(time.time() - 2 * MAX_LIFE_S)
    keys = LocalKeys(tmp_path, clock=clock)
    keys.ensure()
    first = keys.read().keys[0].id
    clock.now_s += MAX_LIFE_S
    keys.rotate()
    # It signed until a moment ago, however old it is.
    assert [key.id for key in keys.read().keys][1:] == [first]
    clock.now_s += MAX_LIFE_S + 60
    keys.rotate()
    assert first not in [key.id for key in keys.read().keys]
    assert len(keys.read().keys) == 2


def test_older_keys_can_be_forgotten_at_once(keys: LocalKeys) -> None:
    token = keys.sign("bob", ["approver"])
    keys.rotate()
    assert Tokens(keys).check(token).name == "bob"
    keys.rotate(forget=True)
    with pytest.raises(BadToken, match="no key"):
        Tokens(keys).check(token)
    assert len(keys.read().keys) == 1


def test_what_is_no_file_of_keys_says_so_and_tells_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / tokens.KEYS_FILE).write_text('{"keys": [{"secret": "hush"}]}')
    with pytest.raises(BadKeys, match="cannot be read") as found:
        LocalKeys(tmp_path).read()
    assert "hush" not in str(found.value)
    key = {"id": "a", "made_s": 1, "pem": PrivateKey.generate().dump()}
    for wrong in ({"pem": "hush"}, {"pem": 7}, {"id": None}, {"made_s": "1"}):
        said = {"keys": [key, {**key, **wrong}], "revoked": {}}
        (tmp_path / tokens.KEYS_FILE).write_text(json.dumps(said))
        with pytest.raises(BadKeys, match="cannot be read"):
            LocalKeys(tmp_path).rotate()
    for text in ("[" * 5_000, '{"keys": [], "revoked": {"a": Infinity}}'):
        (tmp_path / tokens.KEYS_FILE).write_text(text)
        with pytest.raises(BadKeys, match="cannot be read"):
            LocalKeys(tmp_path).read()
    with pytest.raises(BadKeys, match="start a stack"):
        LocalKeys(tmp_path / "none").sign("bob", ["approver"])


# --- an issuer elsewhere ---------------------------------------------------------------------------------


RSA, EC = rsa.generate_private_key(65_537, 2048), ec.generate_private_key(ec.SECP256R1())
OURS: Mapping[str, tuple[Any, str]] = {"rsa": (RSA, "RS256"), "ec": (EC, "ES256")}


def jwks(*names: str) -> str:
    made = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm}
    found = []
    for name in names:
        key, algorithm = OURS[name]
        found.append(
            {**made[algorithm].to_jwk(key.public_key(), as_dict=True), "kid": name, "alg": algorithm}
        )
    return json.dumps({"keys": found})


@pytest.fixture
def issued(tmp_path: Path, keys: LocalKeys) -> Tokens:
    (tmp_path / "jwks.json").write_text(jwks("rsa", "ec"))
    issuer = Issuer("https://login", "rail", str(tmp_path / "jwks.json"), "groups", "org")
    return Tokens(keys, issuer)


def from_issuer(name: str, *, kid: str = "", algorithm: str = "", **changes: Any) -> str:
    key, usual = OURS[name]
    theirs = {"iss": "https://login", "aud": "rail", "roles": None, "groups": ["operator"], "org": "shop"}
    said = claims(**{**theirs, **changes})
    return jwt.encode(said, key, algorithm=algorithm or usual, headers={"kid": kid or name})


@pytest.mark.parametrize("name", ["rsa", "ec"])
def test_an_issuers_token_is_believed(issued: Tokens, name: str) -> None:
    who = issued.check(from_issuer(name))
    assert (who.name, who.roles, who.tenant) == ("bob", frozenset({"operator"}), "shop")
    assert issued.known(from_issuer(name)) in (who, None)


def test_our_own_tokens_are_believed_beside_them(issued: Tokens, keys: LocalKeys) -> None:
    assert issued.check(keys.sign("ines", ["admin"])).name == "ines"


def test_an_issuers_key_signs_in_its_own_way_only(issued: Tokens, keys: LocalKeys) -> None:
    with pytest.raises(BadToken):
        issued.check(from_issuer("rsa", algorithm="RS512"))
    with pytest.raises(BadToken, match="no key"):
        issued.check(from_issuer("ec", kid="other"))
    with pytest.raises(BadToken):
        issued.check(from_issuer("ec", kid="rsa"))
    with pytest.raises(BadToken):
        issued.check(from_issuer("rsa", aud="handrail"))
    token = from_issuer("rsa")
    issued.check(token)
    keys.revoke(token)
    with pytest.raises(BadToken, match="revoked"):
        issued.check(token)
    assert digest(token) not in token


def test_a_key_that_is_new_is_fetched_and_one_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    file, clock = tmp_path / "jwks.json", Clock(0)
    file.write_text(jwks("rsa"))
    found = IssuerKeys(str(file), clock=clock)
    assert found.key("rsa").key_id == "rsa"
    file.write_text(jwks("ec"))
    with pytest.raises(BadToken):
        found.key("ec")  # it has just been asked
    clock.now_s += FETCH_AGAIN_S
    assert found.key("ec").key_id == "ec"
    with pytest.raises(BadToken):
        found.key("rsa")
    # While it is away its keys are believed, and it is asked again.
    file.unlink()
    clock.now_s += FETCH_EVERY_S
    assert found.key("ec").key_id == "ec"
    file.write_text(jwks("rsa"))
    clock.now_s += FETCH_AGAIN_S
    with pytest.raises(BadToken):
        found.key("ec")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"keys": 7}', '{"keys": [{}]}', '{"keys": [7]}', "\x00", "[" * 5_000],
    ids=lambda value: value[:20],
)
def test_keys_that_are_none_name_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "jwks.json").write_text(content)
    with pytest.raises(BadToken, match="no key"):
        IssuerKeys(str(tmp_path / "jwks.json")).key("rsa")


# --- what each role may ----------------------------------------------------------------------------------


def test_whoever_has_no_role_may_nothing() -> None:
    nobody = Caller("bob", frozenset())
    assert not any(nobody.may(f"/handrail.v1.{call}") for call in CALLS)
    assert not nobody.may("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    admin = Caller("bob", frozenset({ADMIN}))
    assert all(admin.may(f"/handrail.v1.{call}") for call in CALLS)
    assert not admin.may("/handrail.v1.RunService/NoSuchCall")


def _part(said: Mapping[str, Any]) -> str:
    return _raw(json.dumps(said).encode())


def _raw(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def test_the_documentation_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    printed = page.partition("<!-- calls -->")[2].partition("<!-- /calls -->")[0]
    assert printed.strip() == markdown().strip()
