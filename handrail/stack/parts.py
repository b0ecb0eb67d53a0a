"""The parts of a stack, each built from a project and a way to the broker."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from actors.agent import Agent
from actors.executor import Executor
from actors.models import PlanMaker, Proposer
from actors.models.function import FunctionProposer
from actors.models.lam.graduation import GraduatedProposer
from actors.models.lam.plans import LamPlans
from actors.models.lam.proposing import LamProposer
from actors.models.lam.serving import Serving
from actors.models.playbooks import PlaybookPlans
from actors.models.table import DecisionTable
from actors.planner import Planner
from actors.pool import AgentSpec, PoolSpec
from actors.verifier import Verifier
from bus import consumers
from bus.broker import CREDENTIALS_FILE, Credentials, EmbeddedBroker
from bus.directory import DataDirectory, usable, write_file
from bus.foreign import ForeignBroker
from bus.link import Link
from bus.log import NatsLog
from core.course import MIND_POOL
from core.decide import Catalogue
from core.permits import Checker, Signer
from core.ports import Consumer, Log
from handrail.person import KEY_ENV, TOKEN_ENV, TOKEN_FILE_ENV, whoami
from handrail.project import Project, Settings, limits_of, load_settings
from handrail.project import load as load_project
from handrail.secrets import Secrets
from handrail.settings import SETTINGS_FILE, ProjectError
from observability import environment, export, metrics, outlets, tracing
from observability.export import Exporter
from observability.metrics import Metrics
from orchestrator.decider import Decider
from orchestrator.tracer import Tracer
from workers.host import Worker
from workers.instance import Ended, Instance, nobody

if TYPE_CHECKING:
    from actors.models.openai.endpoint import Endpoint
    from handrail.keys import PrivateKey, PublicKeys
    from orchestrator.callers import Callers
    from orchestrator.gateway import Gateway, Tls
    from orchestrator.lag import Lag
    from orchestrator.notary import Notary

Broker = EmbeddedBroker | ForeignBroker
MIND_ROLES = ("planner", "executor", "verifier")
CREDENTIALS_ENV = "HANDRAIL_CREDENTIALS"
PERMIT_KEY_ENV = "HANDRAIL_PERMIT_KEY"
TRUSTED_KEYS_ENV = "HANDRAIL_TRUSTED_KEYS"
LISTING_FILE = "listing.sqlite"
NOTARY_DIR = "notary"
NOTARY_KEY_FILE, NOTARY_PUBLIC_FILE, NOTARY_ORIGIN_FILE = "key", "key.pub", "origin"

_logger = structlog.get_logger("stack")


@dataclass(frozen=True, slots=True)
class Way:
    """How one part reaches the broker: its url and its own user."""

    url: str
    credentials: Credentials
    shards: tuple[int, ...]

    async def open(self) -> NatsLog:
        """Connect."""
        return NatsLog(await self.link(), shards=self.shards)

    async def link(self) -> Link:
        """Connect, without a log."""
        who = self.credentials
        return await Link.connect(
            self.url, user=who.user, password=who.password, name=who.user, inbox_prefix=who.inbox_prefix
        )

    def dump(self) -> str:
        """Return it as text, for the environment of a child."""
        return json.dumps(
            {"url": self.url, "credentials": asdict(self.credentials), "shards": list(self.shards)}
        )

    @staticmethod
    def parse(text: str) -> Way:
        """Read what `dump` wrote."""
        said = json.loads(text)
        return Way(said["url"], Credentials(**said["credentials"]), tuple(said["shards"]))


def dump_ways(ways: Mapping[str, Way]) -> str:
    """Return the ways of a child's roles as text."""
    return json.dumps({role: one.dump() for role, one in ways.items()})


def ways() -> dict[str, Way]:
    """Return the ways that this child was given."""
    text = os.environ.get(CREDENTIALS_ENV, "{}")
    return {role: Way.parse(one) for role, one in json.loads(text).items()}


@dataclass(frozen=True, slots=True)
class Keys:
    """Who signs permits, and who is believed."""

    signer: PrivateKey
    checker: PublicKeys


