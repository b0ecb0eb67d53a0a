"""What people write: settings, playbooks, policies, plans, conditions. Each is taken, or refused in words."""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from core import conditions, conformance, playbook, values
from core.conditions import ConditionError
from core.contracts import to_proto
from core.errors import HandrailError
from core.plan_form import BadPlanForm, plan_from_form
from core.slots import BadSlot
from handrail import policy_cases
from handrail.cli import options
from handrail.cli.exits import CommandError
from handrail.policy import load_policy, read_folder
from handrail.project import _load_playbook
from handrail.settings import SETTINGS_FILE, ProjectError, load_settings
from handrail.tool import tool
from handrail.v1 import event_pb2, tool_pb2
from tests.fuzz.campaign import Campaign, Trial
from tests.fuzz.mutate import TEXTS, Mutator, toml

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """
[project]
name = "shop"
[toolboxes.shop]
modules = ["tools", "shop.more"]
workers = 2
concurrency = 8
env = { SHOP_DB = "shop.db" }
secrets = { STRIPE_KEY = "env:STRIPE", MAIL = "file:mail.key", K = "kubernetes:shop/mail" }
[toolboxes.shop.may]
hosts = ["api.example.com:443", "*.example.com:443", "[::1]:80"]
read = ["data"]
write = ["out"]
cpu_s = 10
memory_mb = 256
processes = 8
[sandbox]
weakest = "none"
[pools.planner]
actors = 2
concurrency = 4
[minds]
proposer = "minds:propose"
[playbooks]
paths = ["playbooks", "more/one.yaml"]
[limits]
max_steps = 100
[gates]
life_s = 60
[broker]
sync = "relaxed"
shards = 2
url = "nats://broker:4222"
credentials = "credentials.json"
[permits]
key = "permits.key"
trusted = ["other.pem"]
[gateway]
listen = "0.0.0.0:7443"
[tls]
certificate = "tls.pem"
key = "tls.key"
clients = "ca.pem"
[auth]
issuer = "https://id.example.com"
audience = "handrail"
jwks = "https://id.example.com/jwks.json"
roles_claim = "roles"
tenant_claim = "tenant"
"""


@tool(effect="read")
def get_order(order_id: int) -> dict[str, Any]:
    """Look an order up."""
    return {"id": order_id}


@tool(effect="write", idempotency="keyed", key="key", critical=["to"])
def send_email(to: str, body: str, key: str) -> bool:
    """Write to somebody."""
    return True


CONTRACTS: dict[str, tool_pb2.ToolContract] = {
    one.contract.name: to_proto(one.contract.model_copy(update={"toolbox": "shop"}))
    for one in (get_order.__handrail_tool__, send_email.__handrail_tool__)  # type: ignore[attr-defined]
}
PLAN = {
    "title": "tell about an order",
    "steps": [
        {"id": "look", "tool": "get_order", "with": {"order_id": 7}, "timeout_s": 3.5, "max_attempts": 2},
        {
            "id": "tell",
            "tool": "send_email",
            "with": {"to": "$look.mail", "body": "hello $$", "key": "a"},
            "when": "look.id > 3 && size(look.items) < 9",
            "post": "tell == true",
            "after": ["look"],
        },
        {
            "id": "all",
            "tool": "get_order",
            "each": "$look.items",
            "each_limit": 4,
            "with": {"order_id": "$each.id"},
        },
        {"id": "one", "choose": [{"when": "look.id == 7", "tool": "get_order", "with": {"order_id": 1}}]},
        {
            "id": "free",
            "with": {},
            "grants": [{"tool": "send_email", "with": {"to": "x"}, "open": {"body": "size(value) < 9"}}],
        },
    ],
}
EXPRESSIONS = (
    "order.status == 'paid' && order.total >= 100",
    "items.all(i, i.paid || i.total < 3.5) && size(items) > 0",
    "items.exists(i, items.filter(k, k.id == i.id).size() > 1)",
    "text.matches('^[a-z]+(-[0-9]{1,3})*$') ? int(number) + 1 > 2 : !(text.startsWith(\"a\\n\"))",
    "timestamp('2026-01-31T00:00:00Z') < timestamp(day) - duration('36h') || day in ['a', r'b']",
    "{'a': 1, 'b': [1, 2u, 0x1F]}['a'] == -items[0].total % 7 // why",
)
SCOPE: dict[str, Any] = {
    "order": {"status": "paid", "total": 100, "id": 1},
    "items": [{"id": n, "paid": n % 2 == 0, "total": n} for n in range(9)],
    "text": "abc-12",
    "number": 3,
    "day": "2026-01-31T00:00:00Z",
}
WORDS = (
    *TEXTS,
    *(
        "items",
        "order",
        ".all(i,",
        ".exists(",
        ".filter(",
        ".map(",
        ".matches('",
        "(a+)+$",
        "&&",
        "||",
        "?:",
        " in ",
    ),
    *(
        "size(",
        "timestamp('",
        "duration('",
        "int(",
        "string(",
        "has(",
        "b'",
        "r'''",
        '"""',
        "9223372036854775808",
    ),
    *(
        "-9223372036854775808",
        "1u",
        "0x",
        "1e400",
        "//",
        "[0]",
        "['a']",
        "{1:2}",
        ".a",
        "getFullYear()",
        "% 0",
        "/ 0",
    ),
)


