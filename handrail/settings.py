"""Settings: what `handrail.toml` says, every section of it optional, every mistake in it told at once.

Reading them imports none of the project's own modules.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.caller import TENANT
from core.errors import HandrailError
from core.spelling import hint

SETTINGS_FILE = "handrail.toml"
MAX_SETTINGS_BYTES = 1024 * 1024
MAX_PROBLEMS = 50
MAX_KEY_PARTS = 1_000
MAX_SECRETS = 64
"""Of one toolbox."""

# A worker's claim is fenced on every subject with its pool and attempt: were a toolbox called like the minds'
# pool, a mind could write on such a subject, and keep the worker from ever claiming anything.
MINDS_POOL = "main"
_NO_KEY = re.compile(r"[=,{}\[\]\n]")
_TOOLBOX = re.compile(rf"(?!{MINDS_POOL}$)[a-z][a-z0-9_]{{0,31}}")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_FUNCTION = re.compile(rf"{_MODULE.pattern}:[A-Za-z_][A-Za-z0-9_]*")
_SOURCE = re.compile(r"https://[^\s]+|(?![A-Za-z][A-Za-z0-9+.-]*://)[^\s][^\n]*")
MAX_TENANTS = 1_000
"""That one gateway serves, unless it serves all."""
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?):[0-9]{1,5}")
_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_REFERENCE = re.compile(
    r"env:(?!HANDRAIL_)[A-Za-z_][A-Za-z0-9_]*|file:[^\0\n]+"
    r"|kubernetes:[a-z0-9][a-z0-9.-]{0,252}/(?!\.\.?$)[A-Za-z0-9._-]{1,253}"
)
_MODEL = re.compile(r"[!-~]{1,150}")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")


class ProjectError(HandrailError):
    """A project that cannot be used; `problems` lists why, each naming its file."""

    def __init__(self, directory: Path, problems: Sequence[str]) -> None:
        shown = list(problems[:MAX_PROBLEMS])
        if len(problems) > len(shown):
            shown.append(f"... and {len(problems) - len(shown)} more")
        super().__init__(f"the project in {directory} cannot be used:\n" + "\n".join(f"  {p}" for p in shown))
        self.directory = directory
        self.problems = tuple(problems)


class BadToml(HandrailError):
    """A text that is not TOML, or that would take too long to read."""


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def validate(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{text!r} is not {what}")
        return text

    return AfterValidator(validate)


def _reference(text: str) -> str:
    # It is not shown: somebody may have written the secret itself.
    if not _REFERENCE.fullmatch(text):
        raise ValueError(
            "this is no reference to a secret: write env:VARIABLE (none of HANDRAIL_...), file:PATH or "
            "kubernetes:SECRET/KEY, and never the secret itself"
        )
    return text


def _endpoint_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not text.isascii() or not text.isprintable() or " " in text or len(text) > 1_000:
        raise ValueError(f"{text!r:.100} is not an address like https://models.example.com/v1")
    if parts.username is not None or parts.query or parts.fragment:
        # It is not shown: what stands there may be a secret.
        raise ValueError("an address has neither a user nor a query here; a key stands in openai.key")
    return text.rstrip("/")


_ToolboxName = Annotated[
    str,
    _matching(
        _TOOLBOX, f"a toolbox's name: lower case letters, digits and '_', to 32, and not '{MINDS_POOL}'"
    ),
]
_SecretName = Annotated[
    str, _matching(_SECRET_NAME, "a secret's name: letters, digits and '_', to 63, like STRIPE_KEY")
]
_Reference = Annotated[str, AfterValidator(_reference)]
_ModuleName = Annotated[str, _matching(_MODULE, "a module's name, like tools or shop.tools")]
_FunctionName = Annotated[str, _matching(_FUNCTION, "a function of a module, like minds:propose")]
_Jwks = Annotated[str, _matching(_SOURCE, "a file, or an https address")]
_Host = Annotated[str, _matching(_HOST, "a host and port, like api.example.com:443 or *.example.com:443")]
_Path = Annotated[str, Field(min_length=1, max_length=1_000)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Tenant = Annotated[str, _matching(TENANT, "a tenant's name: letters, digits, '_' and '-'")]
_Listen = Annotated[str, _matching(_ADDRESS, "an address to listen on, like 127.0.0.1:0")]
_Model = Annotated[str, _matching(_MODEL, "a model's name: to 150 characters of ASCII, and no space")]
_EndpointUrl = Annotated[str, AfterValidator(_endpoint_url)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ProjectSettings(_Section):
    """[project]"""

    name: Annotated[str, Field(max_length=100)] = ""


class MaySettings(_Section):
    """[toolboxes.NAME.may]: shuts the toolbox's tools in, and says what they may touch.

    They can read the project's files (not the hidden ones, nor the data directory), and paths listed.
    The bounds are those of one call and all its processes; its time is the tool's `timeout_s`.
    """

    hosts: Annotated[list[_Host], Field(max_length=100)] = []
    read: Annotated[list[_Path], Field(max_length=100)] = []
    write: Annotated[list[_Path], Field(max_length=100)] = []
    cpu_s: Annotated[int, Field(ge=1, le=3_600)] = 60
    memory_mb: Annotated[int, Field(ge=64, le=1_048_576)] = 1_024
    processes: Annotated[int, Field(ge=1, le=10_000)] = 64


class ToolboxSettings(_Section):
    """[toolboxes.NAME]: modules with tools, and the workers that host them; `env` is for them only.

    `secrets` says where the secrets of its tools are, each by its name.
    """

    modules: Annotated[list[_ModuleName], Field(min_length=1, max_length=100)]
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    concurrency: Annotated[int, Field(ge=1, le=1_000)] = 8
    env: dict[str, str] = {}
    secrets: Annotated[dict[_SecretName, _Reference], Field(max_length=MAX_SECRETS)] = {}
    may: MaySettings | None = None

    @property
    def secret_files(self) -> list[str]:
        """The files that its secrets are in."""
        return [rest for kind, _, rest in (r.partition(":") for r in self.secrets.values()) if kind == "file"]


class SandboxSettings(_Section):
    """[sandbox]: the weakest mechanism that will do for toolboxes with a `may`; "none" runs them open."""

    weakest: Literal["bubblewrap", "landlock", "none"] = "landlock"


class PoolSettings(_Section):
    """[pools.ROLE]: how many agents, and how much each takes on at a time."""

    actors: Annotated[int, Field(ge=1, le=64)] = 1
    concurrency: Annotated[int, Field(ge=1, le=1_000)] = 16


class PoolsSettings(_Section):
    """[pools]"""

    planner: PoolSettings = PoolSettings()
    executor: PoolSettings = PoolSettings()
    verifier: PoolSettings = PoolSettings()


class MindsSettings(_Section):
    """[minds]: `proposer` proposes actions: "lam", the action model, "openai", a model behind an endpoint, or
    a function of the project's, "module:function". `planner` plans goals that no playbook has a phrase for:
    the action model, unless it is "openai", or "lam, openai", one where the other is not sure enough.

    A proposer gets what a step was given and granted, runs in the executors, and is believed nothing.
    """

    planner: Literal["", "lam", "openai", "lam, openai"] = ""
    proposer: _FunctionName | Literal["", "lam", "openai"] = ""

    @property
    def asking(self) -> frozenset[str]:
        """The roles that ask an endpoint."""
        named = {"planner": self.planner, "executor": self.proposer}
        return frozenset(role for role, mind in named.items() if mind.split(", ")[-1] == "openai")


class OpenAISettings(_Section):
    """[openai]: a model behind an endpoint that speaks OpenAI's protocol and answers with tool calls.

    `key` says where its key is, never what it is; `timeout_s` is the time for one question.
    """

    url: _EndpointUrl | Literal[""] = ""
    model: _Model | Literal[""] = ""
    key: _Reference | Literal[""] = ""
    timeout_s: Annotated[float, Field(ge=0.1, le=240)] = 30.0

    @property
    def secrets(self) -> dict[str, str]:
        """Where its key is, by the name that the key has here."""
        return {"openai.key": self.key} if self.key else {}

    @model_validator(mode="after")
    def _whole(self) -> OpenAISettings:
        if bool(self.url) != bool(self.model) or (self.key and not self.url):
            raise ValueError("url and model go together, and key with them")
        if self.key and self.url.startswith("http:") and not _is_local(str(urlsplit(self.url).hostname)):
            raise ValueError("a key goes to another machine by https only; correct url, or leave key out")
        return self


class LamSettings(_Section):
    """[lam]: the action model, which plans goals in people's own words.

    `path` is a folder of models, in which `champions` says which one serves; `goals` one of goals by which it
    is measured and on which it is never trained. Where it is less sure than it has to be, but surer than
    `asks`, somebody is asked whether that is meant. A kind of step graduates to it from another mind where
    certainly so much of what it would do is the same: `graduates`. It reads in NumPy, or with torch on the
    `device` that is named ("cuda"), and up to `batch` goals and steps at once. The rest is how sure it has to
    be of what only reads, drafts, writes, or cannot be undone; 0 is what the model's card says.
    """

    path: str = "lam"
    goals: str = "goals"
    asks: _Share = 0.5
    graduates: _Share = 0.95
    device: str = ""
    batch: Annotated[int, Field(ge=1, le=256)] = 1
    read: _Share = 0.0
    draft: _Share = 0.0
    write: _Share = 0.0
    irreversible: _Share = 0.0

    @property
    def thresholds(self) -> dict[str, float]:
        """How sure it has to be, by effect, where that was said."""
        said = {name: getattr(self, name) for name in ("read", "draft", "write", "irreversible")}
        return {name: share for name, share in said.items() if share}


class PlaybooksSettings(_Section):
    """[playbooks]: files, or directories of them."""

    paths: Annotated[list[str], Field(max_length=100)] = ["playbooks"]


class LimitsSettings(_Section):
    """[limits]"""

    max_steps: Annotated[int, Field(ge=1, le=10_000)] = 1_000


class GatesSettings(_Section):
    """[gates]: how long a gate is open before nobody's answer is a no."""

    life_s: Annotated[int, Field(ge=1, le=30 * 24 * 3_600)] = 24 * 3_600