def keys_of(settings: Settings, directory: DataDirectory, project_dir: Path) -> Keys:
    """Return the keys of a stack; the data directory's is made at its first start."""
    # Here and below, since it brings the cryptography: the other processes start without it.
    from handrail.keys import PrivateKey, PublicKeys, ensure, place

    named = settings.permits.key
    path = place(named, project_dir, directory.path)
    with usable(directory.path):
        signer = PrivateKey.read(path) if named else ensure(path)
    trusted = [project_dir / path for path in settings.permits.trusted]
    return Keys(signer, PublicKeys.read(trusted, signer.public))


def signer() -> PrivateKey:
    """Return the key that this child was given, and leave it to no child of its own."""
    from handrail.keys import PrivateKey

    return PrivateKey.parse(os.environ.pop(PERMIT_KEY_ENV, ""), PERMIT_KEY_ENV)


def checker() -> PublicKeys:
    """Return the keys that this child was told to believe."""
    from handrail.keys import PublicKeys

    return PublicKeys.parse(os.environ.get(TRUSTED_KEYS_ENV, ""), TRUSTED_KEYS_ENV)


def shards_of(settings: Settings) -> tuple[int, ...]:
    """Return the open shards."""
    return tuple(range(settings.broker.shards))


def pools_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return the pools of every role: the minds have one each, the workers one for each toolbox."""
    return {**dict.fromkeys(MIND_ROLES, (MIND_POOL,)), "worker": tuple(settings.toolboxes)}


def all_consumers(settings: Settings) -> tuple[Consumer, ...]:
    """Return every durable consumer of a stack."""
    return (
        consumers.decider(),
        consumers.ticks(),
        consumers.tracer(),
        consumers.mind("planner", MIND_POOL),
        consumers.mind("executor", MIND_POOL),
        consumers.verifier(MIND_POOL),
        *(consumers.worker(toolbox) for toolbox in settings.toolboxes),
    )


def broker_of(settings: Settings, directory: DataDirectory, project_dir: Path) -> Broker:
    """Return the broker that the project asks for: one of our own, unless it names another."""
    if settings.broker.url:
        return ForeignBroker(settings.broker.url, credentials_of(settings, project_dir, directory.path))
    relaxed, without = settings.broker.sync == "relaxed", secret_variables(settings)
    tenants = settings.gateway.tenants
    return EmbeddedBroker(directory, pools_of(settings), tenants=tenants, relaxed=relaxed, without=without)


def credentials_of(settings: Settings, project_dir: Path, data: Path) -> Path | None:
    """Return the file with the passwords at the broker; None where there are none."""
    if not settings.broker.url:
        return data / CREDENTIALS_FILE
    return project_dir / settings.broker.credentials if settings.broker.credentials else None


def way(broker: Broker, settings: Settings, role: str, pool: str = "") -> Way:
    """Return a role's way to the embedded broker."""
    return Way(broker.url, broker.credentials(role, pool), shards_of(settings))


def notary_place(settings: Settings, project_dir: Path, data: Path) -> Path:
    """Return the notary's directory."""
    named = settings.notary.path
    return project_dir / Path(named).expanduser() if named else data / NOTARY_DIR


def notary_keys(place: Path) -> Keys:
    """Return the keys of a notary's directory, which are made at the first start."""
    from handrail.keys import PrivateKey, PublicKeys, ensure
    from orchestrator.book import BadBook

    key, public, origin = (place / n for n in (NOTARY_KEY_FILE, NOTARY_PUBLIC_FILE, NOTARY_ORIGIN_FILE))
    with usable(place):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The origin last: where it is, or a book is, the others were.
        if not origin.exists() and not any(path.is_dir() for path in place.iterdir()):
            write_file(public, ensure(key).public)
            write_file(origin, f"{uuid.uuid4().hex}\n")
        gone = [path.name for path in (key, public, origin) if not path.exists()]
    keys = None if gone else Keys(PrivateKey.read(key), PublicKeys.read([public]))
    if keys is None or keys.signer.key_id not in keys.checker.key_ids:
        what = f"{' and '.join(gone)} gone" if gone else f"{key.name} is not the one of {public.name}"
        raise BadBook(
            f"The notary's directory {place} is damaged: {what}. Nothing goes on from there. Restore it from "
            "a backup; or, to go on with a notary that knows nothing of what was before, move it elsewhere."
        )
    return keys


