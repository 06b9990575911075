"""An HTTP server with bounded connections: their number, their silence, and how long answers may stay unread."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter, deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, cast

import orjson
import structlog
from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from relais_common.jobs.errors import ErrorInfo, InternalError

log = structlog.get_logger(__name__)

MAX_LINE_BYTES = 8190
"""Bound on the request line, and on each header."""

MAX_HEADERS = 128
LINGER_S = 2.0
"""How long the rest of a refused body is read and dropped. A connection that is closed over unread bytes is reset, and
the client, or the proxy in between, would lose the answer."""

SMALL_BODY_BYTES = 64 << 10
"""A body up to this size, if it is stated, is expected within `LINGER_S`: its connection outlives a refusal."""

MUCH_BYTES = 16 << 10
PARSED_BYTES = 16 << 10
"""How much of a body is parsed and not yet read. In HTTP chunks, which may have one byte, aiohttp stops at a sixteenth
of it."""

READ_BYTES_PER_TURN = 256 << 10
"""How much of uploads is read in one turn of the event loop, as much as the system gives of one. It takes 2 ms on a
busy machine, and an answer takes some twenty turns."""

UNSENT_BYTES = 16 << 10
"""What the system takes of an answer beyond what is on its way. By default it would hold megabytes of each for clients
that do not read, and nobody would notice that they do not."""

TOO_LARGE = ErrorInfo(
    f"the path with its query and each header have at most {MAX_LINE_BYTES} bytes, and there are at most"
    f" {MAX_HEADERS} headers",
    "invalid_request_error",
    None,
    "headers_too_large",
    431,
)
MALFORMED = ErrorInfo(
    "this is no well-formed HTTP request", "invalid_request_error", None, "invalid_http", 400
)
TOO_MANY = ErrorInfo(
    "too many connections are open; try again", "server_error", None, "too_many_connections", 503
)
INTERNAL = InternalError("something went wrong on our side").info


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionBounds:
    """What one server grants its peers.

    Attributes:
        most: connections that are open at once.
        most_per_address: of these, from one address (IPv6: from one /64 network).
        proxies: addresses that stand for many clients, and are not held to `most_per_address`.
        idle_timeout_s: how long a peer may take to send the head of a request, the first one or the next.
        write_timeout_s: how long a peer may take nothing of what was written to it.
        linger_bytes: how much of a refused body is read and dropped, so that the peer sees the answer.
    """

    most: int
    most_per_address: int
    idle_timeout_s: float
    write_timeout_s: float
    linger_bytes: int
    proxies: Container[str] = ()


def error_json(info: ErrorInfo) -> bytes:
    """OpenAI's error object."""
    error = {"message": info.message, "type": info.type, "param": info.param, "code": info.code}
    return orjson.dumps({"error": error})


def _too_many_connections() -> bytes:
    body = error_json(TOO_MANY)
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n"
    )
    return head % len(body) + body


_TOO_MANY_CONNECTIONS = _too_many_connections()