class BrokerSettings(_Section):
    """[broker]: `sync` "relaxed" is faster and can lose the last moments when the machine loses power.

    `url` is a broker that somebody else runs, and `credentials` a JSON file with the password of each of
    its users (`admin`, `gateway`, `decider`, `worker-TOOLBOX` ...); without one nobody signs in.
    """

    sync: Literal["always", "relaxed"] = "always"
    shards: Annotated[int, Field(ge=1, le=64)] = 4
    url: str = ""
    credentials: str = ""


class PermitsSettings(_Section):
    """[permits]: `key` is a file with the decider's private key; without it the data directory has one.

    `trusted` are files with public keys of other deciders, which workers and verifiers believe too.
    """

    key: str = ""
    trusted: Annotated[list[str], Field(max_length=64)] = []


class NotarySettings(_Section):
    """[notary]: `path` is its directory, on another volume at best; else it lies in the data directory."""

    path: str = ""


class GatewaySettings(_Section):
    """[gateway]: an address that other machines can reach needs [tls]."""

    listen: _Listen = "127.0.0.1:0"
    # Those that it serves; without any all of them.
    tenants: Annotated[list[_Tenant], Field(max_length=MAX_TENANTS)] = []


class TlsSettings(_Section):
    """[tls]: the gateway's PEM files; with `clients`, an authority, whoever connects needs a certificate."""

    certificate: str = ""
    key: str = ""
    clients: str = ""

    @model_validator(mode="after")
    def _whole(self) -> TlsSettings:
        if bool(self.certificate) != bool(self.key) or (self.clients and not self.key):
            raise ValueError("certificate and key go together, and clients with them")
        return self


