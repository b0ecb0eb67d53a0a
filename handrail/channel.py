"""How a client reaches a server: in the clear on this machine, by TLS elsewhere, and with its token.

`https://HOST:PORT` is reached by TLS; HANDRAIL_TLS_CA names the authority of the server's certificate where
it is none that the machine trusts, HANDRAIL_TLS_CERTIFICATE and HANDRAIL_TLS_KEY prove who connects. A token
is given, or stands in HANDRAIL_TOKEN or the file HANDRAIL_TOKEN_FILE, and never goes in the clear elsewhere.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from handrail import errors
from handrail.person import CA_ENV, CERTIFICATE_ENV, KEY_ENV, TOKEN_ENV, TOKEN_FILE_ENV

TLS = "https://"
MAX_TOKEN_BYTES = 8 * 1024

_Options = Sequence[tuple[str, Any]]
_Metadata = tuple[tuple[str, str], ...]


class Channel:
    """A gRPC channel of which every call carries the token."""

    def __init__(
        self,
        address: str,
        options: _Options,
        *,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._address = address
        self._token = _Token.of(token, token_file)
        self._is_private = address.startswith(TLS) or is_local(address)
        proxy = [("grpc.enable_http_proxy", 0)] if is_local(address) else []
        target, options = address.removeprefix(TLS), [*options, *proxy]
        if address.startswith(TLS):
            self._channel = grpc.aio.secure_channel(target, _credentials(), options=options)
        else:
            self._channel = grpc.aio.insecure_channel(target, options=options)

    def unary_unary(self, *arguments: Any, **named: Any) -> Callable[..., Any]:
        """Return a call, as a stub wants it."""
        return self._carrying(self._channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> Callable[..., Any]:
        """Return a call with a stream of answers, as a stub wants it."""
        return self._carrying(self._channel.unary_stream(*arguments, **named))

    async def close(self) -> None:
        """Disconnect."""
        await self._channel.close(None)

    def _carrying(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(request: Any, *, timeout: float | None = None, metadata: _Metadata = ()) -> Any:
            return call(request, timeout=timeout, metadata=(*metadata, *self._metadata()))

        return made

    def _metadata(self) -> _Metadata:
        token = self._token.read()
        if not token:
            return ()
        if not self._is_private:
            raise errors.Unauthenticated(
                f"a token is not sent to {self._address} in the clear: write {TLS}{self._address}",
                code=grpc.StatusCode.UNAUTHENTICATED,
                reason="IN_THE_CLEAR",
            )
        if not (token.isascii() and token.isprintable()):
            # Not with the token: it may be a good one with something beside it.
            raise errors.Unauthenticated(
                "the token has characters that no token has: give one token, and nothing else, on one line",
                code=grpc.StatusCode.UNAUTHENTICATED,
                reason="NO_TOKEN",
            )
        return (("authorization", f"Bearer {token}"),)


class _Token:
    """Where the token is; a file is read again when it is another one."""

    def __init__(self, token: str, path: Path | None) -> None:
        self._token = token
        self._path = path
        self._stamp: object = None

    @classmethod
    def of(cls, token: str | None, path: str | os.PathLike[str] | None) -> _Token:
        if token is None and path is None:
            token = os.environ.get(TOKEN_ENV, "") or None
            path = os.environ.get(TOKEN_FILE_ENV) or None
        return cls((token or "").strip(), Path(path) if path is not None and not token else None)

    def read(self) -> str:
        if self._path is None:
            return self._token
        try:
            found = self._path.stat()
            stamp = found.st_mtime_ns, found.st_ino
            if stamp != self._stamp:
                with self._path.open(encoding="utf-8") as file:
                    self._token, self._stamp = file.read(MAX_TOKEN_BYTES).strip(), stamp
        except (OSError, UnicodeDecodeError) as error:
            raise errors.Unauthenticated(
                f"the token in {self._path} cannot be read: {error}",
                code=grpc.StatusCode.UNAUTHENTICATED,
                reason="NO_TOKEN",
            ) from None
        return self._token


def environment_name() -> str:
    """Return whom the environment's token names, which only a server can check; "" for none that is one."""
    try:
        token = _Token.of(None, None).read()
        payload = token.split(".")[1]
        said = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(said["sub"])
    except (errors.Unauthenticated, ValueError, LookupError, TypeError):
        return ""


def is_local(address: str) -> bool:
    """Whether an address is of this machine."""
    host = address.removeprefix(TLS).rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _credentials() -> grpc.ChannelCredentials:
    ca, key, certificate = (_file(name) for name in (CA_ENV, KEY_ENV, CERTIFICATE_ENV))
    if (key is None) != (certificate is None):
        # gRPC would abort the process.
        raise errors.invalid(
            KEY_ENV, "alone", f"{KEY_ENV} and {CERTIFICATE_ENV} go together: set both, or none"
        )
    return grpc.ssl_channel_credentials(ca, key, certificate)


def _file(name: str) -> bytes | None:
    path = os.environ.get(name)
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise errors.invalid(name, "unreadable", f"{path} cannot be read: {error.strerror}") from None
