"""The tools of the simulation: one of each kind of contract. They act on whatever world is current."""

from __future__ import annotations

from core.contracts import to_proto
from core.decide import Catalogue
from handrail.tool import Tool, call, tool
from tests.simulation.world import Manner, World

BOX, LAB = "box", "lab"
_SEEN = {"seen": call("seen", who="args.who", n="args.n")}
_NONE = {"seen": call("seen", who="'nobody'", n="args.n")}
_HAPPENED = "reads.seen >= 1 && output == args.n"
_GONE = {"gone": call("gone", who="args.who", n="args.n")}
_UNDONE = "reads.gone >= 1"
_worlds: list[World] = []


def enter(world: World) -> None:
    """Let the tools act on this world."""
    _worlds[:] = [world]


def world() -> World:
    """Return the current world."""
    return _worlds[0]


@tool(effect="read", retry="transient", timeout_s=2.0)
async def numbers(count: int) -> list[int]:
    """Return so many numbers."""
    await world().read("numbers")
    return list(range(1, count + 1))


@tool(
    effect="read", retry="transient", reads=_NONE, post="reads.seen == 0 && output == args.n", timeout_s=2.0
)
async def look(n: int) -> int:
    """Return what it is given; judging it takes a while."""
    await world().read("look")
    return n


@tool(effect="read", retry="transient", timeout_s=2.0)
async def glance(n: int) -> int:
    """Return something else each time."""
    await world().read("glance")
    return world().glance(n)


@tool(effect="read", timeout_s=2.0)
async def story(n: int) -> str:
    """Return a long text."""
    await world().read("story")
    return "once upon a time " * (5_000 * n)


@tool(effect="read", timeout_s=2.0)
async def seen(who: str, n: int) -> int:
    """Return how often something was done."""
    await world().read("seen")
    return world().seen(who, n)


@tool(effect="read", timeout_s=2.0)
async def gone(who: str, n: int) -> int:
    """Return how often something was taken back."""
    await world().read("gone")
    return world().gone(who, n)


@tool(effect="read", timeout_s=2.0)
async def find(key: str) -> str | None:
    """Return what was done under a key."""
    await world().read("find")
    return world().found(key)


PUT = Manner("put", "keyed", judged=True, timeout_s=3.0)
HOLD = Manner("hold", "keyed", judged=False, timeout_s=2.0)
PLACE = Manner("place", "natural", judged=True, timeout_s=2.0)
SEND = Manner("send", "none", judged=True, timeout_s=2.0, settle_s=1.5)
MAIL = Manner("mail", "none", judged=False, timeout_s=2.0, settle_s=0.8)
FIRE = Manner("fire", "none", judged=False, timeout_s=2.0)
BOOK = Manner("book", "keyed", judged=True, timeout_s=3.0)
WIRE = Manner("wire", "keyed", judged=True, timeout_s=2.0)
WIRE_TOO = Manner("wire_too", "keyed", judged=True, timeout_s=2.0)
UNPUT = Manner("unput", "keyed", judged=True, timeout_s=2.0, undoes=True)
RELEASE = Manner("release", "keyed", judged=False, timeout_s=2.0, undoes=True)
DISPLACE = Manner("displace", "natural", judged=True, timeout_s=2.0, undoes=True)
UNBOOK = Manner("unbook", "none", judged=True, timeout_s=2.0, settle_s=1.0, undoes=True)
UNWIRE = Manner("unwire", "none", judged=False, timeout_s=2.0, undoes=True)


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    readback="find",
    undo=call("unput", who="args.who", n="output"),
    reads=_SEEN,
    post=_HAPPENED,
    timeout_s=PUT.timeout_s,
)
async def put(who: str, n: int, key: str) -> int:
    """Put something somewhere, once for each key; can be judged and read back."""
    return await world().act(PUT, who, n, key)


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    undo=call("release", who="args.who", n="args.n"),
    timeout_s=HOLD.timeout_s,
)
async def hold(who: str, n: int, key: str) -> int:
    """Hold something, once for each key; nothing tells whether it happened."""
    return await world().act(HOLD, who, n, key)


@tool(
    effect="write",
    idempotency="natural",
    undo=call("displace", who="args.who", n="args.n", was="reads.seen"),
    reads=_SEEN,
    post=_HAPPENED,
    timeout_s=PLACE.timeout_s,
)
async def place(who: str, n: int) -> int:
    """Place something: twice is once."""
    return await world().act(PLACE, who, n)