class AuthSettings(_Section):
    """[auth]: who else's tokens are believed; those of the data directory's own keys always are.

    `jwks` is a file or an https address with the issuer's keys; roles and tenant stand in the claims named.
    """

    issuer: Annotated[str, Field(max_length=500)] = ""
    audience: Annotated[str, Field(min_length=1, max_length=500)] = "handrail"
    jwks: _Jwks | Literal[""] = ""
    roles_claim: Annotated[str, Field(min_length=1, max_length=200)] = "roles"
    tenant_claim: Annotated[str, Field(min_length=1, max_length=200)] = "tenant"

    @model_validator(mode="after")
    def _whole(self) -> AuthSettings:
        if bool(self.issuer) != bool(self.jwks):
            raise ValueError("issuer and jwks go together")
        return self


class Settings(_Section):
    """The whole of `handrail.toml`."""

    project: ProjectSettings = ProjectSettings()
    toolboxes: dict[_ToolboxName, ToolboxSettings] = {}
    pools: PoolsSettings = PoolsSettings()
    minds: MindsSettings = MindsSettings()
    lam: LamSettings = LamSettings()
    openai: OpenAISettings = OpenAISettings()
    playbooks: PlaybooksSettings = PlaybooksSettings()
    limits: LimitsSettings = LimitsSettings()
    gates: GatesSettings = GatesSettings()
    broker: BrokerSettings = BrokerSettings()
    permits: PermitsSettings = PermitsSettings()
    gateway: GatewaySettings = GatewaySettings()
    tls: TlsSettings = TlsSettings()
    auth: AuthSettings = AuthSettings()
    notary: NotarySettings = NotarySettings()
    sandbox: SandboxSettings = SandboxSettings()

    @model_validator(mode="after")
    def _named(self) -> Settings:
        if self.minds.asking and not self.openai.url:
            raise ValueError("minds: openai is named: [openai] has to say its url and model")
        return self