def _text_of(m: Mutator, text: str, document: dict[str, Any], write: Callable[[Any], str]) -> bytes:
    """Change a file as a document, as text, or as bytes."""
    kind = m.chance.random()
    if kind < 0.55:
        return write(m.value(document)).encode(errors="surrogatepass")
    if kind < 0.9:
        return m.text(text).encode(errors="surrogatepass")
    return m.data(text.encode())


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        yield Path(name)


@contextmanager
def settings() -> Iterator[Trial]:
    """`handrail.toml`: settings, or a ProjectError."""
    document = tomllib.loads(SETTINGS)
    with _folder() as folder:

        def check(given: bytes) -> None:
            (folder / SETTINGS_FILE).write_bytes(given)
            try:
                load_settings(folder)
            except ProjectError as error:
                str(error).encode()

        yield Trial(lambda m: _text_of(m, SETTINGS, document, toml), check)


@contextmanager
def playbooks() -> Iterator[Trial]:
    """Playbooks: problems in words, or one that can be checked, matched and made a plan of."""
    texts = [path.read_text() for path in sorted(ROOT.glob("examples/*/playbooks/*.yaml"))]
    documents = [yaml.safe_load(text) for text in texts]

    def make(m: Mutator) -> tuple[bytes, str]:
        at = m.chance.randrange(len(texts))
        goal = m.text(m.of(documents[at]["phrases"]).replace("{", "").replace("}", " 7 "))
        given = _text_of(m, texts[at], documents[at], lambda d: json.dumps(d) if m.maybe(0.5) else _yaml(d))
        return given, goal

    with _folder() as folder:
        path = folder / "one.yaml"

        def check(given: tuple[bytes, str]) -> None:
            path.write_bytes(given[0])
            problems: list[str] = []
            loaded = _load_playbook(path, path.name, problems)
            "\n".join(problems).encode()
            assert (loaded is None) == bool(problems)
            if loaded is None:
                return
            found, _ = loaded
            for violation in playbook.check(found, CONTRACTS):
                violation.SerializeToString()
            for goal in (given[1], *found.phrases):
                matched = playbook.match(goal, [found], {"note": "x"})
                if isinstance(matched, playbook.Match):
                    playbook.instantiate(found, matched.slots).SerializeToString()

        yield Trial(make, check)


def _yaml(document: Any) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


@contextmanager
def slots() -> Iterator[Trial]:
    """What a goal's words and context can put into a slot: its value, or a BadSlot."""
    kinds = ("integer", "text", "word", "money", "date", "email")
    samples = ("7", "hello there", "word", "12.50 EUR", "€1,250", "2026-01-31", "a.b@example.com")

    def make(m: Mutator) -> tuple[str, Any]:
        value = m.text(m.of(samples)) if m.maybe(0.7) else m.wild()
        return m.of(kinds), value

    def check(given: tuple[str, Any]) -> None:
        from core.slots import Slot

        slot = Slot(type=given[0])  # type: ignore[arg-type]
        try:
            slot.show(slot.accept(given[1]))
        except BadSlot as error:
            str(error)

    yield Trial(make, check)


