"""`handrail init DIR`: a project to start from, which runs as it is."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from handrail.cli import options
from handrail.cli.exits import CommandError, ExitCode

TEMPLATE = Path(__file__).parent / "template"
# What holds without a policy of one's own is what a new project begins with.
POLICY = Path(__file__).parents[1] / "default_policy"
# Names that a package cannot carry as they are.
RENAMED = {"gitignore": ".gitignore"}
GOAL = "lend the drill to Ada"


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put it; made if need be.")],
    json: options.Json = False,
) -> None:
    """Make a project to start from, which runs as it is."""
    from handrail.cli.output import Output

    output = Output(as_json=json)
    made = create(directory)
    output.json({"directory": str(directory.absolute()), "files": [str(path) for path in made]})
    output.line(f"{output.glyphs.done} A project in {directory}:")
    output.lines(f"  {path}" for path in made)
    where = shlex.quote(str(directory))
    output.lines(
        [
            "",
            "Next:",
            f'  handrail run "{GOAL}" --project {where}',
            f"  handrail tools list --project {where}",
            f"  cd {where} && pytest",
        ]
    )


def create(directory: Path) -> list[Path]:
    """Copy the template into a directory, overwriting nothing; return what was made."""
    files = sorted(path for path in TEMPLATE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    targets = {_target(path.relative_to(TEMPLATE)): path for path in files}
    targets |= {Path("policy") / path.name: path for path in sorted(POLICY.iterdir()) if path.is_file()}
    taken = [str(target) for target in targets if (directory / target).exists()]
    if directory.exists() and not directory.is_dir():
        raise CommandError(f"{directory} is not a directory.", next="Name another.")
    if taken:
        raise CommandError(
            f"{directory} has {', '.join(taken)} already; nothing was written.",
            why="A project to start from overwrites nothing.",
            next="Name another directory, or move those files away.",
        )
    try:
        for target, source in targets.items():
            path = directory / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read_bytes())
    except OSError as error:
        raise CommandError(
            f"{directory} cannot be written: {error.strerror}.",
            next="Give this user write permission, or name another directory.",
            code=ExitCode.UNAVAILABLE,
        ) from None
    return list(targets)


def _target(path: Path) -> Path:
    return path.with_name(RENAMED.get(path.name, path.name))
