"""`handrail lam collect`: trajectories from the runs of a project, or from records of others, as a file."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handrail.cli.exits import CommandError, ExitCode
from handrail.cli.options import read_span

if TYPE_CHECKING:
    from actors.models.lam.collecting import Collected
    from actors.models.lam.options import Option
    from core.playbook import Playbook
    from core.ports import Record
    from handrail.cli.output import Output
    from handrail.client import Client
    from handrail.v1.trajectory_pb2 import TrajectoryRow

COLLECTED = "collected.jsonl"
IMPORTED = "imported.jsonl"
XLAM = ("xlam", "xlam-turns")
"""Records of ActionStudio, and the rows that it makes of them to train on."""
MAX_RECORDS_BYTES = 1 << 30
_PARQUET_COLUMNS = ("trajectory", "index", "source", "goal", "option", "trains", "why_not", "split", "row")


def since_ns(text: str | None, runs: Sequence[str] | None = None) -> int:
    """Read from when on: a span before now, or a day or a time; 0 where nothing is said."""
    if text is None:
        return 0
    if runs:
        raise CommandError("--since is for all runs.", next="Name runs, or leave them out.")
    span_s = read_span(text)
    days = text.strip().removesuffix("d")
    if text.strip().endswith("d") and days.isdigit() and len(days) < 6:
        span_s = 86_400.0 * int(days)
    if span_s is not None:
        return int((datetime.now(UTC) - timedelta(seconds=span_s)).timestamp() * 1e9)
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise CommandError(
            f"--since {text!r:.60} is no time.",
            next="Write a span (30m, 12h, 7d), a day (2030-01-31) or a time (2030-01-31T15:00:00Z).",
        ) from None
    return int((found if found.tzinfo is not None else found.astimezone()).timestamp() * 1e9)


async def read_runs(
    client: Client, runs: Sequence[str], after_ns: int, playbooks: Sequence[Playbook]
) -> list[Collected]:
    """Read runs one after another, and return what each gives, in the order of their ids."""
    from actors.models.lam.collecting import FORGOTTEN, UNREADABLE, Collected, collect

    found: list[Collected] = []
    async with aclosing(read_logs(client, runs, after_ns)) as logs:
        async for name, records in logs:
            if records is None:
                found.append(Collected(name, left_out=FORGOTTEN))
            elif records:
                found.append(collect(records[0].address.key, records, playbooks))
            else:
                found.append(Collected(name, left_out=UNREADABLE))
    return sorted(found, key=lambda one: one.run)


async def read_logs(
    client: Client, runs: Sequence[str], after_ns: int
) -> AsyncGenerator[tuple[str, list[Record] | None], None]:
    """Yield the logs of runs, of all since a time where none is named; None for one that was forgotten."""
    names = set(runs)
    if not names:
        async with aclosing(client.list()) as listed:
            async for summary in listed:
                if summary.submitted.ToNanoseconds() < after_ns:
                    continue
                if summary.forgotten:
                    yield summary.id, None
                else:
                    names.add(summary.id)
    for name in sorted(names):
        yield name, await _records(client, name)


async def _records(client: Client, run: str) -> list[Record]:
    from handrail.cli.watching import record_of

    async with aclosing(client.watch(run, until_now=True)) as events:
        found = [record_of(response) async for response in events]
    return [record for record in found if record is not None]


def read_records(
    path: Path, options: Sequence[Option], licence: str
) -> tuple[list[TrajectoryRow], Counter[str]]:
    """Read records of xLAM, or its rows of turns, into rows; and how many records gave none, by why."""
    from actors.models.lam.turns import whole
    from actors.models.lam.xlam import BadRecord, rows_of

    by_name = {one.name: one for one in options}
    # They tell no day: "tomorrow" in them is counted from today.
    today = datetime.now(UTC).date()
    rows: list[TrajectoryRow] = []
    left: Counter[str] = Counter()
    names: set[str] = set()
    for record in whole(_parsed(path)):
        try:
            made = rows_of(record, by_name, said_on=today, licence=licence)
        except BadRecord as error:
            left[str(error)] += 1
            continue
        if made[0].trajectory in names:
            left["another one has its id"] += 1
            continue
        names.add(made[0].trajectory)
        rows += made
    rows.sort(key=lambda row: (row.trajectory, row.index))
    return rows, left


def _parsed(path: Path) -> Iterator[Any]:
    try:
        if path.stat().st_size > MAX_RECORDS_BYTES:
            raise CommandError(f"{path} is larger than {MAX_RECORDS_BYTES >> 20} MiB.")
        text = path.read_text(encoding="utf-8")
        if text.lstrip().startswith("["):
            yield from json.loads(text)
        else:
            yield from (json.loads(line) for line in text.split("\n") if line.strip())
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise CommandError(
            f"{path} is not JSON: {error}.", next="It is a list of records, or one record a line."
        ) from None


def write(path: Path, rows: Sequence[TrajectoryRow], form: str, options: Sequence[Option]) -> None:
    """Write a file whole, or leave it as it was."""
    from actors.models.lam.row_text import write_line
    from actors.models.lam.turns import turns
    from actors.models.lam.xlam import records

    if form in XLAM:
        made = records(rows, {one.name: one for one in options})
        found = turns(made) if form == "xlam-turns" else made
        lines: Iterable[str] = (json.dumps(one, sort_keys=True, ensure_ascii=False) for one in found)
    else:
        lines = map(write_line, rows)
    new: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # It has people's words in it: the file is its owner's, and nobody else's beforehand.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".collect-", suffix=path.suffix)
        new = Path(name)
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            if path.suffix != ".parquet":
                file.writelines(f"{line}\n" for line in lines)
        if path.suffix == ".parquet":
            _write_parquet(new, rows)
        new.replace(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.", code=ExitCode.FAILED) from None
    finally:
        if new is not None:
            new.unlink(missing_ok=True)


def check_form(path: Path, form: str, *, named: bool, everything: bool = False) -> None:
    """Refuse a form that there is not, or that the file cannot have, before anything is read."""
    import importlib.util

    if not path.name or path.is_dir():
        raise CommandError(f"--out {str(path)!r} is a folder.", next="Name a file in it.")
    if form not in ("rows", *XLAM):
        raise CommandError(f"--form {form!r:.40} is no form.", next="Write rows, xlam or xlam-turns.")
    if form == "xlam-turns" and everything:
        raise CommandError(
            "Rows of turns are trained on, all of them.", next="Leave --all out, or write `--form xlam`."
        )
    if form in XLAM and not named:
        raise CommandError(
            f"Records of xLAM are not what belongs in {path.name}.", next="Name a file with --out."
        )
    if path.suffix != ".parquet":
        return
    if form in XLAM:
        raise CommandError("Records of xLAM are lines of JSON.", next="Name a file that ends in .jsonl.")
    if importlib.util.find_spec("pyarrow") is None:
        raise CommandError(
            "A .parquet file needs pyarrow, which is not installed.",
            next="Install Handrail with its extra `parquet`, or name a file that ends in .jsonl.",
        )


def _write_parquet(path: Path, rows: Sequence[TrajectoryRow]) -> None:
    import pyarrow
    import pyarrow.parquet

    from actors.models.lam.row_text import write_line
    from handrail.v1 import trajectory_pb2 as pb

    said = [
        (
            row.trajectory,
            row.index,
            pb.TrajectorySource.Name(row.source),
            row.goal,
            row.decision.call.option or row.decision.WhichOneof("kind"),
            row.trains,
            row.why_not,
            pb.TrajectorySplit.Name(row.split),
            write_line(row),
        )
        for row in rows
    ]
    columns = list(zip(*said, strict=True)) or [()] * len(_PARQUET_COLUMNS)
    table = pyarrow.table({name: list(held) for name, held in zip(_PARQUET_COLUMNS, columns, strict=True)})
    pyarrow.parquet.write_table(table, path)


def read_rows(path: Path) -> list[TrajectoryRow]:
    """Read a file of rows."""
    from actors.models.lam.row_text import BadRows, read_lines

    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            return list(read_lines(file))
    except OSError as error:
        missing = "`handrail lam collect` writes what runs give." if path.name == COLLECTED else ""
        raise CommandError(f"{path} cannot be read: {error.strerror}.", next=missing) from None
    except (BadRows, UnicodeDecodeError) as error:
        raise CommandError(f"{path} holds no rows: {error}.") from None


def tell(output: Output, path: Path, found: Sequence[Collected], kept: Sequence[TrajectoryRow]) -> None:
    """Say how many runs and rows there are, and how many were left out, a line for each reason."""
    names = {row.trajectory for row in kept}
    held = sum(any(row.trajectory in names for row in one.rows) for one in found)
    trained = sum(any(row.trains for row in one.rows) for one in found)
    runs: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for one in found:
        reasons = {row.why_not for row in one.rows if not row.trains}
        for reason in {one.left_out} - {""} or reasons:
            runs[reason] += 1
        rows.update(row.why_not for row in one.rows if not row.trains)
    teaching = sum(row.trains for row in kept)
    output.json(
        {
            "file": str(path),
            "runs": len(found),
            "kept": {"runs": held, "rows": len(kept), "training": teaching},
            "left": {reason: {"runs": runs[reason], "rows": rows[reason]} for reason in sorted(runs)},
        }
    )
    output.line(f"{output.glyphs.done} {path}: {len(kept)} rows of {held} runs, of {len(found)} read")
    output.line(f"  {teaching} rows of {trained} runs train")
    for reason, count in sorted(runs.items(), key=lambda pair: (-pair[1], pair[0])):
        output.line(f"  {count} runs, {rows[reason]} rows do not: {reason}")
