"""A project's action models, as the commands about them open them."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handrail.cli.exits import CommandError

if TYPE_CHECKING:
    from actors.models.lam.answering import Model
    from actors.models.lam.artifact import Artifact
    from actors.models.lam.options import Option
    from handrail.project import Project
    from handrail.v1.trajectory_pb2 import TrajectoryRow

ModelId = Annotated[
    str | None, typer.Option("--model", metavar="DIGEST", help="Which model; else the one that serves.")
]
FIRST_DAY = datetime.date(2026, 1, 1)


def open_project(project: Path | None) -> tuple[Project, tuple[Option, ...]]:
    """Load a project, and what its model may decide on."""
    from actors.models.lam.options import options_of
    from handrail.project import load

    loaded = load(project or Path())
    return loaded, options_of(loaded.protos, loaded.playbooks)


def open_model(loaded: Project, offered: Sequence[Option], digest: str | None) -> Model:
    """Open a model of a project by its digest, or the one that serves."""
    from actors.models.lam import answering

    own = loaded.settings.lam
    return answering.open_model(_folder(loaded, digest), offered, own.thresholds, own.asks)


def open_artifact(loaded: Project, named: str) -> Artifact:
    """Read what a model is made of: one of the project, by its digest, or any, by its folder."""
    from actors.models.lam import artifact

    folder = Path(named).resolve()
    return artifact.load(folder if (folder / artifact.CARD).is_file() else _folder(loaded, named))


def _folder(loaded: Project, digest: str | None) -> Path:
    from actors.models.lam import shelf

    place = loaded.directory / loaded.settings.lam.path
    if digest is None:
        folder = shelf.champion(place)
        digest = folder.name if folder is not None else None
    else:
        folder = place / digest if shelf.DIGEST.fullmatch(digest) else None
    if folder is None or not folder.is_dir():
        raise CommandError(
            f"There is no model {digest} in {place}."
            if digest is not None
            else f"No model serves this project: {place} has none.",
            next="`handrail lam train` makes one.",
        )
    return folder


def grammar_of(loaded: Project) -> Path | None:
    """Return where a project says what people say, if it does."""
    own = loaded.directory / loaded.settings.lam.path / "grammar.yaml"
    return own if own.exists() else None


def synthetic(
    loaded: Project, offered: Sequence[Option], seed: int, trajectories: int
) -> Iterator[TrajectoryRow]:
    """Yield rows that are made of what the project says of itself, and of its grammar."""
    from actors.models.lam.generate import rows
    from actors.models.lam.grammar import load_grammar

    yield from rows(
        offered, load_grammar(grammar_of(loaded)), seed=seed, trajectories=trajectories, today=FIRST_DAY
    )


def told(said: dict[str, Any]) -> str:
    """Write what a card says, in one line."""
    return ", ".join(
        f"{name.replace('_', ' ')} {told(value) if isinstance(value, dict) else value}"
        for name, value in said.items()
        if value is not None
    )
