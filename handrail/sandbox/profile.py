"""What a toolbox that is shut in is, what its tools may touch, and whether a machine can see to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from handrail.person import DATA_DIR
from handrail.policy import FOLDER as POLICY
from handrail.sandbox.mechanism import ORDER, Mechanism, Name
from handrail.settings import SETTINGS_FILE, MaySettings, Settings


@dataclass(frozen=True)
class Profile:
    """A toolbox and its `may`."""

    toolbox: str
    may: MaySettings
    directory: Path
    modules: tuple[str, ...]
    # The modules of every toolbox of the project.
    listed: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[Path, ...] = ()
    # What of the project is believed outside of the sandbox.
    code: tuple[Path, ...] = ()
    weakest: Name = "landlock"

    @property
    def memory_bytes(self) -> int:
        """The memory that a call and all its processes may take."""
        return self.may.memory_mb * 1024 * 1024

    def refusal(self, mechanism: Mechanism) -> str:
        """Return why a mechanism will not do, and what to do; empty where it will."""
        why = "; ".join(mechanism.missing)
        if ORDER.index(mechanism.name) > ORDER.index(self.weakest):
            todo = "Install bubblewrap (`bwrap`), or name in [sandbox] the weakest mechanism that will do."
            return f"the toolbox {self.toolbox} cannot be shut in: {why}. {todo}"
        if self.may.hosts and mechanism.name == "landlock" and self.weakest != "none":
            todo = "Install bubblewrap (`bwrap`), or take the hosts out."
            return f"the toolbox {self.toolbox} lists hosts, which needs bubblewrap: {why}. {todo}"
        return ""

    def taken(self, mechanism: Mechanism) -> Mechanism:
        """Return the mechanism that is used where one will do: Landlock alone cannot let hosts through."""
        if self.may.hosts and mechanism.name == "landlock":
            return Mechanism("none", "", mechanism.missing)
        return mechanism


def profile_of(directory: Path, settings: Settings, name: str, data: Path | None) -> Profile:
    """Return the profile of a project's toolbox that is shut in."""
    toolbox = settings.toolboxes[name]
    if toolbox.may is None:
        raise ValueError(f"the toolbox {name} has no `may`")
    keys = (settings.tls.key, settings.permits.key, settings.broker.credentials, settings.notary.path)
    # The settings hold what the tools of other toolboxes find in their environment.
    hidden = [directory / DATA_DIR, directory / SETTINGS_FILE, *([data] if data is not None else [])]
    hidden += [directory / Path(key).expanduser() for key in keys if key]
    hidden += [directory / file for one in settings.toolboxes.values() for file in one.secret_files]
    kind, _, rest = settings.openai.key.partition(":")
    hidden += [directory / rest] if kind == "file" else []
    listed = tuple(module for one in settings.toolboxes.values() for module in one.modules)
    believed = [POLICY, *settings.playbooks.paths, *settings.permits.trusted]
    believed += [settings.tls.certificate, settings.tls.clients, settings.auth.jwks]
    code = [directory / path for path in believed if path]
    for module in (*listed, settings.minds.proposer.rpartition(":")[0]):
        top = module.partition(".")[0]
        code += [directory / f"{top}.py", directory / top] if top else []
    return Profile(
        toolbox=name,
        may=toolbox.may,
        directory=directory,
        modules=tuple(toolbox.modules),
        listed=listed,
        env=toolbox.env,
        hidden=tuple(hidden),
        code=tuple(code),
        weakest=settings.sandbox.weakest,
    )
