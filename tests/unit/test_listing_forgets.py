"""The listing's files after runs were forgotten: no page keeps what their goals said."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path

from bus.subjects import run_key
from core.ports import Address, Channel, Record, RunKey
from handrail.v1 import event_pb2
from orchestrator.projection import DISCARDED, Projection

RUNS, FORGOTTEN = 1_000, 600
LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"


def test_no_file_keeps_what_a_forgotten_goal_said(tmp_path: Path) -> None:
    chance, numbers, path = random.Random(1), count(1), tmp_path / "listing.sqlite"
    listing = Projection(path)

    def hear(key: RunKey, channel: Channel, topic: tuple[str, ...], event: event_pb2.Event) -> None:
        number = next(numbers)
        listing._apply(0, Record(number, number, Address(key, channel, topic), event))

    keys = []
    for number in range(RUNS):
        # Not in the order of their names, so that pages are split and what is on them moves.
        key = run_key("r0-" + "".join(chance.choices(LETTERS, k=26)), "acme")
        keys.append(key)
        text = f"CANARY-{number}- {'y' * chance.randrange(400)}"
        goal = event_pb2.Goal(text=text, submitter=f"SOMEBODY-{number}-")
        hear(key, "cmd", ("submit",), event_pb2.Event(id="s", submit=event_pb2.Submit(goal=goal)))
        gate = event_pb2.GateOpened(gate="g", step=text)
        hear(key, "dec", ("note", "gate_opened"), event_pb2.Event(id="g", gate_opened=gate))
        end = event_pb2.Finished(status=event_pb2.RUN_STATUS_DONE)
        hear(key, "dec", ("note", "finished"), event_pb2.Event(id="f", finished=end))
    listing._commit()
    Path(f"{path}{DISCARDED}").write_text("CANARY-0-")
    gone = chance.sample(range(RUNS), FORGOTTEN)
    for number in gone:
        left = event_pb2.Forgotten(status=event_pb2.RUN_STATUS_DONE)
        hear(keys[number], "dec", ("note", "forgotten"), event_pb2.Event(id="l", forgotten=left))
    listing._commit()
    text = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert [n for n in gone if b"CANARY-%d-" % n in text or b"SOMEBODY-%d-" % n in text] == []
    kept = set(range(RUNS)) - set(gone)
    assert [n for n in kept if b"CANARY-%d-" % n not in text] == []
    listing.close()


def test_a_gate_is_gone_whose_end_was_not_heard_while_it_could_be_read(tmp_path: Path) -> None:
    path, key = tmp_path / "listing.sqlite", run_key("r0-" + "0" * 26, "acme")
    goal = event_pb2.Goal(text="CANARY")
    left = event_pb2.Forgotten(status=event_pb2.RUN_STATUS_DONE)
    events: list[tuple[Channel, tuple[str, ...], event_pb2.Event | None]] = [
        ("cmd", ("submit",), event_pb2.Event(id="s", submit=event_pb2.Submit(goal=goal))),
        ("dec", ("note", "gate_opened"), event_pb2.Event(id="g", gate_opened=event_pb2.GateOpened(gate="g"))),
        ("dec", ("note", "finished"), None),
        ("dec", ("note", "forgotten"), event_pb2.Event(id="l", forgotten=left)),
    ]
    listing = Projection(path)
    for number, (channel, topic, event) in enumerate(events, start=1):
        forgotten = event is None
        listing._apply(0, Record(number, number, Address(key, channel, topic), event, forgotten=forgotten))
    listing._commit()
    assert listing._db.execute("SELECT count(*) FROM gate").fetchone() == (0,)
    assert listing._db.execute("SELECT gates, goal FROM run").fetchall() == [(0, "")]
    assert b"CANARY" not in path.read_bytes()
    listing.close()
