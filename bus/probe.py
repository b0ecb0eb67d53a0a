"""Looks at a broker from outside: what it says of itself, and whether it can carry the log.

Every way in which a configured url can be wrong has an error of its own that says so.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

import nats
import nats.errors
import nats.js.errors

from bus.permissions import inbox_prefix
from core.errors import HandrailError

MAX_INFO_BYTES = 64 << 10
CONNECT_TIMEOUT_S = 3.0
MIN_VERSION = (2, 12)
DEFAULT_PORT = 4222


class BrokerError(HandrailError):
    """The broker is not there, or not as it must be."""


class BrokerUnreachable(BrokerError):
    """Nothing answers where the broker should be."""


class BrokerUnfit(BrokerError):
    """What answers is not a broker that can carry the log."""


class CredentialsRefused(BrokerError):
    """The broker does not accept the user or its password."""


@dataclass(frozen=True, slots=True)
class BrokerInfo:
    """What a broker says of itself."""

    server_name: str
    version: str
    jetstream: bool


async def check_foreign(
    url: str, *, user: str | None = None, password: str | None = None, timeout_s: float = CONNECT_TIMEOUT_S
) -> BrokerInfo:
    """Look at a broker that somebody else runs, and return what it says of itself if it will do.

    Raises BrokerUnreachable, BrokerUnfit (not NATS, too old, no JetStream) and CredentialsRefused.
    """
    info = await read_info(url, timeout_s=timeout_s)
    require_fit(url, info)
    await _sign_in(url, user, password, timeout_s)
    return info


def require_fit(url: str, info: BrokerInfo) -> None:
    """Raise BrokerUnfit if the server is too old or has no JetStream."""
    if _version(info.version) < MIN_VERSION:
        needed = ".".join(map(str, MIN_VERSION))
        raise BrokerUnfit(
            f"The broker at {_address(url)} is nats-server {info.version}, and scheduled messages need "
            f"{needed} or newer. Upgrade it, or use the embedded broker."
        )
    if not info.jetstream:
        raise BrokerUnfit(
            f"The broker at {_address(url)} has no JetStream, which keeps the log. Start it with `-js`, or "
            "with a `jetstream` block in its configuration."
        )


async def read_info(url: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> BrokerInfo:
    """Return what the server at a url says of itself before anybody signs in.

    Raises BrokerUnreachable, and BrokerUnfit if it does not speak NATS.
    """
    host, port = _host_and_port(url)
    try:
        async with asyncio.timeout(timeout_s):
            line = await _first_line(host, port)
    except TimeoutError:
        line = b""
    except OSError as error:
        raise BrokerUnreachable(
            f"Nothing answers at {_address(url)} ({error.strerror or error}). Start the broker, "
            "or correct its url."
        ) from error
    try:
        verb, _, body = line.partition(b" ")
        fields = json.loads(body) if verb.upper() == b"INFO" else {}
        return BrokerInfo(
            str(fields["server_name"]), str(fields["version"]), bool(fields.get("jetstream", False))
        )
    except (ValueError, KeyError, TypeError) as error:
        said = f"said {line[:60]!r}" if line else f"said nothing within {timeout_s:g} s"
        raise BrokerUnfit(
            f"What answers at {_address(url)} is not a NATS server: it {said}. Correct the url, or stop what "
            "has taken the port."
        ) from error


async def _first_line(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port, limit=MAX_INFO_BYTES)
    try:
        return await reader.readline()
    except ValueError:
        return b"more than a line"
    finally:
        writer.close()


async def _sign_in(url: str, user: str | None, password: str | None, timeout_s: float) -> None:
    violations: list[str] = []

    async def note(error: Exception) -> None:
        violations.append(str(error))

    who = f"user {user!r}" if user else "a client without credentials"
    try:
        client = await nats.connect(
            url,
            user=user,
            password=password,
            inbox_prefix=inbox_prefix(user) if user else "_INBOX",
            connect_timeout=max(1, round(timeout_s)),
            allow_reconnect=False,
            max_reconnect_attempts=0,
            error_cb=note,
        )
    except (nats.errors.Error, OSError, TimeoutError) as error:
        if "authorization" in f"{error} {violations}".lower():
            raise CredentialsRefused(
                f"The broker at {_address(url)} refuses {who}. Correct the user and the password."
            ) from error
        raise BrokerUnreachable(
            f"Cannot sign in at {_address(url)}: {error or type(error).__name__}."
        ) from error
    try:
        await client.jetstream(timeout=timeout_s).account_info()
    except nats.js.errors.APIError as error:
        raise BrokerUnfit(
            f"The account of {who} at {_address(url)} has no JetStream ({error.description}). Enable it for "
            "that account."
        ) from error
    except (nats.errors.Error, TimeoutError) as error:
        reason = "; ".join(violations) or str(error) or "no answer"
        raise CredentialsRefused(
            f"The broker at {_address(url)} does not let {who} use JetStream ({reason}). Give it the "
            "permissions in the documentation's table."
        ) from error
    finally:
        await client.close()


def _host_and_port(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        host, port = None, 0
    if host is None:
        raise BrokerUnreachable(f"{url!r} is not a broker's url: they look like nats://127.0.0.1:4222.")
    return host, port


def _address(url: str) -> str:
    """Return where a url points, without the password that may stand in it."""
    host, port = _host_and_port(url)
    return f"{host}:{port}"


def _version(text: str) -> tuple[int, ...]:
    numbers = text.lstrip("v").split("-")[0].split(".")
    return tuple(int(number) if number.isdigit() else 0 for number in numbers)
