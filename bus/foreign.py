"""A broker that somebody else runs: looked at before it is used, and never started or stopped."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from bus.broker import Credentials
from bus.permissions import inbox_prefix, user_name
from bus.probe import BrokerError, check_foreign


class ForeignBroker:
    """The same face as `EmbeddedBroker`, for a broker at a url."""

    def __init__(self, url: str, credentials: Path | None = None) -> None:
        """`credentials` is a JSON object of passwords by user; without one nobody signs in."""
        self._url = url
        self._passwords = _read(credentials) if credentials is not None else None

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

    async def start(self) -> None:
        """Make sure that what answers is a broker that will do."""
        who = self.credentials("admin")
        await check_foreign(self._url, user=who.user or None, password=who.password or None)

    async def stop(self) -> None:
        """Leave it alone."""

    async def mend(self) -> None:
        """Leave it alone: whoever runs it sees to its disk."""

    async def wait(self) -> int:
        """Wait for ever: its end is not ours to notice."""
        never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await never


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise BrokerError(f"the broker's credentials in {path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise BrokerError(f"{path} must be a JSON object of passwords by user name")
    return found
