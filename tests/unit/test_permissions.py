"""The table of broker users, without a broker."""

from __future__ import annotations

import re

import pytest

from bus import permissions
from bus.permissions import User
from bus.subjects import BadSubject

POOLS = {
    "planner": ("default",),
    "executor": ("fast", "slow"),
    "worker": ("backoffice",),
    "verifier": ("default",),
}


def by_name() -> dict[str, User]:
    return {user.name: user for user in permissions.users(POOLS)}


def matches(pattern: str, subject: str) -> bool:
    translated = re.escape(pattern).replace(r"\*", r"[^.]+").replace(">", ".+")
    return re.fullmatch(translated, subject) is not None


def may_publish(user: User, subject: str) -> bool:
    allowed = any(matches(pattern, subject) for pattern in user.publish)
    return allowed and not any(matches(pattern, subject) for pattern in user.deny_publish)


def test_there_is_one_user_per_role_and_pool() -> None:
    assert list(by_name()) == [
        "admin",
        "gateway",
        "decider",
        "tracer",
        "notary",
        "planner-default",
        "executor-fast",
        "executor-slow",
        "worker-backoffice",
        "verifier-default",
    ]


def test_a_user_hears_its_own_inbox_and_of_keys_only() -> None:
    for name, user in by_name().items():
        if name not in ("admin", "gateway"):
            assert user.subscribe == (f"_INBOX_{name}.>", "heard.key.*.*.*")
    assert by_name()["gateway"].subscribe == ("_INBOX_gateway.>", "heard.key.*.*.*", "hb.>")


def test_only_admin_touches_streams() -> None:
    for verb in ("CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE"):
        may = [name for name, user in by_name().items() if may_publish(user, f"$JS.API.STREAM.{verb}.EV_0")]
        assert may == ["admin"]


@pytest.mark.parametrize("name", ["tracer", "notary"])
def test_who_only_reads_writes_nothing(name: str) -> None:
    for subject in (
        "ev.0.default.r.dec.note.finished",
        "ev.0.default.r.cmd.submit",
        "blob.0.x",
        "timer.arm.x",
    ):
        assert not may_publish(by_name()[name], subject)


def test_nobody_makes_a_consumer_whose_name_is_hidden_in_the_request() -> None:
    may = [name for name, user in by_name().items() if may_publish(user, "$JS.API.CONSUMER.CREATE.EV_0")]
    assert may == ["admin"]


@pytest.mark.parametrize(
    "consumer",
    [
        "EV_0.decider",
        "TIMER.ticks_0",
        "EV_0.tracer",
        "EV_0.planner-default",
        "EV_0.executor-slow",
        "EV_0.worker-backoffice",
    ],
)
def test_durable_consumers_are_pulled_by_their_own_user_only(consumer: str) -> None:
    owner = consumer.partition(".")[2].replace("ticks_0", "decider")
    for name, user in by_name().items():
        pulls = may_publish(user, f"$JS.API.CONSUMER.MSG.NEXT.{consumer}")
        assert pulls == (name in ("admin", owner))
        for acknowledgement in (f"$JS.ACK.{consumer}.1.2.3.4.5", f"$JS.ACK._.hash.{consumer}.1.2.3.4.5"):
            assert may_publish(user, acknowledgement) == (name in ("admin", owner))
        for change in ("CREATE", "DELETE"):
            assert may_publish(user, f"$JS.API.CONSUMER.{change}.{consumer}") == (name == "admin")
        assert may_publish(user, f"$JS.API.CONSUMER.CREATE.{consumer}.ev.0.>") == (name == "admin")


def test_the_second_layout_of_acknowledgements_opens_no_other_consumer_in_the_first() -> None:
    forged = "$JS.ACK.EV_0.decider.1.executor-fast.3.4.5"
    assert [name for name, user in by_name().items() if may_publish(user, forged)] == ["admin", "decider"]


def test_names_that_a_subject_cannot_hold_are_refused() -> None:
    for pool in ("a.b", "*", ">", "a b", "a\nb", ""):
        with pytest.raises(BadSubject):
            permissions.users({"worker": (pool,)})


def test_only_pooled_roles_have_pools() -> None:
    assert permissions.user_name("worker", "backoffice") == "worker-backoffice"
    for role, pool in (("gateway", "default"), ("planner", "")):
        with pytest.raises(ValueError, match="have pools"):
            permissions.user_name(role, pool)
    with pytest.raises(ValueError, match="'gateway' has no pools"):
        permissions.users({"gateway": ("default",)})


def test_the_configuration_quotes_subjects_so_that_none_is_read_as_a_variable() -> None:
    members = permissions.users(POOLS)
    text = permissions.render(members, {user.name: f"secret-of-{user.name}" for user in members})
    assert text.count("user: ") == len(members)
    assert 'password: "secret-of-executor-slow"' in text
    assert not re.search(r'(?<!")\$JS', text)


def test_the_documented_table_names_no_pool() -> None:
    text = permissions.markdown()
    assert "| `executor-<pool>` | `ev.*.*.*.ans.executor.<pool>.proposal.*`" in text
    assert len(text.splitlines()) == 2 + len(permissions.table())