def notary(link: Link, settings: Settings, place: Path, *, shards: tuple[int, ...] = ()) -> Notary:
    """Build the notary of a directory, for these shards or the open ones."""
    return notary_maker(settings, place, shards=shards)(link)


def notary_maker(
    settings: Settings, place: Path, *, shards: tuple[int, ...] = ()
) -> Callable[[Link], Notary]:
    """Return what builds the notary of a directory, with the keys and the origin that lie there now."""
    from orchestrator.notary import Notary

    keys = notary_keys(place)
    with usable(place):
        origin = (place / NOTARY_ORIGIN_FILE).read_text().strip()
    shards = shards or shards_of(settings)
    return lambda link: Notary(link, place, origin, keys.signer, keys.checker, shards=shards)


async def lags(link: Link, settings: Settings, place: Path) -> list[Lag]:
    """Return how far the notary of a directory is behind each stream."""
    from handrail.keys import PublicKeys
    from orchestrator import lag

    return await lag.lags(link, place, PublicKeys.read([place / NOTARY_PUBLIC_FILE]), shards_of(settings))


def own_tokens(data: Path) -> None:
    """Make a data directory's keys for tokens, and the token of whoever owns it."""
    from handrail import tokens

    tokens.LocalKeys(data).ensure()
    tokens.write_owner_token(data, whoami())


def callers(settings: Settings, project_dir: Path, data: Path) -> Callers:
    """Return who is believed about who calls."""
    from handrail.issuer import Issuer, Tokens
    from handrail.tokens import LocalKeys

    said, issuer = settings.auth, None
    if said.issuer:
        jwks = said.jwks if said.jwks.startswith("https://") else str(project_dir / said.jwks)
        issuer = Issuer(said.issuer, said.audience, jwks, said.roles_claim, said.tenant_claim)
    return Tokens(LocalKeys(data), issuer)


def tls_of(settings: Settings, project_dir: Path) -> Tls | None:
    """Return what the gateway proves itself with; raises ProjectError where it cannot be read."""
    from orchestrator.gateway import Tls

    said = settings.tls
    if not said.certificate:
        return None
    found = {}
    for name, file in (("certificate", said.certificate), ("key", said.key), ("clients", said.clients)):
        try:
            found[name] = (project_dir / file).read_bytes() if file else b""
        except OSError as error:
            raise ProjectError(project_dir, [f"{SETTINGS_FILE}: tls.{name}: {error}"]) from None
        if file and not found[name].strip():
            # Of `clients` it would mean that nobody needs a certificate.
            raise ProjectError(project_dir, [f"{SETTINGS_FILE}: tls.{name}: {file} is empty"])
    return Tls(**found)


def gateway(log: Log, project: Project, project_dir: Path, data: Path) -> Gateway:
    """Build the gateway; its listing and its keys for tokens lie in the data directory."""
    # Here, since it brings gRPC: every other process starts, and comes back, without it.
    from handrail.keys import PublicKeys
    from orchestrator.book import Shelf
    from orchestrator.gateway import Gateway
    from orchestrator.projection import Projection

    return Gateway(
        log,
        contracts=project.protos,
        limits=limits_of(project.settings),
        projection=Projection(data / LISTING_FILE, project.settings.gateway.tenants),
        tenants=project.settings.gateway.tenants,
        policy=project.policy,
        callers=callers(project.settings, project_dir, data),
        shelf=Shelf(notary_place(project.settings, project_dir, data), NOTARY_PUBLIC_FILE, PublicKeys.parse),
    )


def decider(log: Log, project: Project, signer: Signer, instance: str) -> Decider:
    """Build a decider."""
    catalogue = Catalogue(
        contracts=project.protos,
        limits=limits_of(project.settings),
        policy=project.policy,
        gate_life_ns=project.settings.gates.life_s * 1_000_000_000,
    )
    return Decider(log, catalogue, signer=signer, instance=instance)


def wants_tracer() -> bool:
    """Whether the environment wants any traces or metrics."""
    return environment.way("traces") != "none" or environment.way("metrics") != "none"


