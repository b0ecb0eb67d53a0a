"""The tools of a toolbox: those of its modules, imported and collected.

Used where the tools are called: in the process itself, or in the sandbox of a toolbox that is shut in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from handrail import modules
from handrail.tool import Tool, collect


def import_tools(
    directory: Path, names: Sequence[str], listed: Sequence[str]
) -> tuple[list[Tool], list[str]]:
    """Import a toolbox's modules and collect their tools; return them, and what is wrong.

    A tool that a module only imports from another listed module belongs to that one's toolbox.
    """
    tools: list[Tool] = []
    problems: list[str] = []
    seen: set[int] = set()
    for name, module in modules.import_modules(directory, list(dict.fromkeys(names))).items():
        if isinstance(module, modules.ImportProblem):
            problems.append(str(module))
            continue
        own = [tool for tool in _own(module, listed) if id(tool.function) not in seen]
        seen.update(id(tool.function) for tool in own)
        tools += own
        if not collect(module):
            problems.append(f"the module '{name}' ({module.__file__}) has no tools: no function with @tool")
    return tools, problems


def _own(module: ModuleType, listed: Sequence[str]) -> Iterator[Tool]:
    for tool in collect(module):
        home = tool.function.__module__
        if home == module.__name__ or home not in listed:
            yield tool
