"""Which files exist for a tool that is shut in.

The system, Python, Handrail's own code and the project, to read; what the profile lists, to read or to
write. In the project's directory nothing hidden (`.env`, `.git`), and nowhere what is named as hidden (the
data directory, keys). Everything that is not listed is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import core
import handrail

# Programs, libraries, certificates and time zones; nothing that is of this machine or its users.
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store"),
    *(
        # Not whole: beside the certificates lie keys of the machine.
        "/etc/ssl/certs",
        "/etc/ssl/cert.pem",
        "/etc/ssl/openssl.cnf",
        "/etc/pki/tls/certs",
        "/etc/pki/tls/cert.pem",
        "/etc/pki/tls/openssl.cnf",
        "/etc/pki/ca-trust",
        "/etc/crypto-policies",
        "/etc/ca-certificates",
        "/etc/ld.so.cache",
        "/etc/ld.so.conf",
        "/etc/ld.so.conf.d",
    ),
    *("/etc/alternatives", "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/terminfo"),
)
MAX_ENTRIES = 4_000


class BadPlaces(ValueError):
    """A profile's paths that cannot be had; its text names the path and says why."""


@dataclass(frozen=True, slots=True)
class Places:
    """What can be read (whole trees, files, symbolic links), listed (names in a directory alone), written."""

    read: tuple[Path, ...]
    listed: tuple[Path, ...]
    write: tuple[Path, ...]


def interpreter() -> Path:
    """Return the Python that runs inside: the one that a virtual environment stands on."""
    return Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()


def import_path() -> list[str]:
    """Return where the Python inside finds packages, beside its own library."""
    homes = [Path(entry).resolve() for entry in sys.path if entry]
    packages = [home for home in homes if home.name in ("site-packages", "dist-packages")]
    own = Path(handrail.__file__).resolve().parents[1]
    return [str(home) for home in dict.fromkeys((own, *packages))]


def find(
    directory: Path,
    read: Sequence[str],
    write: Sequence[str],
    hidden: Sequence[Path],
    code: Sequence[Path] = (),
) -> Places:
    """Return what exists for a project's tools; raises BadPlaces.

    `code` is what of the project is believed outside of the sandbox: its modules, playbooks, rules.
    """
    secret = tuple(path.resolve() for path in hidden)
    own = [Path(module.__file__ or "").resolve().parent for module in (handrail, core)]
    python = [Path(sys.base_prefix).resolve(), *(Path(entry) for entry in import_path()[1:]), *own]
    writable = tuple(_listed(directory, text, "write") for text in write)
    for text, path in zip(write, writable, strict=True):
        _check_writable(directory, text, path, secret, [*python, *(one.resolve() for one in code)])
    for what, texts in (("read", read), ("write", write)):
        for text in texts:
            _check_steady(directory, text, what, writable)
    readable = [place for text in read for place in _opened(_listed(directory, text, "read"), secret)]
    trees = [
        *(place for path in _system() for place in _around(path, directory, secret)),
        *(place for path in python for place in _around(path, directory, secret)),
        *(place for name in _visible(directory) for place in _opened(directory / name, secret)),
        *readable,
    ]
    if len(trees) > MAX_ENTRIES:
        raise BadPlaces(f"{len(trees)} entries can be read; {MAX_ENTRIES} may be: list directories")
    kept = [tree for tree in dict.fromkeys(trees) if not any(tree.is_relative_to(one) for one in writable)]
    roots = [directory, own[0].parent]
    return Places(tuple(kept), tuple(dict.fromkeys(roots)), writable)


def _system() -> list[Path]:
    return [path for path in map(Path, _SYSTEM) if path.exists()]


def _around(path: Path, directory: Path, secret: Sequence[Path]) -> Iterator[Path]:
    """Yield what of a tree may be read; of a project that lies in it, it says nothing."""
    yield from _opened(path, secret if path.is_relative_to(directory) else (*secret, directory))


def _listed(directory: Path, text: str, what: str) -> Path:
    try:
        path = _named(directory, text).resolve()
    except (RuntimeError, ValueError) as error:
        raise BadPlaces(f"may.{what}: {text!r} names no path: {error}") from None
    if not path.exists():
        raise BadPlaces(f"may.{what}: there is no {text!r}: make it, or take it out of the list")
    return path


def _named(directory: Path, text: str) -> Path:
    return directory / Path(text).expanduser()


def _check_writable(
    directory: Path, text: str, path: Path, hidden: Sequence[Path], code: Sequence[Path]
) -> None:
    for one in hidden:
        if one.is_relative_to(path) or path.is_relative_to(one):
            raise BadPlaces(f"may.write: {text!r} would give {one.name} away: list a directory beside it")
    # What they wrote there would be believed outside of the sandbox, or at their next call.
    if directory.is_relative_to(path):
        raise BadPlaces(f"may.write: {text!r} holds the project itself: list a directory in it")
    for one in code:
        if one.is_relative_to(path) or path.is_relative_to(one):
            raise BadPlaces(f"may.write: {text!r} would let {one} be changed: list a directory beside it")


def _check_steady(directory: Path, text: str, what: str, writable: Sequence[Path]) -> None:
    """Refuse a path of which a part could be replaced by a link: it would lead anywhere at the next call."""
    path = _named(directory, text)
    for part in (path, *path.parents):
        holds = next((one for one in writable if part.parent.resolve().is_relative_to(one)), None)
        if holds is not None:
            raise BadPlaces(f"may.{what}: {text!r} lies in {holds}, which can be written: list one of them")


def _visible(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))


def _opened(path: Path, hidden: Sequence[Path]) -> Iterator[Path]:
    """Yield what of a tree may be read: all of it, or what lies beside what is hidden."""
    if any(path.is_relative_to(one) for one in hidden):
        return
    if path.is_symlink() or not any(one.is_relative_to(path) for one in hidden):
        yield path
        return
    for entry in sorted(path.iterdir()):
        yield from _opened(entry, hidden)