class BoundedConnection(RequestHandler):
    """One connection. Its errors are typed JSON, also for bytes that are no request."""

    __slots__ = ("_unfinished", "_waits_for_turn", "counted_as")

    _manager: BoundedServer | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        assert self._manager is not None
        self.counted_as: str | None = None
        self._waits_for_turn = False
        self._unfinished: StreamReader | None = None
        if self._manager.is_full_for(wire):
            self._force_close = True
            wire.write(_TOO_MANY_CONNECTIONS)
            wire.close()
            return
        super().connection_made(wire)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            self._unfinished = self._messages[-1][1]
        if self._unfinished is not None and self._unfinished.is_eof():
            self._unfinished = None
        if self._manager is None or not data:
            return
        # Bodies, and requests that were sent without waiting for answers.
        if len(data) >= MUCH_BYTES or self._unfinished is not None or len(self._messages) > 1:
            self._manager.note_read(self, len(data))
        else:
            self._manager.forget(self)

    def wait_for_turn(self) -> None:
        """Read nothing; for the server, when others are to be read first."""
        self._waits_for_turn = True
        self._pause_transport_reading()

    def read_again(self) -> None:
        """Read on; for the server, at this connection's turn."""
        self._waits_for_turn = False
        if not self._reading_paused and not self._buffer_paused:
            self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        if not self._waits_for_turn:
            super()._resume_transport_reading()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if not resp.prepared and self._stays_unread(request):
            # Said, or the client would send its next request into a connection that is closed.
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        if request.version < HttpVersion11 and "Connection" not in finished[0].headers:
            # aiohttp announces that it keeps the connection only where the length is known, and keeps it in any case.
            finished[0].force_close()
        if self._manager is not None and not request.content.is_eof():
            await self._drop_body(request, self._manager.bounds.linger_bytes)
        return finished

    def _stays_unread(self, request: web.BaseRequest) -> bool:
        """Whether the body may not be read to its end behind the answer: who waits for `100` may send none."""
        if self._manager is None or request.content.is_eof():
            return False
        most = min(SMALL_BODY_BYTES, self._manager.bounds.linger_bytes)
        return "Expect" in request.headers or (request.content_length or most + 1) > most

    def note_cut(self, request: web.BaseRequest | None) -> None:
        """Called before the connection is cut, with the request whose answer nobody read, if it is not over."""

    async def _drop_body(self, request: web.BaseRequest, most: int) -> None:
        # aiohttp would linger too, but by time alone.
        try:
            async with asyncio.timeout(LINGER_S):
                while most > 0 and (chunk := await request.content.readany()):
                    most -= len(chunk)
        except (TimeoutError, RequestPayloadError):
            return

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        # The rest of a body that cannot be read: its client's fault, and answered with 400 already.
        if not isinstance(kwargs.get("exc_info"), RequestPayloadError):
            super().log_exception(*args, **kwargs)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        info = error_of(status, exc)
        if info.status >= 500:
            log.error("connection_failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun: it cannot become an error")
        response = web.Response(
            body=error_json(info), status=info.status, content_type="application/json"
        )
        response.force_close()
        return response


def error_of(status: int, error: BaseException | None) -> ErrorInfo:
    """Return what a client is told of bytes that are no request, or of a failure outside of every handler."""
    if status >= 500:
        return INTERNAL
    # The other bound has no class of its own.
    too_many = isinstance(error, BadHttpMessage) and "Too many headers" in error.message
    return TOO_LARGE if too_many or isinstance(error, LineTooLong) else MALFORMED