def tracer(
    log: NatsLog, settings: Settings, data_dir: Path, place: Path, instance: str, *, linger_s: float = 0.0
) -> tuple[Tracer, Exporter, Metrics]:
    """Build a tracer, with what it sends by, as the environment asks for; `place` is the notary's."""
    exporter, counted = export.exporter(data_dir), metrics.metrics(instance)
    content = environment.with_content()
    watched = all_consumers(settings)
    behind = partial(lags, log.link, settings, place)
    made = Tracer(
        log, exporter, counted, with_content=content, watched=watched, lags=behind, linger_s=linger_s
    )
    return made, exporter, counted


def worker(
    log: Log,
    project: Project,
    toolbox: str,
    checker: Checker,
    instance: Instance,
    ended: Ended = nobody,
) -> Worker:
    """Build a worker, in the environment that its toolbox asks for."""
    settings = project.settings.toolboxes[toolbox]
    own = {name: tool for name, tool in project.tools.items() if tool.contract.toolbox == toolbox}
    return Worker(
        log,
        own,
        toolbox=toolbox,
        instance=instance,
        checker=checker,
        concurrency=settings.concurrency,
        secrets=secrets_of(project.settings, project.directory, toolbox),
        ended=ended,
    )


def secrets_of(settings: Settings, project_dir: Path, toolbox: str) -> Secrets:
    """Return the secrets of a toolbox, by reference: whoever calls its tools resolves them."""
    return Secrets(toolbox, settings.toolboxes[toolbox].secrets, project_dir)


def endpoint_secrets(settings: Settings, project_dir: Path) -> Secrets:
    """Return the key of the endpoint that minds ask, by reference: whoever asks it resolves it."""
    return Secrets("", settings.openai.secrets, project_dir)


def has_secrets(settings: Settings, toolbox: str = "") -> bool:
    """Whether a toolbox has secrets, or any has, or the minds."""
    if not toolbox and settings.minds.asking and settings.openai.key:
        return True
    return any(box.secrets for name, box in settings.toolboxes.items() if toolbox in ("", name))


def meet_secrets(
    settings: Settings, project_dir: Path, toolboxes: Iterable[str], *, endpoint: bool = False
) -> None:
    """Resolve what there is of secrets, so that nothing of them is seen from now on."""
    for toolbox in toolboxes:
        if missing := secrets_of(settings, project_dir, toolbox).missing():
            _logger.warning("a secret is missing", toolbox=toolbox, reason=missing)
    if endpoint and settings.minds.asking and (missing := endpoint_secrets(settings, project_dir).missing()):
        _logger.warning("a secret is missing", reason=missing)


def secret_variables(settings: Settings, *, but: str = "", of: str = "") -> frozenset[str]:
    """Return the variables that hold secrets, without those of one toolbox, and of one role of the minds.

    What calls the tools has those of all toolboxes: the verifier.
    """
    boxes = {name: _variables(box.secrets) for name, box in settings.toolboxes.items()}
    endpoint = _variables(settings.openai.secrets)
    kept = boxes.get(but, frozenset())
    kept |= endpoint if of in settings.minds.asking else frozenset()
    kept |= frozenset().union(*boxes.values()) if of == "verifier" else frozenset()
    return endpoint.union(*boxes.values()) - kept


def _variables(references: Mapping[str, str]) -> frozenset[str]:
    return frozenset(one.removeprefix("env:") for one in references.values() if one.startswith("env:"))


def forget_callers_token() -> None:
    """Take the user's own token out of the environment: a tool would find it there, and no stack needs it."""
    for name in (TOKEN_ENV, TOKEN_FILE_ENV, KEY_ENV):
        os.environ.pop(name, None)


def set_environment(settings: Settings, toolboxes: Iterable[str]) -> None:
    """Set what toolboxes' tools find in their environment; what is set outside wins.

    Those that are shut in have one of their own.
    """
    for toolbox in toolboxes:
        if settings.toolboxes[toolbox].may is None:
            for name, value in settings.toolboxes[toolbox].env.items():
                os.environ.setdefault(name, value)


def mind(role: str, project: Project, checker: Checker, pool: str, instance: str) -> Agent:
    """Build a planner, an executor or a verifier."""
    lam = project.settings.lam
    place = project.directory / lam.path
    serving = Serving(
        place, project.protos, project.playbooks, lam.thresholds, lam.asks, lam.device, lam.batch
    )
    if role == "planner":
        maker = PlaybookPlans(project.playbooks, project.playbook_digests, _plan_maker(project, serving))
        return Planner(maker, pool=pool, instance=instance)
    if role == "executor":
        return Executor(DecisionTable(), _proposer(project, serving), pool=pool, instance=instance)
    secrets = {
        box: secrets_of(project.settings, project.directory, box) for box in project.settings.toolboxes
    }
    return Verifier(
        project.tools, project.protos, checker=checker, pool=pool, instance=instance, secrets=secrets
    )


