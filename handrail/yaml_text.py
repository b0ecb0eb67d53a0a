"""YAML as playbooks use it: plain data, no aliases, no tags, no duplicate keys, no dates.

Dates stay text, as in JSON; an alias could make a small file enormous, and a tag makes what JSON has not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from core.errors import HandrailError

MAX_NESTING = 64
MAX_NUMBER_CHARS = 400
"""Of a number: `1:1:1:...` is one in base 60, and takes the square of its length to read."""

_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class BadYaml(HandrailError):
    """A text that is not YAML, or uses more of it than is allowed here."""


# In C where there is it: a grammar of megabytes takes seconds to read in Python.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Parser):  # type: ignore[misc]
    """The safe loader, with less of YAML."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as the base class has it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Make a whole number, but no endless one."""
        if len(node.value) > MAX_NUMBER_CHARS:
            text = f"a number has at most {MAX_NUMBER_CHARS} characters"
            raise yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)
        made: int = super().construct_yaml_int(node)
        return made

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a mapping; a key that occurs twice is a mistake."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is a word", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value[:50]!r} occurs twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return made


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _refuse_more(text: str) -> None:
    """Raise if it has an alias, a tag or too many levels, before anything is made of it."""
    nesting = 0
    events: Iterator[Any] = yaml.parse(text, Loader=_Parser)
    for event in events:
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases cannot be used here", problem_mark=mark)
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.MarkedYAMLError(problem="tags cannot be used here", problem_mark=mark)
        if isinstance(event, yaml.NodeEvent) and nesting >= MAX_NESTING:
            raise yaml.MarkedYAMLError(problem=f"it is nested deeper than {MAX_NESTING} levels")
        nesting += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)


def read_yaml(text: str) -> Any:
    """Return the data of a YAML document; raises BadYaml with the line."""
    try:
        _refuse_more(text)
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise BadYaml(f"it is not YAML as playbooks use it: {error.problem or error.context}{line}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadYaml(f"it is not YAML: {error}") from None
