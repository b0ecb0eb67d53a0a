"""Redaction by value and by name: every form of a secret goes, and what is none stays."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import redaction
from core.redaction import MASK, NOTHING, Redactor, is_secret_name, masked, masked_json

VALUE = 's3cr"et/ü\\+x =1'
PEM = "-----BEGIN KEY-----\nMIIBVQIBADANBgkqhkiG9w0\nshort\n-----END KEY-----"

FORMS = {
    "plain": VALUE,
    "json": json.dumps({"deep": [VALUE]}),
    "json as it is": json.dumps(VALUE, ensure_ascii=False),
    "repr": repr({"a": VALUE}),
    "percent": quote(VALUE, safe=""),
    "percent of a path": quote(VALUE),
    "form": quote_plus(VALUE),
    "lower percent": quote(VALUE, safe="").lower(),
    "hex": VALUE.encode().hex(),
    "base64": base64.b64encode(VALUE.encode()).decode(),
    "basic": base64.b64encode(f"user:{VALUE}".encode()).decode(),
    "after one": base64.b64encode(f"u{VALUE}!".encode()).decode(),
    "after two": base64.urlsafe_b64encode(f"uv{VALUE}!!".encode()).decode(),
    "base64 in a URL": quote(base64.b64encode(VALUE.encode()).decode(), safe=""),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_goes_in_every_form(form: str) -> None:
    clean = Redactor([("KEY", VALUE)]).text(f"before {FORMS[form]} after")
    assert clean.startswith("before ")
    assert clean.endswith(" after")
    assert "[secret KEY]" in clean
    assert FORMS[form] not in clean


@given(
    st.text(min_size=6, max_size=40).filter(lambda text: text.isprintable()),
    st.binary(max_size=7),
    st.binary(max_size=7),
)
def test_nothing_of_it_is_left_in_base64(value: str, before: bytes, after: bytes) -> None:
    clean = Redactor([("K", value)]).text(base64.b64encode(before + value.encode() + after).decode())
    head, _, tail = clean.partition("[secret K]")
    # What is around it may spell it, too.
    tail = tail.replace("[secret K]", "")
    # What is left stands for what was around it, and at most one character for a part of it on either side.
    assert len(head) <= len(before) * 4 / 3 + 1
    assert len(tail.rstrip("=")) <= len(after) * 4 / 3 + 2


@given(st.lists(st.text("ab", min_size=6, max_size=12), min_size=1, max_size=3), st.text("ab", max_size=60))
def test_no_secret_is_left_however_they_overlap(secrets: list[str], text: str) -> None:
    clean = Redactor([("K", value) for value in secrets]).text(text)
    left = clean.replace("[secret K]", "\0")
    assert not any(value in left for value in secrets)
    covered = [any(value in text[max(0, at - 12) : at + 12] for value in secrets) for at in range(len(text))]
    assert any(covered) == ("\0" in left)


def test_lines_of_a_long_one_go_each_by_itself() -> None:
    clean = Redactor([("PEM", PEM)]).text("1: MIIBVQIBADANBgkqhkiG9w0 2: short")
    assert clean == "1: [secret PEM] 2: short"
    assert Redactor([("PEM", PEM)]).text(f"<{PEM}>") == "<[secret PEM]>"


def test_values_keep_their_shape() -> None:
    redactor = Redactor([("KEY", "hunter22"), ("KEY", "hunter23")])
    value = {"hunter22": [1, None, True, {"a": "x hunter23"}], "b": 2.5}
    assert redactor.value(value) == {"[secret KEY]": [1, None, True, {"a": "x [secret KEY]"}], "b": 2.5}


def test_without_secrets_nothing_is_looked_at() -> None:
    value = object()
    assert NOTHING.value(value) is value
    assert not NOTHING
    assert NOTHING.longest == 0


def test_what_is_too_deep_is_left_to_the_check_of_values() -> None:
    deep: Any = "hunter22"
    for _ in range(5_000):
        deep = [deep]
    assert isinstance(Redactor([("KEY", "hunter22")]).value(deep), list)


@pytest.mark.parametrize(
    "name",
    [
        *("password", "db_password", "dbPassword", "PASSWORD", "password2", "passwd", "api_key", "apiKey"),
        *("x-api-key", "STRIPE_API_KEY", "secret", "client_secret", "access_token", "accessToken", "token"),
        *("Authorization", "HTTPAuthorization", "Set-Cookie", "cookie", "private_key", "privateKeyPem"),
        *("secret_value", "credentials", "password_hash", "authorization header"),
    ],
)
def test_names_that_say_it(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("tokens_used", "max_tokens", "token_count", "secretary", "key", "monkey", "public_key", "author"),
        *("cookie_consent", "secret_name", "passenger", "order_id", "", "value", "2", "keys", "tokenizer"),
    ],
)
def test_names_that_do_not(name: str) -> None:
    assert not is_secret_name(name)


def test_what_stands_under_such_a_name_is_masked() -> None:
    value = {
        "user": "ada",
        "password": "x",
        "has_password": True,
        "token": None,
        "l": [{"api_key": {"a": 1}}],
    }
    assert masked(value) == {
        **value,
        "password": MASK,
        "l": [{"api_key": MASK}],
    }
    assert json.loads(masked_json(json.dumps(value))) == masked(value)
    assert masked_json("not json") == "not json"
    cut = 'observed {"a":{"password":"x\\"y","tokens_used":3,"pin":"q","api_key":12,"token":"cut off'
    shown = 'observed {"a":{"password":"**********","tokens_used":3,"pin":"q","api_key":"**********",'
    assert masked_json(cut) == f'{shown}"token":"**********"'
    assert masked_json('{"a": 1}') == '{"a": 1}'


def test_every_name_of_the_list_is_found() -> None:
    assert all(is_secret_name("_".join(words)) for words in redaction._SECRET_NAMES)