def endpoint_of(settings: Settings, project_dir: Path) -> Endpoint:
    """Return the endpoint that a project names."""
    # Here and below, since few projects have one.
    from actors.models.openai.endpoint import Endpoint

    said, secrets = settings.openai, endpoint_secrets(settings, project_dir)
    return Endpoint(said.url, said.model, lambda: secrets.resolve().get("openai.key", ""), said.timeout_s)


def _plan_maker(project: Project, serving: Serving) -> PlanMaker:
    """Return what plans where no playbook has a phrase: the action model, one behind an endpoint, or both."""
    if "planner" not in project.settings.minds.asking:
        return LamPlans(serving)
    from actors.models.openai.minds import EndpointPlans

    endpoint = endpoint_of(project.settings, project.directory)
    bigger = EndpointPlans(endpoint, project.protos, project.playbooks, limits_of(project.settings))
    return bigger if project.settings.minds.planner == "openai" else LamPlans(serving, bigger)


def _proposer(project: Project, serving: Serving) -> Proposer | None:
    """Return what proposes: the action model, or another mind and the model for what has graduated."""
    if project.settings.minds.proposer == "lam":
        return LamProposer(serving)
    other: Proposer
    if project.settings.minds.proposer == "openai":
        from actors.models.openai.minds import EndpointProposer

        other = EndpointProposer(endpoint_of(project.settings, project.directory), project.protos)
    elif project.proposer is not None:
        other = FunctionProposer(project.proposer, project.proposer_sha256)
    else:
        return None
    return GraduatedProposer(serving, project.directory / project.settings.lam.path, other)


def mind_specs(
    settings: Settings, project_dir: Path, data: Path, ways: Mapping[str, Way], checker: PublicKeys
) -> list[AgentSpec]:
    """Return the slots of the minds' pools."""
    specs: list[AgentSpec] = []
    for role in MIND_ROLES:
        configured = getattr(settings.pools, role)
        pool = PoolSpec(role, MIND_POOL, configured.actors, configured.concurrency)
        specs += pool.slots(
            broker_url=ways[role].url,
            credentials={"way": ways[role].dump(), "trusted": checker.dump(), "data": str(data)},
            project_dir=str(project_dir),
        )
    return specs


async def build_agent_alone(spec: AgentSpec) -> tuple[Agent, Log]:
    """Build the agent of a slot in a process that is its own; the factory of Ray's host."""
    settings = load_settings(Path(spec.project_dir))
    for name in secret_variables(settings, of=spec.role):
        os.environ.pop(name, None)
    calls, asks = spec.role == "verifier", spec.role in settings.minds.asking
    if (calls or asks) and has_secrets(settings):
        outlets.guard_process()
        meet_secrets(settings, Path(spec.project_dir), settings.toolboxes if calls else (), endpoint=asks)
    return await build_agent(spec)


_projects: dict[str, Project] = {}


async def build_agent(spec: AgentSpec) -> tuple[Agent, Log]:
    """Build the agent of a slot, with a log of its own; the factory of both hosts."""
    project = _projects.get(spec.project_dir)
    if project is None:
        directory = Path(spec.project_dir)
        # A verifier's read tools look at the same world as the workers'.
        settings = load_settings(directory)
        set_environment(settings, settings.toolboxes)
        project = _projects[spec.project_dir] = load_project(directory, data=Path(spec.credentials["data"]))
    return await agent_of(project, spec)


async def agent_of(project: Project, spec: AgentSpec) -> tuple[Agent, Log]:
    """Build the agent of a slot for a project that is loaded here already."""
    from handrail.keys import PublicKeys

    checker = PublicKeys.parse(spec.credentials["trusted"], f"what {spec.name} was given")
    tracing.configure(spec.role, spec.name)
    log = await Way.parse(spec.credentials["way"]).open()
    return mind(spec.role, project, checker, spec.pool, spec.name), log
