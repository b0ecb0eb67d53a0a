"""The client of an endpoint: whatever comes back, or does not, it is an answer or words, within its time."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.models.openai.answer import MAX_CALLS, BadAnswer, read_answer, tokens_of
from actors.models.openai.endpoint import MAX_ANSWER_BYTES, Endpoint, EndpointError
from handrail import secrets
from handrail.secrets import Secrets
from tests.openai_endpoint import MODEL, Reply, call, calls, endpoint, fails, message, says

KEY = "sk-canary-5f1c9a0b"
ASK = {"messages": [{"role": "user", "content": "hello"}], "tools": []}


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_memory", secrets._Memory())


def asked(url: str, *, key: str = "", timeout_s: float = 20.0, model: str = MODEL) -> Any:
    held = Secrets("", {"openai.key": "env:KEY"}, Path(), {"KEY": key})
    lent = (lambda: held.resolve()["openai.key"]) if key else (lambda: "")
    return Endpoint(url, model, lent, timeout_s).ask(ASK)


def refused(*replies: Reply, key: str = "", wanted: str = "", **options: Any) -> EndpointError:
    with endpoint(*replies, key=wanted) as fake, pytest.raises(EndpointError) as error:
        asked(fake.url, key=key, **options)
    assert KEY not in str(error.value)
    assert all(char.isprintable() for char in str(error.value))
    return error.value


def test_a_question_is_asked_once_with_the_key_in_its_header_alone() -> None:
    with endpoint(calls(("look", {"id": 7})), key=KEY) as fake:
        said = read_answer(asked(fake.url, key=KEY))
    assert [(one.name, one.arguments) for one in said.calls] == [("look", {"id": 7})]
    assert fake.keys == [f"Bearer {KEY}"]
    assert KEY not in json.dumps(fake.asked)
    assert (fake.asked[0]["model"], fake.asked[0]["temperature"]) == (MODEL, 0)


def test_without_a_key_there_is_no_header() -> None:
    with endpoint(says("hello")) as fake:
        assert read_answer(asked(fake.url)).text == "hello"
    assert fake.keys == [None]


def test_a_wrong_key_is_not_repeated_by_whoever_is_told_it() -> None:
    error = refused(says(""), key=KEY, wanted="another")
    assert "openai.key" in str(error)
    assert "[secret openai.key]" in str(error)
    assert not error.passing


def test_a_key_that_cannot_stand_in_a_header_is_not_shown() -> None:
    error = refused(says(""), key=f"{KEY}\r\nX: y")
    assert "no header can hold" in str(error)


def test_a_key_that_cannot_be_had_is_said_where_it_was_looked_for() -> None:
    held = Secrets("", {"openai.key": "env:NO_SUCH"}, Path(), {})
    with pytest.raises(EndpointError, match=r"openai\.key \(env:NO_SUCH\): NO_SUCH is not set"):
        Endpoint("http://127.0.0.1:1/v1", MODEL, lambda: held.resolve()["openai.key"]).ask(ASK)


def test_a_model_that_there_is_not_is_named() -> None:
    error = refused(says(""), model="nobody/knows")
    assert "nobody/knows" in str(error)
    assert not error.passing


@pytest.mark.parametrize("status", [429, 503])
def test_too_much_to_do_is_asked_again_once(status: int) -> None:
    with endpoint(fails(status, Retry_After="0"), says("hello")) as fake:
        assert read_answer(asked(fake.url)).text == "hello"
        assert len(fake.asked) == 2
    with endpoint(fails(status, Retry_After="0")) as fake:
        with pytest.raises(EndpointError, match="try again later") as error:
            asked(fake.url)
        assert len(fake.asked) == 2
    assert error.value.passing


def test_nobody_waits_longer_than_the_time_of_a_question() -> None:
    begun = time.monotonic()
    error = refused(fails(429, Retry_After="3600"))
    assert "wait 3600 s" in str(error)
    assert error.passing
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("after", ["soon", "-1", "1e999", "Wed, 21 Oct 2099 07:28:00 GMT", "²", "9" * 400])
def test_whatever_is_said_of_when_to_come_again(after: str) -> None:
    assert refused(fails(503, Retry_After=after), timeout_s=0.5).passing


def test_what_failed_there_is_said_and_not_tried_again() -> None:
    with endpoint(fails(500, "the GPU\x1b[2J is \u202eon fire")) as fake:
        with pytest.raises(EndpointError, match=r"failed.*500.*the GPU.*on fire") as error:
            asked(fake.url)
        assert len(fake.asked) == 1
    assert error.value.passing
    assert str(error.value).isprintable()


def test_a_redirect_is_not_followed() -> None:
    with endpoint(says("stolen")) as thief:
        error = refused(Reply(b"", 307, {"Location": f"{thief.url}/chat/completions"}), key=KEY)
        assert thief.asked == thief.keys == []
    assert "leads elsewhere" in str(error)


@pytest.mark.parametrize("reply", [Reply(message(), hangs=True), Reply(b" " * 100_000, drips=True)])
def test_a_slow_one_is_left_when_the_time_is_over(reply: Reply) -> None:
    begun = time.monotonic()
    error = refused(reply, timeout_s=0.5)
    assert "within 0.5 s" in str(error)
    assert error.passing
    assert time.monotonic() - begun < 5


def test_one_that_hangs_up_in_the_middle() -> None:
    error = refused(Reply(message(), cut=20))
    assert "in the middle" in str(error)
    assert error.passing


def test_one_that_says_nothing_of_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            held, _ = listening.accept()
            held.recv(1_000_000)
            held.sendall(b"\x16\x03\x01 not http \r\n\r\n")
            held.close()

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(EndpointError, match="cannot be asked"):
            asked(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
        serving.join()


def test_one_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with pytest.raises(EndpointError, match=r"cannot be asked.*Is it up") as error:
        asked(f"http://127.0.0.1:{port}/v1")
    assert error.value.passing


def test_an_answer_is_read_up_to_a_size() -> None:
    assert "bytes" in str(refused(Reply(b'"' + b"x" * MAX_ANSWER_BYTES + b'"')))
    with endpoint(says("x" * (MAX_ANSWER_BYTES // 2))) as fake:
        assert len(read_answer(asked(fake.url)).text) < 1_000


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"choices": ', b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b'"\\ud800"']
)
def test_what_is_no_json_is_said(body: bytes) -> None:
    assert "not JSON" in str(refused(Reply(body)))


# --- answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "nothing"),
        ([], "nothing"),
        ({"choices": []}, "nothing"),
        ({"choices": [None]}, "nothing"),
        ({"choices": [{"finish_reason": "stop"}]}, "nothing"),
        ({"choices": [message()["choices"][0]] * 2}, "2 choices"),
        (message("length", tool_calls=[call("look", {})]), "cut off"),
        (message("content_filter"), "filter"),
        (message(refusal="I can't \x1b[2Jdo that"), 'refuses: "I can\'t [2Jdo that"'),
        (message(tool_calls={"look": 1}), "no list"),
        (message(tool_calls=[None]), "names no tool"),
        (message(tool_calls=[{"function": {"arguments": "{}"}}]), "names no tool"),
        (message(tool_calls=[call("look", '{"id": 7')]), "are not JSON"),
        (message(tool_calls=[call("look", '{"id": NaN}')]), "are not JSON"),
        (message(tool_calls=[call("look", "[" * 100_000)]), "are not JSON"),
        (message(tool_calls=[call("look", "[7]")]), "are no object"),
        (message(tool_calls=[call("look", "null")]), "are no object"),
        (message(tool_calls=[call("look", {})] * (MAX_CALLS + 1)), "calls, and 16"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused_as_a_whole(answer: Any, says: str) -> None:
    with pytest.raises(BadAnswer) as error:
        read_answer(answer)
    assert says in str(error.value)
    assert str(error.value).isprintable()


def test_a_call_without_arguments_has_none() -> None:
    (one,) = read_answer(message(tool_calls=[call("look", "")])).calls
    assert one.arguments == {}


@pytest.mark.parametrize(
    "usage", [None, [], {}, {"prompt_tokens": -1}, {"prompt_tokens": 2**40}, {"prompt_tokens": True}]
)
def test_tokens_are_counted_as_far_as_that_is_said(usage: Any) -> None:
    assert tokens_of({"usage": usage}).read == 0
    assert tokens_of(message()) == tokens_of(message()).__class__(1_200, 34)


@pytest.fixture
def listed() -> Iterator[Any]:
    with endpoint(says("")) as fake:
        yield fake


def test_the_models_are_listed(listed: Any) -> None:
    assert Endpoint(listed.url, MODEL).models() == [MODEL]
    listed.models = Reply({"data": [{"id": 1}, None, {"id": "x"}]})
    assert Endpoint(listed.url, MODEL).models() == ["x"]
    listed.models = Reply(b"[]")
    with pytest.raises(EndpointError, match="does not list models"):
        Endpoint(listed.url, MODEL).models()
