"""Importing a project's modules, as if the project's directory were first on the path.

A project's modules may import each other by their plain names. Two projects may both have a `tools`: the
plain names belong to the project that was loaded last, and the others keep theirs under a name of its own.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from core.errors import HandrailError
from core.spelling import hint

_loading = threading.RLock()
_owner: Path | None = None
_owned: dict[Path, set[str]] = {}  # the plain names that each project's modules were imported under


class ImportProblem(HandrailError):
    """A module that cannot be imported: which, with what exception, and where."""


def import_modules(directory: Path, names: list[str]) -> dict[str, ModuleType | ImportProblem]:
    """Import modules of a project; one that was imported before is not imported again."""
    directory = directory.resolve()
    with _loading:
        _take_over(directory, names)
        with _watching(directory):
            return {name: _import(directory, name) for name in names}


def _take_over(directory: Path, names: list[str]) -> None:
    """Give the plain names to this project, if another has them."""
    global _owner
    if _owner is not None and _owner != directory:
        for name in _owned[_owner]:
            sys.modules.pop(name, None)
        with suppress(ValueError):  # a project's code may have changed the path
            sys.path.remove(str(_owner))
        _owner = None
    for name in _owned.setdefault(directory, set()):
        sys.modules[name] = sys.modules[_prefix(directory) + name]
    for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
        if _has(directory, top) and not _is_of(directory, sys.modules.get(top)):
            for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
                del sys.modules[name]
    if _owner is None:
        sys.path.append(str(directory))  # at the end: a late import must not shadow what is installed
        _owner = directory


@contextmanager
def _watching(directory: Path) -> Iterator[None]:
    """Put the directory first on the path, and keep what is imported from it under names of its own too."""
    before = set(sys.modules)
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(directory))
        for name in set(sys.modules) - before:
            if _is_of(directory, sys.modules[name]):
                _owned[directory].add(name)
                sys.modules[_prefix(directory) + name] = sys.modules[name]


def _has(directory: Path, name: str) -> bool:
    return (directory / f"{name}.py").is_file() or (directory / name).is_dir()


def _is_of(directory: Path, module: ModuleType | None) -> bool:
    file = getattr(module, "__file__", None)
    places = [Path(place).resolve() for place in ([file] if file else getattr(module, "__path__", ()))]
    return any(p.is_relative_to(directory) and "site-packages" not in p.parts for p in places)


def _prefix(directory: Path) -> str:
    return f"_handrail_project_{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}_"


def _import(directory: Path, name: str) -> ModuleType | ImportProblem:
    try:
        return importlib.import_module(name)
    # The supervision point for a user's code at import: what it raises becomes a problem of the project.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        why = _describe(directory, error)
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            why = f"there is none{hint(name, [path.stem for path in directory.glob('*.py')])}"
        return ImportProblem(f"the module '{name}' cannot be imported: {why}")


def _describe(directory: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return (
            f"{type(error).__name__}: {error.msg} ({_place(directory, error.filename)}, line {error.lineno})"
        )
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(directory)]
    where = f" ({_place(directory, own[-1].filename)}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {str(error)[:500]}{where}"


def _place(directory: Path, filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else filename
