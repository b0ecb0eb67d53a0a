"""The folder `policy/` of a project: its rules and its people, or the built-in ones where it has none.

Reading the folder is cheap; making a policy of it (`load_policy`) parses and checks every rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from handrail.settings import BadToml, ProjectError, explain, read_text, read_toml

if TYPE_CHECKING:
    from core.cedar import CedarPolicy, Person
    from handrail.v1.tool_pb2 import ToolContract

FOLDER = "policy"
PEOPLE_FILE = "people.toml"
CASES_FILE = "cases.toml"
BUILT_IN = Path(__file__).parent / "default_policy"
MAX_POLICY_FILES = 100
MAX_POLICY_BYTES = 256 * 1024
MAX_PEOPLE_BYTES = 1024 * 1024

_Name = Annotated[str, Field(min_length=1, max_length=100)]


class PersonEntry(BaseModel):
    """[users.NAME]: roles, and a tenant for who is of one only."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    roles: Annotated[list[_Name], Field(max_length=100)] = []
    tenant: Annotated[str, Field(max_length=100)] = ""


class PeopleFile(BaseModel):
    """The whole of `people.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    users: Annotated[dict[_Name, PersonEntry], Field(max_length=100_000)] = {}


@dataclass(frozen=True)
class PolicyFiles:
    """What a policy is made of. `folder` is where it was read: the project's, or the built-in one."""

    folder: Path
    rules: dict[str, str]
    people: dict[str, PersonEntry]

    @property
    def built_in(self) -> bool:
        """Whether the project has no policy of its own."""
        return self.folder == BUILT_IN


def read_policy(directory: Path, problems: list[str]) -> PolicyFiles:
    """Read the policy of a project; what is wrong with its files is added to `problems`."""
    own = directory / FOLDER
    return read_folder(own if own.exists() else BUILT_IN, problems)


def read_folder(folder: Path, problems: list[str]) -> PolicyFiles:
    """Read a policy's folder; what is wrong with its files is added to `problems`."""
    if folder.exists() and not folder.is_dir():
        problems.append(f"{FOLDER} is a file, and must be a folder with *.cedar files")
        return PolicyFiles(folder, {}, {})
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".cedar")
    except OSError as error:
        problems.append(f"{FOLDER}/ cannot be read: {error.strerror}")
        return PolicyFiles(folder, {}, {})
    if not files:
        problems.append(
            f"{FOLDER}/: there is no *.cedar file in it; write one, or remove the folder: without it the "
            "built-in policy holds"
        )
    if len(files) > MAX_POLICY_FILES:
        problems.append(f"{FOLDER}/: there are {len(files)} *.cedar files; {MAX_POLICY_FILES} can be read")
    rules = {}
    for path in files[:MAX_POLICY_FILES]:
        try:
            rules[f"{FOLDER}/{path.name}"] = read_text(path, MAX_POLICY_BYTES)
        except (OSError, ValueError) as error:
            problems.append(f"{FOLDER}/{path.name} cannot be read: {error}")
    return PolicyFiles(folder, rules, _read_people(folder / PEOPLE_FILE, problems))


def load_policy(directory: Path, files: PolicyFiles, contracts: Iterable[ToolContract]) -> CedarPolicy:
    """Make a policy; raises ProjectError with everything that is wrong with its rules."""
    from core.cedar import BadPolicy, CedarPolicy

    try:
        return CedarPolicy(files.rules, people_of(files.people), contracts)
    except BadPolicy as error:
        raise ProjectError(directory, error.problems) from None


def people_of(users: Mapping[str, PersonEntry]) -> dict[str, Person]:
    """Return people as a policy has them."""
    from core.cedar import Person

    return {name: Person(frozenset(entry.roles), entry.tenant) for name, entry in users.items()}


def _read_people(path: Path, problems: list[str]) -> dict[str, PersonEntry]:
    where = f"{FOLDER}/{PEOPLE_FILE}"
    try:
        return PeopleFile.model_validate(read_toml(read_text(path, MAX_PEOPLE_BYTES))).users
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        problems += [f"{where}: {problem}" for problem in explain(error, PeopleFile)]
    except BadToml as error:
        problems.append(f"{where} is not TOML: {error}")
    except (OSError, ValueError) as error:
        problems.append(f"{where} cannot be read: {error}")
    return {}