class BoundedServer(web.Server):
    """Accepts connections up to their bounds, and cuts those whose peer no longer reads."""

    def __init__(
        self,
        *args: Any,
        bounds: ConnectionBounds,
        connection: Callable[..., BoundedConnection],
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            **kwargs,
            access_log=None,
            # Bodies are never unpacked: a megabyte may hold a gigabyte.
            auto_decompress=False,
            read_bufsize=PARSED_BYTES,
            keepalive_timeout=bounds.idle_timeout_s,
            lingering_time=0,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
        )
        self.bounds = bounds
        self._connection = connection
        self._of_address: Counter[str] = Counter()
        self._read_bytes = 0
        # Longest without being read first.
        self._uploading: dict[BoundedConnection, None] = {}
        self._held_back: deque[BoundedConnection] = deque()

    def __call__(self) -> RequestHandler:
        return self._connection(self, loop=self._loop, **self._kwargs)

    def is_full_for(self, transport: asyncio.Transport) -> bool:
        """Whether one more connection of this peer would be over a bound."""
        if len(self._connections) >= self.bounds.most:
            return True
        address = self._counted_as(transport)
        return address is not None and self._of_address[address] >= self.bounds.most_per_address

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        assert isinstance(handler, BoundedConnection)
        handler.counted_as = self._counted_as(transport)
        if handler.counted_as is not None:
            self._of_address[handler.counted_as] += 1

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        assert isinstance(handler, BoundedConnection)
        self.forget(handler)
        address, handler.counted_as = handler.counted_as, None
        if address is not None:
            self._of_address[address] -= 1
            if self._of_address[address] == 0:
                del self._of_address[address]

    def note_read(self, connection: BoundedConnection, size: int) -> None:
        """Count what was read of an upload. Once it is much, uploads are read in turns, one in each of the loop's."""
        if not self._read_bytes and not self._held_back:
            self._loop.call_soon(self._begin_turn)
        self._read_bytes += size
        self.forget(connection)
        self._uploading[connection] = None
        if self._read_bytes >= READ_BYTES_PER_TURN:
            for one in self._uploading:
                one.wait_for_turn()
            self._held_back.extend(self._uploading)
            self._uploading.clear()

    def forget(self, connection: BoundedConnection) -> None:
        self._uploading.pop(connection, None)

    def _begin_turn(self) -> None:
        self._read_bytes = 0
        while self._held_back:
            one = self._held_back.popleft()
            if one.connected:
                self._uploading[one] = None
                one.read_again()
                break
        if self._held_back:
            self._loop.call_soon(self._begin_turn)

    def _counted_as(self, transport: asyncio.Transport) -> str | None:
        """What the peer is counted by; None for a proxy."""
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if not address or address in self.bounds.proxies:
            return None
        if ":" in address:
            # One client has a whole /64.
            return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
        return address

    def close_idle(self) -> None:
        """Close the connections whose peer has no request open."""
        for connection, transport in list(self._connections.items()):
            waiter = connection._waiter
            if waiter is not None and not waiter.done():
                transport.close()

    async def cut_unread(self) -> None:
        """For ever: abort each connection whose peer took nothing of what was written to it for `write_timeout_s`.

        One loop for all connections: a timer for each would cost every open stream memory. It covers what no handler
        waits for, too: connections that are closing, or idle, over the rest of an answer.
        """
        tries = 4
        stalled: dict[RequestHandler, tuple[int, int]] = {}
        while True:
            await asyncio.sleep(self.bounds.write_timeout_s / tries)
            still: dict[RequestHandler, tuple[int, int]] = {}
            for connection, transport in list(self._connections.items()):
                unread = transport.get_write_buffer_size()
                if unread == 0:
                    continue
                request = connection._current_request
                taken = -unread if request is None else request.writer.output_size - unread
                before, seen = stalled.get(connection, (None, 0))
                seen = seen + 1 if before == taken else 0
                if seen < tries:
                    still[connection] = (taken, seen)
                else:
                    log.info("slow_reader_disconnected", unread_bytes=unread)
                    assert isinstance(connection, BoundedConnection)
                    connection.note_cut(request)
                    transport.abort()
            stalled = still


def bound_unsent(site: web.TCPSite) -> None:
    """Bound what the system holds of answers on the connections of this site; where it cannot, nothing happens."""
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        for listening in getattr(site._server, "sockets", ()):
            listening.setsockopt(socket.IPPROTO_TCP, option, UNSENT_BYTES)


class BoundedRunner(web.AppRunner):
    """Runs an application within bounds. Run `cut_unread` beside it."""

    def __init__(
        self,
        app: web.Application,
        bounds: ConnectionBounds,
        *,
        shutdown_timeout_s: float,
        connection: Callable[..., BoundedConnection] = BoundedConnection,
    ) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout_s)
        self._bounds = bounds
        self._connection = connection

    def close_idle(self) -> None:
        """As the server's; after `setup`."""
        assert isinstance(self._server, BoundedServer)
        self._server.close_idle()

    async def cut_unread(self) -> None:
        """As the server's; after `setup`."""
        assert isinstance(self._server, BoundedServer)
        await self._server.cut_unread()

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return BoundedServer(
            self._handler(plain.request_handler),
            request_factory=self._request_factory(plain.request_factory),
            # A client that leaves cancels its handler: so a disconnect is noticed in a silence.
            handler_cancellation=True,
            bounds=self._bounds,
            connection=self._connection,
        )

    def _handler(self, plain: Any) -> Any:
        return plain

    def _request_factory(self, plain: Any) -> Any:
        return plain
