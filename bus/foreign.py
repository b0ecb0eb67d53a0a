"""A broker that somebody else runs: looked at before it is used, and never started or stopped.

That it was away is noticed by a connection of the administrator's. Nobody can be kept from it meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from nats.aio.msg import Msg

from bus.broker import Credentials
from bus.link import Link
from bus.permissions import ADMIN, inbox_prefix, user_name
from bus.probe import BrokerError, check_foreign


class ForeignBroker:
    """The same face as `EmbeddedBroker`, for a broker at a url."""

    def __init__(self, url: str, credentials: Path | None = None) -> None:
        """`credentials` is a JSON object of passwords by user; without one nobody signs in."""
        self._url = url
        self._passwords = _read(credentials) if credentials is not None else None
        self._link: Link | None = None
        self._lost = asyncio.Event()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self._url

    @property
    def pid(self) -> int | None:
        """Not a process of ours."""
        return None

    def credentials(self, role: str, pool: str = "") -> Credentials:
        """Return how a role (and pool) signs in."""
        name = user_name(role, pool)
        if self._passwords is None:
            return Credentials("", "", inbox_prefix(name))
        if name not in self._passwords:
            raise BrokerError(f"the credentials have no password of user {name!r}: add it to the file")
        return Credentials(name, self._passwords[name], inbox_prefix(name))

    async def start(self, inspect: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Make sure that what answers is a broker that will do, by `inspect` too; again when it was away."""
        await self.stop()
        who = self.credentials(ADMIN)
        await check_foreign(self._url, user=who.user or None, password=who.password or None)
        if inspect is None:
            return
        try:
            # Before the look at it: one that goes while it is looked at was away.
            await self._watch(who)
            await inspect()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Leave it alone, and watch it no longer."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def mend(self) -> None:
        """Leave it alone: whoever runs it sees to its disk."""

    async def wait(self) -> int:
        """Wait until it was away: what comes back may have another log. At once where nobody watches it."""
        if self._link is not None:
            await self._lost.wait()
        return 0

    async def _watch(self, who: Credentials) -> None:
        lost = self._lost = asyncio.Event()
        self._link = await Link.connect(
            self._url, user=who.user, password=who.password, name=ADMIN, inbox_prefix=who.inbox_prefix
        )
        await self._link.subscribe(_ignore, lambda _: lost.set(), lambda _: False)


async def _ignore(_: Msg) -> None:
    pass


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise BrokerError(f"the broker's credentials in {path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise BrokerError(f"{path} must be a JSON object of passwords by user name")
    return found
