"""A project: the settings, tools, playbooks and policy in a directory, checked as a whole.

Loading imports the toolboxes' modules; `load_settings` alone does not. What is wrong is told at once, in one
ProjectError; but the rules of the policy are parsed when somebody first asks for them, since few parts do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import contracts as contract_rules
from core import spelling
from core.conformance import Limits
from core.playbook import Playbook
from core.playbook import check as check_playbook
from handrail import modules
from handrail.calling import AnyTool, NotCalled
from handrail.policy import PolicyFiles, load_policy, read_policy
from handrail.settings import ProjectError as ProjectError
from handrail.settings import Settings as Settings
from handrail.settings import explain, read_text
from handrail.settings import load_settings as load_settings
from handrail.tool import Contract, source_digest
from handrail.toolboxes import import_tools

if TYPE_CHECKING:
    from core.cedar import CedarPolicy
    from handrail.v1.tool_pb2 import ToolContract

MAX_PLAYBOOKS = 500
MAX_PLAYBOOK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Project:
    """What a directory holds, loaded and checked."""

    directory: Path
    settings: Settings
    tools: dict[str, AnyTool]
    contracts: dict[str, Contract]
    protos: dict[str, ToolContract]
    playbooks: tuple[Playbook, ...]
    # The SHA-256 of each playbook's file, by the playbook's name.
    playbook_digests: dict[str, str]
    policy_files: PolicyFiles
    # What proposes actions, where the project has it, and the SHA-256 of the file that it is in.
    proposer: Callable[..., Any] | None = None
    proposer_sha256: str = ""

    @cached_property
    def policy(self) -> CedarPolicy:
        """The rules, parsed and checked; raises ProjectError with everything that is wrong with them."""
        return load_policy(self.directory, self.policy_files, self.protos.values())


def load(
    directory: Path, *, rules: bool = False, playbooks: bool = True, data: Path | None = None
) -> Project:
    """Load a project, with `rules` those of its policy too; raises ProjectError with everything wrong.

    Who makes no plans needs no `playbooks`. `data` is the data directory in use, which tools that are shut in
    must not see.
    """
    directory = directory.resolve()
    settings = load_settings(directory)
    problems: list[str] = []
    tools = _load_tools(directory, settings, data, problems)
    found = _load_playbooks(directory, settings, problems) if playbooks else []
    policy_files = read_policy(directory, problems)
    proposer = _load_proposer(directory, settings, problems)
    limits = limits_of(settings)
    problems += [f"{v.field}: {v.message}" for v in contract_rules.check_tools(tools)]
    protos: dict[str, ToolContract] = {}
    if not problems:
        protos = {tool.contract.name: contract_rules.to_proto(tool.contract) for tool in tools}
        for file, playbook, _ in found:
            problems += [f"{file}: {v.field}: {v.message}" for v in check_playbook(playbook, protos, limits)]
    if problems:
        raise ProjectError(directory, problems)
    by_name = {tool.contract.name: tool for tool in tools}
    project = Project(
        directory=directory,
        settings=settings,
        tools=by_name,
        contracts={name: tool.contract for name, tool in by_name.items()},
        protos=protos,
        playbooks=tuple(playbook for _, playbook, _ in found),
        playbook_digests={playbook.name: digest for _, playbook, digest in found},
        policy_files=policy_files,
        proposer=proposer,
        proposer_sha256=source_digest(proposer) if proposer is not None else "",
    )
    if rules:
        _ = project.policy
    return project


def limits_of(settings: Settings) -> Limits:
    """Return the bounds of a plan."""
    return Limits(max_steps=settings.limits.max_steps, proposers=bool(settings.minds.proposer))


def _load_proposer(directory: Path, settings: Settings, problems: list[str]) -> Callable[..., Any] | None:
    """Import what proposes actions."""
    name, _, function = settings.minds.proposer.partition(":")
    if not function:
        return None
    module = modules.import_modules(directory, [name])[name]
    if isinstance(module, modules.ImportProblem):
        problems.append(f"handrail.toml: minds.proposer: {module}")
        return None
    found = getattr(module, function, None)
    if not callable(found):
        hint = spelling.hint(function, vars(module))
        problems.append(f"handrail.toml: minds.proposer: {name} has no function {function!r}{hint}")
        return None
    return found  # type: ignore[no-any-return]


def _load_tools(directory: Path, settings: Settings, data: Path | None, problems: list[str]) -> list[AnyTool]:
    """Collect the tools of every toolbox; the modules of one that is shut in are imported in its sandbox."""
    listed = [name for toolbox in settings.toolboxes.values() for name in toolbox.modules]
    tools: list[AnyTool] = []
    for name, toolbox in settings.toolboxes.items():
        own: Sequence[AnyTool]
        if toolbox.may is None:
            own, wrong = import_tools(directory, toolbox.modules, listed)
        else:
            own, wrong = _describe(directory, settings, name, data)
        problems += [problem for problem in wrong if problem not in problems]
        tools += [tool.with_toolbox(name) for tool in own]
    return tools


def _describe(
    directory: Path, settings: Settings, name: str, data: Path | None
) -> tuple[Sequence[AnyTool], list[str]]:
    """Read the tools of a toolbox that is shut in."""
    # Here, since few projects have one.
    from handrail.sandbox.profile import profile_of
    from handrail.sandbox.toolbox import Sandbox

    try:
        return Sandbox(profile_of(directory, settings, name, data)).describe()
    except NotCalled as error:
        return [], [str(error)]


def _load_playbooks(
    directory: Path, settings: Settings, problems: list[str]
) -> list[tuple[str, Playbook, str]]:
    """Return each playbook with the name of its file before it, and the file's SHA-256 after it."""
    found: list[tuple[str, Playbook, str]] = []
    files: dict[str, str] = {}
    for path in _playbook_files(directory, settings, problems):
        name = str(path.relative_to(directory)) if path.is_relative_to(directory) else str(path)
        loaded = _load_playbook(path, name, problems)
        if loaded is None:
            continue
        playbook, digest = loaded
        if playbook.name in files:
            problems.append(
                f"{name}: {files[playbook.name]} has a playbook '{playbook.name}' too; rename one"
            )
        files.setdefault(playbook.name, name)
        found.append((name, playbook, digest))
    return found


def _playbook_files(directory: Path, settings: Settings, problems: list[str]) -> list[Path]:
    files: list[Path] = []
    for text in settings.playbooks.paths:
        path = directory / text
        if path.is_dir():
            files += sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
        elif path.is_file():
            files.append(path)
        elif "paths" in settings.playbooks.model_fields_set:
            problems.append(f"handrail.toml: playbooks.paths: there is no {text!r} in the project")
    if len(files) > MAX_PLAYBOOKS:
        problems.append(f"there are {len(files)} playbooks; {MAX_PLAYBOOKS} can be loaded")
    return files[:MAX_PLAYBOOKS]


def _load_playbook(path: Path, name: str, problems: list[str]) -> tuple[Playbook, str] | None:
    from pydantic import ValidationError

    from handrail.yaml_text import BadYaml, read_yaml

    try:
        text = read_text(path, MAX_PLAYBOOK_BYTES)
        return Playbook.model_validate(read_yaml(text)), hashlib.sha256(text.encode()).hexdigest()
    except ValidationError as error:
        problems += [f"{name}: {problem}" for problem in explain(error, Playbook)]
    except (OSError, ValueError, BadYaml) as error:
        problems.append(f"{name}: {error}")
    return None
