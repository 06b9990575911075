"""Sends requests to servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.client_exceptions import ClientConnectorError

from relais_common.remote.errors import Lost, Unreachable
from relais_common.remote.refusals import read_capped, refusal
from relais_common.remote.server import Server
from relais_common.remote.settings import RemoteSettings

CALL_TIMEOUT_S = 10.0
MAX_CALL_BYTES = 1 << 20


class Client:
    """Sends requests to servers.

    Attributes:
        session: for requests without a body.
    """

    def __init__(self, session: ClientSession, settings: RemoteSettings) -> None:
        self.session = session
        self._timeout = ClientTimeout(
            total=None, sock_connect=settings.connect_timeout_s, sock_read=settings.read_timeout_s
        )

    async def call(
        self,
        server: Server,
        path: str,
        body: dict[str, Any],
        *,
        most_bytes: int = MAX_CALL_BYTES,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> bytes:
        """POST a body and return that of the response.

        Args:
            timeout_s: of reading it, once it has begun.

        Raises:
            TryFailed: another try may succeed.
            EngineRefused: the server rejects the request as invalid.
            EngineFailed: the server failed on this request.
        """
        response = await self.post(server, path, body)
        try:
            if response.status != 200:
                raise await refusal(response)
            return await read_capped(response, most_bytes, timeout_s)
        finally:
            # One that was read to its end has given its connection back already.
            response.close()

    async def call_for_object(
        self, server: Server, path: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        """POST a body and return the JSON object of the response. Raises as `call` does."""
        try:
            answer = orjson.loads(await self.call(server, path, body))
        except ValueError:
            raise Lost(f"the answer to {path} is no JSON") from None
        if not isinstance(answer, dict):
            raise Lost(f"the answer to {path} is no object")
        return answer

    async def post(self, server: Server, path: str, body: dict[str, Any]) -> ClientResponse:
        """POST a body and return the response, once its head has arrived.

        Raises:
            TryFailed: there is none.
        """
        try:
            return await self.session.post(
                server.url + path,
                data=orjson.dumps(body),
                headers={"Content-Type": "application/json", **server.headers},
                timeout=self._timeout,
                # A redirect leads to another server, which must not get this one's key.
                allow_redirects=False,
            )
        except (ClientConnectorError, ConnectionTimeoutError) as error:
            raise Unreachable(words_of(error)) from error
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            raise Lost(words_of(error)) from error


def words_of(error: BaseException) -> str:
    """Return a connection error's text, or its class if the text contains the URL."""
    if isinstance(error, ClientConnectorError):
        return error.os_error.strerror or "no connection"
    return type(error).__name__


@asynccontextmanager
async def open_session() -> AsyncIterator[ClientSession]:
    """Yield a session for requests to servers that may be hostile."""
    async with ClientSession(
        connector=TCPConnector(limit=0),
        cookie_jar=DummyCookieJar(),
        # What is compressed is refused: it may unpack to anything.
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    ) as session:
        yield session
