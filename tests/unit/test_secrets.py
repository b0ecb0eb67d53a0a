"""Secrets by reference: where they are looked for, what is said where they are not, and who may ask."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretBytes, SecretStr

from handrail import secrets
from handrail.calling import InvalidArguments, InvalidOutput, ToolRaised, ToolThreads, invoke
from handrail.secrets import SecretMissing, Secrets
from handrail.settings import ProjectError, load_settings
from handrail.tool import NoSuchSecret, Tool, ToolError, secret, tool, use_secrets

VALUE = "hunter22-canary"


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_memory", secrets._Memory())


@pytest.fixture
def threads() -> Iterator[ToolThreads]:
    made = ToolThreads(2)
    yield made
    made.shutdown()


def of(reference: str, directory: Path = Path(), **environ: str) -> Secrets:
    return Secrets("box", {"KEY": reference}, directory, environ)


# --- references ------------------------------------------------------------------------------------------


def test_a_variable() -> None:
    assert of("env:A", A=VALUE).resolve() == {"KEY": VALUE}


def test_a_file_without_its_last_newline(tmp_path: Path) -> None:
    (tmp_path / "smtp").write_text(f"{VALUE}\n\n")
    assert of("file:smtp", tmp_path).resolve() == {"KEY": f"{VALUE}\n"}
    assert of(f"file:{tmp_path}/smtp").resolve() == {"KEY": f"{VALUE}\n"}


def test_a_mounted_secret(tmp_path: Path) -> None:
    (tmp_path / "shop-db").mkdir()
    (tmp_path / "shop-db" / "url").write_text(VALUE)
    assert of("kubernetes:shop-db/url", HANDRAIL_SECRETS_DIR=str(tmp_path)).resolve() == {"KEY": VALUE}
    missing = of("kubernetes:shop-db/url").missing()
    assert "/var/run/secrets/handrail/shop-db/url cannot be read" in missing


def test_a_rotated_secret_is_the_new_one_and_the_old_one_stays_out_of_sight(tmp_path: Path) -> None:
    found = of("file:smtp", tmp_path)
    for value in ("first-value", "second-value"):
        (tmp_path / "smtp").write_text(value)
        assert found.resolve() == {"KEY": value}
    assert secrets.redactor().text("first-value second-value") == "[secret KEY] [secret KEY]"


def test_what_is_remembered_is_bounded() -> None:
    for number in range(10):
        secrets.remember("box", {"KEY": f"value-number-{number}"})
    assert secrets.redactor().text("value-number-9") == "[secret KEY]"
    assert secrets.redactor().text("value-number-1") == "value-number-1"


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (_pipe, "is no file"),
        (lambda path: path.write_bytes(b"\xff" * 10), "is not UTF-8"),
        (lambda path: path.write_text("short"), "shorter than 6"),
        (lambda path: path.write_text("x" * 65_537), "more than 65536"),
    ],
)
def test_what_cannot_be_had_is_named(make: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    make(tmp_path / "smtp")
    with pytest.raises(SecretMissing) as caught:
        of("file:smtp", tmp_path).resolve()
    assert said in str(caught.value)
    assert str(caught.value).startswith("toolbox box: secret KEY (file:smtp)")
    assert "short\n" not in str(caught.value)


def test_a_variable_that_is_not_set() -> None:
    where = "toolbox box: secret KEY (env:NOT_THERE): NOT_THERE"
    assert of("env:NOT_THERE").missing() == f"{where} is not set in the environment of this process; set it"
    assert of("env:A", A="12345").missing().startswith("toolbox box: secret KEY (env:A) is shorter")


def test_who_can_read_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "smtp").write_text(VALUE)
    (tmp_path / "smtp").chmod(0o644)
    (found,) = of("file:smtp", tmp_path).look()
    assert (found.problem, found.exposed) == ("", tmp_path / "smtp")
    (tmp_path / "smtp").chmod(0o600)
    (found,) = of("file:smtp", tmp_path).look()
    assert found.exposed is None


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (f'KEY = "{VALUE}"', "this is no reference to a secret"),
        (f'KEY = "env:{VALUE}"', "this is no reference to a secret"),
        ('KEY = "env:HANDRAIL_CREDENTIALS"', "none of HANDRAIL_"),
        ('KEY = "kubernetes:db/.."', "this is no reference to a secret"),
        ('KEY = "kubernetes:../x/y"', "this is no reference to a secret"),
        ('"a-b" = "env:A"', "a secret's name"),
    ],
)
def test_what_is_no_reference_is_refused_and_not_shown(written: str, said: str, tmp_path: Path) -> None:
    text = f'[toolboxes.box]\nmodules = ["tools"]\n[toolboxes.box.secrets]\n{written}\n'
    (tmp_path / "handrail.toml").write_text(text)
    with pytest.raises(ProjectError) as caught:
        load_settings(tmp_path)
    assert said in str(caught.value)
    assert VALUE not in str(caught.value)


# --- asking ----------------------------------------------------------------------------------------------


def test_outside_of_a_run_a_test_says_what_there_is() -> None:
    with use_secrets({"KEY": VALUE}):
        found = secret("KEY")
        assert (found.get_secret_value(), str(found)) == (VALUE, "**********")
        with pytest.raises(NoSuchSecret, match="it has: KEY"):
            secret("OTHER")
    with pytest.raises(NoSuchSecret, match="use_secrets") as caught:
        secret("KEY")
    assert isinstance(caught.value, ToolError)
    assert caught.value.in_doubt


def called(threads: ToolThreads, function: Callable[..., Any], found: Secrets, **arguments: Any) -> Any:
    made: Tool = function.__handrail_tool__  # type: ignore[attr-defined]

    def call(values: Mapping[str, str]) -> Any:
        return invoke(made, arguments, timeout_s=5, threads=threads, secrets=values)

    return asyncio.run(found.lend(call))


def test_a_tool_has_the_secrets_of_its_own_toolbox_and_no_others(threads: ToolThreads) -> None:
    @tool(effect="read")
    def ask(name: str) -> int:
        return len(secret(name).get_secret_value())

    @tool(effect="read")
    async def ask_async(name: str) -> int:
        return len(secret(name).get_secret_value())

    one, other = of("env:A", A=VALUE), Secrets("other", {"OTHER": "env:B"}, environ={"B": "another-value"})
    for function in (ask, ask_async):
        assert called(threads, function, one, name="KEY") == len(VALUE)
        assert called(threads, function, other, name="OTHER") == len("another-value")
        with pytest.raises(NoSuchSecret if function is ask_async else ToolError, match="has no secret 'KEY'"):
            called(threads, function, other, name="KEY")
        with pytest.raises(ToolError, match="it has: none"):
            called(threads, function, secrets.NO_SECRETS, name="KEY")
    with pytest.raises(NoSuchSecret, match="outside of a call"):
        secret("KEY")


def test_calls_at_once_do_not_see_each_others(threads: ToolThreads) -> None:
    gate = threading.Barrier(2, timeout=5)

    @tool(effect="read")
    def ask() -> int:
        gate.wait()
        return len(secret("KEY").get_secret_value())

    made: Tool = ask.__handrail_tool__  # type: ignore[attr-defined]

    async def both() -> list[Any]:
        boxes = [of("env:A", A="x" * length) for length in (7, 9)]
        return await asyncio.gather(
            *(
                box.lend(lambda values: invoke(made, {}, timeout_s=5, threads=threads, secrets=values))
                for box in boxes
            )
        )

    assert asyncio.run(both()) == [7, 9]


# --- what comes out --------------------------------------------------------------------------------------


class Login(BaseModel):
    user: str
    password: SecretStr
    raw: SecretBytes


def test_by_type_a_secret_is_dumped_as_stars(threads: ToolThreads) -> None:
    @tool(effect="read")
    def typed() -> Login:
        return Login(user="ada", password=SecretStr("hers alone"), raw=SecretBytes(b"hers alone"))

    @tool(effect="read")
    def loose() -> Any:
        return {"deep": [SecretStr("hers alone")], "asked": secret("KEY")}

    found = of("env:A", A=VALUE)
    stars = "**********"
    assert called(threads, typed, found) == {"user": "ada", "password": stars, "raw": stars}
    assert called(threads, loose, found) == {"deep": [stars], "asked": stars}


def test_what_is_returned_holds_no_value(threads: ToolThreads) -> None:
    @tool(effect="read")
    def leak() -> Any:
        value = secret("KEY").get_secret_value()
        return {value: [f"Bearer {value}"], "n": 1}

    expected = {"[secret KEY]": ["Bearer [secret KEY]"], "n": 1}
    assert called(threads, leak, of("env:A", A=VALUE)) == expected


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ToolError(f"no: {VALUE}", code=VALUE, transient=True), ToolError, "no: [secret KEY]"),
        (KeyError(VALUE), ToolRaised, "KeyError: '[secret KEY]'"),
        (type(VALUE, (Exception,), {})("x"), ToolRaised, "[secret KEY]: x"),
        (SystemExit(VALUE), Exception, "[secret KEY]"),
        (TimeoutError(VALUE), TimeoutError, "[secret KEY]"),
    ],
)
def test_what_is_raised_holds_no_value(
    error: BaseException, kind: type[Exception], text: str, threads: ToolThreads
) -> None:
    @tool(effect="read")
    def leak() -> Any:
        raise error

    with pytest.raises(kind) as caught:
        called(threads, leak, of("env:A", A=VALUE))
    assert text in str(caught.value)
    found: BaseException | None = caught.value
    while found is not None:
        assert VALUE not in repr(found)
        assert found.__suppress_context__
        found = found.__cause__
    if isinstance(caught.value, ToolError):
        assert (caught.value.code, caught.value.transient) == ("[secret KEY]", True)


def test_what_does_not_fit_holds_no_value(threads: ToolThreads) -> None:
    @tool(effect="read")
    def leak(number: int) -> dict[str, int]:
        return {secret("KEY").get_secret_value(): "no number"}  # type: ignore[dict-item]

    with pytest.raises(InvalidOutput) as caught:
        called(threads, leak, of("env:A", A=VALUE), number=1)
    assert VALUE not in str(caught.value)
    with pytest.raises(InvalidArguments) as bad:
        called(threads, leak, of("env:A", A=VALUE), **{VALUE: 1})
    assert VALUE not in str(bad.value)


def test_an_error_without_a_secret_stays_the_same_object(threads: ToolThreads) -> None:
    error = ValueError("nothing in it")

    @tool(effect="read")
    def fail() -> Any:
        raise error

    with pytest.raises(ValueError, match="nothing in it") as caught:
        called(threads, fail, of("env:A", A=VALUE))
    assert caught.value is error