def load_settings(directory: Path) -> Settings:
    """Read the settings of a project; raises ProjectError with everything that is wrong with them."""
    path = directory / SETTINGS_FILE
    try:
        text = read_text(path, MAX_SETTINGS_BYTES)
    except FileNotFoundError:
        why = f"there is no {SETTINGS_FILE}; `handrail init {directory}` makes a project to start from"
        raise ProjectError(directory, [why]) from None
    except (OSError, ValueError) as error:
        raise ProjectError(directory, [f"{SETTINGS_FILE} cannot be read: {error}"]) from None
    try:
        return Settings.model_validate(read_toml(text))
    except BadToml as error:
        raise ProjectError(directory, [f"{SETTINGS_FILE} is not TOML: {error}"]) from None
    except ValidationError as error:
        raise ProjectError(directory, [f"{SETTINGS_FILE}: {p}" for p in explain(error, Settings)]) from None


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_text(path: Path, max_bytes: int) -> str:
    """Read a text file of bounded size; too large, or not UTF-8, is a ValueError."""
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    return content.decode()


def read_toml(text: str) -> dict[str, Any]:
    """Return the data of a TOML document; raises BadToml for whatever is wrong with it."""
    # A key of n parts takes the square of n to read, and as much room.
    pieces = _NO_KEY.split(text.replace(" ", "").replace("\t", ""))
    if any(piece.count(".") > MAX_KEY_PARTS for piece in pieces):
        raise BadToml(f"there are more than {MAX_KEY_PARTS} dots in one key or value")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Also for a number with thousands of digits, and for lists in lists without end.
        raise BadToml(str(error)) from None


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return what pydantic found wrong, a line each; an unknown key comes with the nearest known one."""
    problems: list[str] = []
    for found in error.errors(include_url=False, include_context=False):
        location = tuple(part for part in found["loc"] if part != "[key]")
        where = _path(location)
        if found["type"] == "extra_forbidden":
            known = _keys(model, location[:-1])
            of = f" of {_path(location[:-1])}" if location[:-1] else ""
            problems.append(f"'{location[-1]}' is not a key{of}{hint(str(location[-1]), known)}")
        else:
            message = found["msg"].removeprefix("Value error, ")
            problems.append(f"{where}: {message}" if where else message)
    return problems


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).removeprefix(".")


def _keys(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that there are at a place in a document, as its model has them."""
    for part in location:
        if isinstance(model, type) and issubclass(model, BaseModel):
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            model = fields[str(part)].annotation if part in fields else None
        elif get_origin(model) in (dict, list, tuple):
            model = get_args(model)[-1] if get_origin(model) is not tuple else get_args(model)[0]
        if get_origin(model) is Annotated:
            model = get_args(model)[0]
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [field.alias or name for name, field in model.model_fields.items()]
    return []