@contextmanager
def policies() -> Iterator[Trial]:
    """A policy's folder: a policy whose cases can be run, or problems in words."""
    own = ROOT / "examples/backoffice/policy"
    texts = {name: (own / name).read_text() for name in ("rules.cedar", "people.toml", "cases.toml")}
    default = (ROOT / "handrail/default_policy/rules.cedar").read_text()
    documents = {name: tomllib.loads(texts[name]) for name in ("people.toml", "cases.toml")}

    def make(m: Mutator) -> tuple[str, bytes]:
        name = m.of(("rules.cedar", "rules.cedar", "people.toml", "cases.toml"))
        if name == "rules.cedar":
            return name, m.text(m.of((texts[name], default)), WORDS).encode(errors="surrogatepass")
        return name, _text_of(m, texts[name], documents[name], toml)

    with _folder() as folder:

        def check(given: tuple[str, bytes]) -> None:
            for name, text in texts.items():
                (folder / name).write_bytes(given[1] if name == given[0] else text.encode())
            problems: list[str] = []
            files = read_folder(folder, problems)
            try:
                policy = load_policy(folder, files, CONTRACTS.values())
            except ProjectError as error:
                str(error)
                return
            cases = policy_cases.read_cases(folder / "cases.toml", problems)
            wrong = policy_cases.check_cases(policy, cases)
            "\n".join([*problems, *wrong]).encode(errors="replace")
            known = [case for case in cases.case if not isinstance(case.tool, str) or case.tool in CONTRACTS]
            known = [case for case in known if case.now is None or case.now.tzinfo is not None]
            for outcome in policy_cases.run_cases(policy_cases.for_cases(policy, cases), known):
                policy_cases.told(outcome.ruling)

        yield Trial(make, check)


@contextmanager
def plans() -> Iterator[Trial]:
    """A file for `--plan`: a plan that is judged, or an error in words."""
    with _folder() as folder:

        def make(m: Mutator) -> tuple[str, bytes]:
            suffix = m.of((".json", ".yaml"))
            write = json.dumps if suffix == ".json" else _yaml
            return suffix, _text_of(m, write(PLAN), PLAN, write)

        def check(given: tuple[str, bytes]) -> None:
            path = folder / f"plan{given[0]}"
            path.write_bytes(given[1])
            try:
                form = options.read_plan(path)
                assert form is not None
                plan = plan_from_form(form)
            except (CommandError, BadPlanForm) as error:
                str(error)
                return
            plan.SerializeToString()
            goal = event_pb2.Goal(ceiling=tool_pb2.PERMISSION_ADMIN)
            limits = conformance.Limits(proposers=True)
            for violation in conformance.check_plan(plan, CONTRACTS, goal=goal, limits=limits):
                violation.SerializeToString()

        yield Trial(make, check)


@contextmanager
def cel() -> Iterator[Trial]:
    """Conditions: true or false, or a ConditionError, soon."""

    def make(m: Mutator) -> tuple[str, Any]:
        scope = m.value(SCOPE) if m.maybe(0.3) else SCOPE
        return m.text(m.of(EXPRESSIONS), WORDS), scope

    def check(given: tuple[str, Any]) -> None:
        expression, scope = given
        conditions.check(expression, SCOPE)
        conditions.variables(expression)
        try:
            conditions.holds(expression, scope if isinstance(scope, dict) else SCOPE)
        except ConditionError as error:
            str(error)
        try:
            values.encode(conditions.evaluate(expression, SCOPE))
        except HandrailError as error:
            str(error)

    yield Trial(make, check)


CAMPAIGNS = (
    Campaign("settings", 1.0, settings),
    Campaign("playbooks", 1.5, playbooks),
    Campaign("slots", 0.5, slots),
    Campaign("policies", 1.0, policies),
    Campaign("plans", 1.0, plans),
    Campaign("conditions", 1.0, cel),
)
