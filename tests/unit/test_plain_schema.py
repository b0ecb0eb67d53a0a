"""What is taken for a schema at a glance is one: the meta-schema says so too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from core.plain_schema import _WORDS, is_plain
from core.schemas import check_schema, compile_schema
from handrail import project

BACKOFFICE = Path(__file__).parents[2] / "examples" / "backoffice"

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.floats(-1, 2),
    st.sampled_from(["string", "integer", "#/$defs/a", "#", "^a+$", "(", "a b", "", "date"]),
)


def documents(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas of what might stand behind their words, right or wrong."""
    many, named = st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    return st.dictionaries(st.sampled_from(sorted(_WORDS)), inner | many | named, max_size=2)


@settings(max_examples=1_000)
@given(st.recursive(SCALARS, documents, max_leaves=8))
def test_what_is_plain_is_a_schema_to_the_meta_schema(document: Any) -> None:
    plain = is_plain(document)
    event(f"plain: {plain}")
    if plain:
        Draft202012Validator.check_schema(document)


@pytest.mark.parametrize("word", sorted(_WORDS))
def test_a_word_with_what_it_never_takes_is_asked_of_the_meta_schema(word: str) -> None:
    for value in (None, True, -1, 0.5, "(", [], [1], ["a", "a"], {"a": 1}):
        if is_plain({word: value}):
            Draft202012Validator.check_schema({word: value})


def test_every_schema_of_the_sample_is_plain() -> None:
    for tool in project.load(BACKOFFICE).tools.values():
        assert is_plain(tool.contract.input_schema), tool.contract.name
        assert is_plain(tool.contract.output_schema), tool.contract.name


def test_what_is_not_plain_may_be_a_schema_all_the_same() -> None:
    assert not is_plain({"not": {"type": "string"}})
    assert check_schema({"not": {"type": "string"}}) is None
    assert "is not of type" in str(check_schema({"minLength": "2"}))


def test_one_that_is_nested_too_deep_is_none() -> None:
    document: dict[str, Any] = {}
    for _ in range(100_000):
        document = {"items": document}
    assert check_schema(document) == "it is nested too deep"


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("word", "ab", False),
        ("word", "a", True),
        ("same", 2, True),
        ("maybe", None, False),
        ("maybe", 2, True),
        ("number", "x", True),
        ("never", 1, True),
        ("unknown", 1, False),
    ],
)
def test_what_a_property_refers_to_is_looked_up_in_the_whole(name: str, value: Any, wrong: bool) -> None:
    document = {
        "properties": {
            "word": {"$ref": "#/definitions/word"},
            "same": {"$ref": "#/properties/word"},
            "maybe": {"anyOf": [{"$ref": "#/definitions/word"}, {"type": "null"}]},
            "number": {"$ref": "#/$defs/number"},
            "never": False,
        },
        "definitions": {"word": {"type": "string", "minLength": 2}},
        "$defs": {"number": {"type": "integer"}},
    }
    assert check_schema(document) is None
    assert bool(compile_schema(json.dumps(document)).problems_of(name, value)) is wrong