@tool(
    effect="irreversible",
    idempotency="none",
    key="key",
    readback="find",
    settle_s=SEND.settle_s,
    reads=_SEEN,
    post=_HAPPENED,
    timeout_s=SEND.timeout_s,
)
async def send(who: str, n: int, key: str) -> int:
    """Send something, each time again; can be judged and read back."""
    return await world().act(SEND, who, n, key)


@tool(
    effect="irreversible",
    idempotency="none",
    key="key",
    readback="find",
    settle_s=MAIL.settle_s,
    timeout_s=MAIL.timeout_s,
)
async def mail(who: str, n: int, key: str) -> int:
    """Send something, each time again; can be read back."""
    return await world().act(MAIL, who, n, key)


@tool(effect="irreversible", idempotency="none", doubt=True, timeout_s=FIRE.timeout_s)
async def fire(who: str, n: int) -> int:
    """Do something, each time again, of which nothing can tell."""
    return await world().act(FIRE, who, n)


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    readback="find",
    undo=call("unbook", who="args.who", n="args.n"),
    reads=_SEEN,
    pre="reads.seen == 0",
    post="reads.seen == 1",
    timeout_s=BOOK.timeout_s,
)
async def book(who: str, n: int, key: str) -> int:
    """Book something that must be free."""
    return await world().act(BOOK, who, n, key)


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    undo=call("unwire", who="args.who", n="output"),
    reads=_SEEN,
    post=_HAPPENED,
    capability="wire",
    timeout_s=WIRE.timeout_s,
)
async def wire(who: str, n: int, key: str) -> int:
    """Wire something; another tool can stand in for it."""
    return await world().act(WIRE, who, n, key)


@tool(
    effect="write",
    idempotency="keyed",
    key="key",
    reads=_SEEN,
    post=_HAPPENED,
    capability="wire",
    timeout_s=WIRE_TOO.timeout_s,
)
async def wire_too(who: str, n: int, key: str) -> int:
    """Wire something in another way."""
    return await world().act(WIRE_TOO, who, n, key)


@tool(effect="write", idempotency="keyed", key="key", reads=_GONE, post=_UNDONE, timeout_s=UNPUT.timeout_s)
async def unput(who: str, n: int, key: str) -> int:
    """Take back what was put, once for each key."""
    return await world().act(UNPUT, who, n, key)


@tool(effect="write", idempotency="keyed", key="key", timeout_s=RELEASE.timeout_s)
async def release(who: str, n: int, key: str) -> int:
    """Release what is held, once for each key; nothing tells whether it happened."""
    return await world().act(RELEASE, who, n, key)


@tool(effect="write", idempotency="natural", reads=_GONE, post=_UNDONE, timeout_s=DISPLACE.timeout_s)
async def displace(who: str, n: int, was: int) -> int:
    """Have a place as it was: twice is once."""
    return await world().act(DISPLACE, who, n, was=was)


@tool(
    effect="write",
    idempotency="none",
    key="key",
    readback="find",
    settle_s=UNBOOK.settle_s,
    reads=_GONE,
    post=_UNDONE,
    timeout_s=UNBOOK.timeout_s,
)
async def unbook(who: str, n: int, key: str) -> int:
    """Cancel a booking, each time again; can be judged and read back."""
    return await world().act(UNBOOK, who, n, key)


@tool(effect="write", idempotency="none", doubt=True, timeout_s=UNWIRE.timeout_s)
async def unwire(who: str, n: int) -> int:
    """Wire something back, each time again, of which nothing can tell."""
    return await world().act(UNWIRE, who, n)


def _of(toolbox: str, *functions: object) -> list[Tool]:
    return [f.__handrail_tool__.with_toolbox(toolbox) for f in functions]  # type: ignore[attr-defined]


TOOLS: dict[str, Tool] = {
    t.contract.name: t
    for t in (
        *_of(BOX, numbers, seen, gone, find, put, place, send, book, wire, unput, displace, unbook),
        *_of(LAB, look, glance, story, hold, mail, fire, wire_too, release, unwire),
    )
}
CONTRACTS = {name: to_proto(t.contract) for name, t in TOOLS.items()}
# A doubt comes to its end within a seed.
CATALOGUE = Catalogue(contracts=CONTRACTS, gate_life_ns=600_000_000_000)
UNDOES = ("unput", "release", "displace", "unbook", "unwire")
"""What takes back, and no plan asks for."""
UNDOABLE = tuple(name for name, t in TOOLS.items() if t.contract.undo)
EFFECTS = tuple(name for name, t in TOOLS.items() if t.contract.has_effect and name not in UNDOES)


def toolbox(name: str) -> dict[str, Tool]:
    """Return the tools of a toolbox by name."""
    return {n: t for n, t in TOOLS.items() if t.contract.toolbox == name}
