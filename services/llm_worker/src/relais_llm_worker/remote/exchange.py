"""One request to one server: its answer's chunks, or why there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NoReturn

import orjson
from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
)
from aiohttp.client_exceptions import ClientConnectorError

from relais_common.jobs.errors import EngineFailed, RelaisError, UpstreamRefused
from relais_llm_worker.remote.bodies import CHAT, Question
from relais_llm_worker.remote.bounds import Bounds
from relais_llm_worker.remote.chunks import ChunkReader, Delta
from relais_llm_worker.remote.errors import Lost, TooMuch, TryFailed, Unreachable
from relais_llm_worker.remote.refusals import (
    exceeds_context,
    meaning,
    read_capped,
    read_error,
    refusal,
    require_plain,
)
from relais_llm_worker.remote.server import Server
from relais_llm_worker.remote.sse import read_events

LAST_WORDS_TIMEOUT_S = 5.0
END_TIMEOUT_S = 0.2
END_BYTES = 64 << 10
CALL_TIMEOUT_S = 10.0
MAX_CALL_BYTES = 1 << 20
_STREAM_TYPES = frozenset(("text/event-stream", "text/plain", "application/octet-stream"))
"""Some servers label a stream as text; where nothing is said, aiohttp says the last."""
_CHUNKS_PER_TURN = 100
"""What lies in one buffer may be thousands of chunks: others get their turn in between."""


class Client:
    """Asks servers.

    Args:
        read_timeout_s: the longest silence, before the first chunk and between two.
        ignore: called with a model's name and a field for each value of an answer that is left out.
    """

    def __init__(
        self,
        session: ClientSession,
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        ignore: Callable[[str, str], None],
    ) -> None:
        self._session = session
        self._ignore = ignore
        self._timeout = ClientTimeout(
            total=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s
        )

    async def stream(
        self, server: Server, question: Question, bounds: Bounds
    ) -> AsyncGenerator[Delta]:
        """Chunks as they come, the last with its counts. Closed early, it closes the connection, and the server stops.

        Raises:
            TryFailed: another try may go well.
            EngineRefused: the server says that the request is wrong.
            EngineFailed: the server failed at this request.
        """
        model = question.body["model"]
        reader = ChunkReader(bounds, lambda field: self._ignore(model, field), _fail)
        response = await self._post(server, question)
        whole = False
        try:
            await _require_stream(response)
            chunks = _Chunks(response, reader, bounds.stream_bytes)
            async with aclosing(chunks.read()) as deltas:
                last: Delta | None = None
                async for delta in deltas:
                    if delta.finish_reason is not None:
                        last = delta
                        break
                    yield delta
                if last is None:
                    if not (chunks.done and reader.said_something):
                        raise Lost("the stream ended before the answer did")
                    last = Delta(finish_reason="stop")
                async with aclosing(_last_words(last, deltas)) as words:
                    async for last in words:
                        if last.finish_reason is None:
                            yield last
                whole = await _read_to_end(response)
            yield replace(last, counts=reader.counts)
        except UpstreamRefused as error:
            limit = server.served(model).max_model_len
            param = "messages" if question.path == CHAT else "prompt"
            raise exceeds_context(error, limit, param) from None
        except TooMuch:
            raise EngineFailed(
                f"the model's server sent more than {bounds.tokens} tokens can hold"
            ) from None
        finally:
            # Read to its end, the connection may serve another request; else closing it is what stops the server.
            if whole:
                response.release()
            else:
                response.close()

    async def call(self, server: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that answers one POST. Raises as `stream` does."""
        response = await self._post(server, Question(path, body))
        try:
            if response.status != 200:
                raise await refusal(response)
            answer = orjson.loads(await read_capped(response, MAX_CALL_BYTES, CALL_TIMEOUT_S))
        except ValueError:
            raise Lost(f"the answer to {path} is no JSON") from None
        finally:
            response.close()
        if not isinstance(answer, dict):
            raise Lost(f"the answer to {path} is no object")
        return answer

    async def _post(self, server: Server, question: Question) -> ClientResponse:
        try:
            return await self._session.post(
                server.url + question.path,
                data=orjson.dumps(question.body),
                headers={"Content-Type": "application/json", **server.headers},
                timeout=self._timeout,
                # Another place is another server, to which this one's key must not go.
                allow_redirects=False,
            )
        except (ClientConnectorError, ConnectionTimeoutError) as error:
            raise Unreachable(_words(error)) from error
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            raise Lost(_words(error)) from error


class _Chunks:
    """A response's chunks.

    Attributes:
        done: the server has said that no more come.
    """

    def __init__(self, response: ClientResponse, reader: ChunkReader, most_bytes: int) -> None:
        self._response = response
        self._reader = reader
        self._most_bytes = most_bytes
        self.done = False

    async def read(self) -> AsyncGenerator[Delta]:
        """Until `[DONE]`, or until the connection ends. Raises as `ChunkReader.read` does."""
        pieces = self._response.content.iter_any()
        count = 0
        try:
            async with aclosing(read_events(pieces, self._most_bytes)) as events:
                async for event in events:
                    if event.data == b"[DONE]":
                        self.done = True
                        return
                    count += 1
                    if count % _CHUNKS_PER_TURN == 0:
                        await asyncio.sleep(0)
                    if (delta := self._reader.read(event)) is not None:
                        yield delta
        except (ClientError, TimeoutError, OSError) as error:
            raise Lost(_words(error)) from error


def _fail(chunk: Any) -> NoReturn:
    """What an error within a stream means: as the status would that it names; without one, the server is lost."""
    said = read_error(chunk)
    error = meaning(said.status or 502, said)
    if isinstance(error, EngineFailed):
        raise Lost("the server broke off with an error")
    raise error


async def _last_words(last: Delta, deltas: AsyncGenerator[Delta]) -> AsyncGenerator[Delta]:
    """What comes once there was a reason to end: the counts, as a rule.

    Some servers give a reason with every chunk: only the last of what is yielded here has one.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + LAST_WORDS_TIMEOUT_S
    while True:
        try:
            async with asyncio.timeout_at(until_s):
                delta = await anext(deltas, None)
        except (TryFailed, TooMuch, RelaisError, TimeoutError):
            break  # the answer is whole without it
        if delta is None:
            break
        if delta.text or delta.token_ids or delta.aside:
            yield replace(last, finish_reason=None)
            last = replace(delta, finish_reason=delta.finish_reason or last.finish_reason)
            until_s = loop.time() + LAST_WORDS_TIMEOUT_S
    yield last


async def _read_to_end(response: ClientResponse) -> bool:
    """What is left after `[DONE]`: the end of the body, without which the connection cannot be used again."""
    left = END_BYTES
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            async for piece in response.content.iter_any():
                left -= len(piece)
                if left < 0:
                    return False
    except (ClientError, TimeoutError, OSError):
        return False
    return True


async def _require_stream(response: ClientResponse) -> None:
    if response.status != 200:
        raise await refusal(response)
    require_plain(response)
    if response.content_type not in _STREAM_TYPES:
        raise Lost(f"the answer is no stream of events but {response.content_type[:100]}")


def _words(error: BaseException) -> str:
    """What went wrong with a connection. The text of some errors holds the URL: the class is enough for those."""
    if isinstance(error, ClientConnectorError):
        return error.os_error.strerror or "no connection"
    return type(error).__name__
