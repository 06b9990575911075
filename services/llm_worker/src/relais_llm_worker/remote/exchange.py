"""One request to one server: its answer's chunks, or why there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import orjson
from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
)
from aiohttp.client_exceptions import ClientConnectorError

from relais_common.errors import EngineFailed, EngineRefused
from relais_llm_worker.remote.bodies import Delta, Question, read_delta
from relais_llm_worker.remote.errors import Busy, Lost, Misplaced, Unreachable
from relais_llm_worker.remote.server import Server
from relais_llm_worker.remote.sse import read_events

_BUSY = frozenset((408, 425, 429, 503))
_REFUSED = frozenset((400, 413, 422))
_MISPLACED = frozenset((401, 403, 404, 405))
_LOST = frozenset((502, 504))
MAX_MESSAGE_LENGTH = 1000
LAST_WORDS_TIMEOUT_S = 5.0
END_TIMEOUT_S = 0.2


class Client:
    """Asks servers.

    Args:
        read_timeout_s: the longest silence, before the first chunk and between two.
    """

    def __init__(
        self, session: ClientSession, *, connect_timeout_s: float, read_timeout_s: float
    ) -> None:
        self._session = session
        self._timeout = ClientTimeout(
            total=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s
        )

    async def stream(self, server: Server, question: Question) -> AsyncGenerator[Delta]:
        """Chunks as they come, the last with its usage. Closed early, it closes the connection, and the server stops.

        Raises:
            TryFailed: another try may go well.
            EngineRefused: the server says that the request is wrong.
            EngineFailed: the server failed at this request.
        """
        response = await self._post(server, question)
        whole = False
        try:
            await _require_stream(response)
            async with aclosing(_chunks(response)) as chunks:
                last: Delta | None = None
                async for delta in chunks:
                    if delta.finish_reason is None:
                        yield delta
                        continue
                    last = await _with_usage(delta, chunks)
                    await _read_to_end(response)
                    whole = True
                    break
            if last is None:
                raise Lost("the stream ended before the answer did")
            yield last
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
                raise await _refusal(response)
            answer = orjson.loads(await response.read())
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            raise Lost(f"no answer to {path}: {_words(error)}") from error
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
        except (ClientError, TimeoutError, OSError) as error:
            raise Lost(_words(error)) from error


async def _chunks(response: ClientResponse) -> AsyncGenerator[Delta]:
    try:
        async with aclosing(read_events(response.content.iter_any())) as events:
            async for data in events:
                if data == b"[DONE]":
                    return
                yield read_delta(_no_error(data))
    except (ClientError, TimeoutError, OSError) as error:
        raise Lost(_words(error)) from error


def _no_error(data: bytes) -> Any:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Lost("a chunk is no JSON") from None
    if isinstance(chunk, dict) and chunk.get("error"):
        message, param, status = _error_fields(chunk)
        if status in _REFUSED:
            raise EngineRefused(message, param=param, code=_code(message))
        raise Lost(f"the server broke off: {message}")
    return chunk


async def _with_usage(last: Delta, chunks: AsyncIterator[Delta]) -> Delta:
    """The last chunk, with the usage that comes after it, if it does."""
    usage = last.usage
    try:
        async with asyncio.timeout(LAST_WORDS_TIMEOUT_S):
            async for delta in chunks:
                usage = delta.usage or usage
    except (Lost, EngineRefused, TimeoutError):
        pass  # the answer is whole without it
    return Delta(
        text=last.text,
        token_ids=last.token_ids,
        prompt_token_ids=last.prompt_token_ids,
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        aside=last.aside,
        usage=usage,
        logprobs=last.logprobs,
    )


async def _read_to_end(response: ClientResponse) -> None:
    """What is left after `[DONE]`: the end of the body, without which the connection cannot be used again."""
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            async for _ in response.content.iter_any():
                pass
    except (ClientError, TimeoutError, OSError):
        pass  # it is closed instead


async def _require_stream(response: ClientResponse) -> None:
    if response.status != 200:
        raise await _refusal(response)
    if response.content_type != "text/event-stream":
        raise Lost(f"the answer is no stream of events but {response.content_type}")


async def _refusal(response: ClientResponse) -> Exception:
    status = response.status
    if status in _BUSY:
        return Busy(f"it answers {status}", _retry_after_s(response))
    if status in _MISPLACED:
        return Misplaced(f"it answers {status}")
    if status in _LOST or 300 <= status < 400:
        return Lost(f"it answers {status}")
    try:
        body = orjson.loads(await response.read())
    except (ClientError, TimeoutError, OSError, ValueError):
        body = None
    message, param, _ = _error_fields(body)
    if status in _REFUSED:
        return EngineRefused(message, param=param, code=_code(message))
    # What a server says of its own faults is for its operator.
    return EngineFailed("the model's server failed while it ran this request")


def _error_fields(body: Any) -> tuple[str, str | None, int | None]:
    """Message, param and status of an error in OpenAI's form, or in one that is near to it."""
    error = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(error, dict):
        message, param, code = error.get("message"), error.get("param"), error.get("code")
    else:
        message, param, code = error, None, None
    return (
        message[:MAX_MESSAGE_LENGTH]
        if isinstance(message, str) and message
        else "the model's server refused the request",
        param if isinstance(param, str) and param else None,
        code if isinstance(code, int) else None,
    )


def _code(message: str) -> str | None:
    lowered = message.lower()
    if "context length" in lowered or "max_model_len" in lowered or "context size" in lowered:
        return "context_length_exceeded"
    return None


def _retry_after_s(response: ClientResponse) -> float | None:
    try:
        return max(0.0, float(response.headers.get("Retry-After", "")))
    except ValueError:
        return None


def _words(error: BaseException) -> str:
    """What went wrong with a connection. The text of some errors holds the URL: the class is enough for those."""
    if isinstance(error, ClientConnectorError):
        return error.os_error.strerror or "no connection"
    return type(error).__name__
