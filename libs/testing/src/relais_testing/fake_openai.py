"""An OpenAI-compatible server that misbehaves on request.

It answers `word-0 word-1 ...`, one token each. With `vllm` it behaves like vLLM: it reports token ids, continues from
them, and detokenizes them. A token's id is 100 plus its number in the answer.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import unused_port

from relais_common.jobs.events import RankedToken, TokenLogprob

PROMPT_IDS = [7, 8, 9]
FIRST_ID = 100
DEFAULT_LENGTH = 12
UNBOUNDED = 10_000


def answer(count: int = DEFAULT_LENGTH) -> str:
    """Return the text of the first `count` tokens."""
    return "".join(f"word-{number} " for number in range(count))


def answer_ids(count: int) -> list[int]:
    """Return the ids of the first `count` tokens."""
    return list(range(FIRST_ID, FIRST_ID + count))


def vector_of(given: str | list[int], dimensions: int = 8) -> list[float]:
    """Return the vector of a text or of token ids."""
    seed = sum(given.encode() if isinstance(given, str) else given) + 131 * len(given)
    return [((seed * (place + 3) ** 3) % 1009 - 500) / 1009 for place in range(dimensions)]


def score_of(query: str, document: str) -> float:
    """Return the score of a pair."""
    return sum(f"{query}|{document}".encode()) % 1009 / 1009


def classes_of(text: str | list[int]) -> list[float]:
    """Return the probabilities of a text's three classes."""
    seen = [1 + abs(one) for one in vector_of(text, 3)]
    return [one / sum(seen) for one in seen]


def logprob_of(number: int, count: int) -> TokenLogprob:
    """Return the log probability of token `number`, with this many of the likeliest."""
    ranked = tuple(RankedToken(f"t{number}-{rank}", -0.5 * rank) for rank in range(count))
    return TokenLogprob(f"t{number}-0", 0.0, ranked)


def _logprobs(numbers: list[int], body: dict[str, Any], *, chat: bool) -> dict[str, Any] | None:
    asked = body.get("logprobs")
    if asked is None or asked is False:
        return None
    if chat:
        told = [logprob_of(number, body["top_logprobs"]) for number in numbers]
        return {"content": [asdict(one) for one in told]}
    told = [logprob_of(number, asked + 1) for number in numbers]
    return {
        "tokens": [one.token for one in told],
        "token_logprobs": [one.logprob for one in told],
        "top_logprobs": [{top.token: top.logprob for top in one.top_logprobs} for one in told],
    }


@dataclass
class FakeServer:
    """A server that records its requests.

    Attributes:
        refuse: (status, body, headers) of the next responses, in order.
        refuse_where: requests that contain this word are always put off.
        cut_after: number of text chunks after which the connection is closed.
        cuts: how many streams are cut; None for all.
        cut_when: awaited before the cut; what the client has not read by then is lost.
        hold_after: number of text chunks after which the stream hangs.
        garbage_after: number of text chunks after which a chunk is not JSON.
        error_after: number of text chunks after which the server reports an error.
        error: that error.
        per_chunk: tokens in each chunk.
        halves: numbers of tokens that end within a character; the next token has both texts.
        script: the deltas of the answer instead of words, the last with its `finish_reason`.
        thinks: whether the answer begins with reasoning.
        asked: bodies of all streams and of all requests for vectors or scores, with their path.
        lacks: paths that are answered with a 404.
        most_inputs: of a request for vectors or scores; more are refused as TEI does.
        in_numbers: whether vectors are numbers, even where base64 was asked for.
        bare_scores: whether scores come in TEI's form.
        twist: changes a body with vectors or scores before it is sent.
        hold: awaited before vectors or scores are sent.
        open: number of open streams.
        dropped: streams that the client closed before their end.
    """

    model: str = "m"
    vllm: bool = False
    health: int = 200
    max_model_len: int = 1000
    root: str = "/models/m"
    api_key: str | None = None
    refuse: list[tuple[int, Any, dict[str, str]]] = field(default_factory=list)
    refuse_where: str | None = None
    cut_after: int | None = None
    cuts: int | None = None
    cut_when: asyncio.Event | None = None
    hold_after: int | None = None
    garbage_after: int | None = None
    error_after: int | None = None
    error: Any = field(default_factory=lambda: {"message": "the engine died", "code": 500})
    pause_s: float = 0.0
    per_chunk: int = 1
    script: list[dict[str, Any]] | None = None
    thinks: bool = False
    halves: frozenset[int] = frozenset()
    usage: bool = True
    lacks: frozenset[str] = frozenset()
    most_inputs: int = 1000
    in_numbers: bool = False
    bare_scores: bool = False
    twist: Callable[[Any], Any] | None = None
    hold: asyncio.Event | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    open: int = 0
    dropped: int = 0
    port: int = 0
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Return the base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start on the same port as before, if there was one."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._stream)
        app.router.add_post("/v1/completions", self._stream)
        for path in ("/v1/embeddings", "/embeddings"):
            app.router.add_post(path, self._embeddings)
        for path in ("/v1/rerank", "/rerank"):
            app.router.add_post(path, self._rerank)
        app.router.add_post("/classify", self._classify)
        app.router.add_post("/detokenize", self._detokenize)
        app.router.add_post("/tokenize", self._tokenize)
        # A client that leaves is noticed at once.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        self.port = self.port or unused_port()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_port=True).start()

    async def stop(self) -> None:
        """Stop, and cut open streams."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=self.health)

    async def _models(self, request: web.Request) -> web.Response:
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": {"message": "no"}}, status=401)
        card: dict[str, Any] = {"id": self.model, "object": "model", "owned_by": "someone"}
        if self.vllm:
            card |= {"owned_by": "vllm", "root": self.root, "max_model_len": self.max_model_len}
        return web.json_response({"object": "list", "data": [card]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        if not self.vllm:
            return web.Response(status=404)
        asked = await request.json()
        self.asked.append((request.path, asked))
        tokens = [FIRST_ID + number for number in range(3)]
        strings = [str(one) for one in tokens] if asked.get("return_token_strs") else None
        return web.json_response(
            {"count": 3, "max_model_len": 9, "tokens": tokens, "token_strs": strings}
        )

    async def _detokenize(self, request: web.Request) -> web.Response:
        if not self.vllm:
            return web.Response(status=404)
        numbers = [token_id - FIRST_ID for token_id in (await request.json())["tokens"]]
        text = "".join(map(self._text, numbers))
        return web.json_response({"prompt": text + "\ufffd" * (numbers[-1] in self.halves)})

    def _text(self, number: int) -> str:
        if number in self.halves:
            return ""
        return "".join(
            f"word-{one} " for one in (number - 1, number) if one in (number, *self.halves)
        )

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()

        def packed(vector: list[float]) -> Any:
            if self.in_numbers or body.get("encoding_format") != "base64":
                return vector
            return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

        data = [
            {"index": at, "embedding": packed(vector_of(one, body.get("dimensions", 8)))}
            for at, one in enumerate(body["input"])
        ]
        return await self._give(request, body, body["input"], {"data": data})

    async def _rerank(self, request: web.Request) -> web.Response:
        body = await request.json()
        documents = body.get("texts" if self.bare_scores else "documents", [])
        name = "score" if self.bare_scores else "relevance_score"
        scores = [
            {"index": at, name: score_of(body["query"], one)} for at, one in enumerate(documents)
        ]
        scores.sort(key=lambda one: -one[name])
        return await self._give(
            request, body, documents, scores if self.bare_scores else {"results": scores}
        )

    async def _classify(self, request: web.Request) -> web.Response:
        body = await request.json()
        rows = [classes_of(one) for one in body["input"]]
        data = [
            {"index": at, "label": f"class {row.index(max(row))}", "probs": row, "num_classes": 3}
            for at, row in enumerate(rows)
        ]
        return await self._give(request, body, body["input"], {"object": "list", "data": data})

    async def _give(
        self, request: web.Request, body: dict[str, Any], inputs: list[Any], given: Any
    ) -> web.Response:
        """Answer with vectors or scores, unless this server is to refuse."""
        if request.path in self.lacks:
            return web.Response(status=404)
        self.asked.append((request.path, body))
        self.headers.append(dict(request.headers))
        if self.refuse:
            status, refusal, headers = self.refuse.pop(0)
            return web.json_response(refusal, status=status, headers=headers)
        if len(inputs) > self.most_inputs:
            said = {"error": "batch size is too large", "error_type": "Validation"}
            return web.json_response(said, status=422)
        self.open += 1
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        finally:
            self.open -= 1
        if self.usage and isinstance(given, dict):
            given["usage"] = {"prompt_tokens": len(inputs), "total_tokens": len(inputs)}
        return web.json_response(self.twist(given) if self.twist else given)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not body.get("stream"):
            return web.json_response({"choices": [{"text": "x"}], "system_fingerprint": "f-1"})
        self.asked.append((request.path, body))
        self.headers.append(dict(request.headers))
        if self.refuse_where is not None and self.refuse_where in json.dumps(body):
            return web.json_response(
                {"error": {"message": "later"}}, status=429, headers={"Retry-After": "0.5"}
            )
        if self.refuse:
            status, refusal, headers = self.refuse.pop(0)
            return web.json_response(refusal, status=status, headers=headers)
        self.open += 1
        try:
            return await self._answer(request, body)
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        finally:
            self.open -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        out = _Chunks(response, self.model, chat=request.path.endswith("chat/completions"))
        with_ids = self.vllm and bool(body.get("return_token_ids"))
        if out.chat:
            known = {"prompt_token_ids": PROMPT_IDS} if with_ids else {}
            await out.send({"delta": {"role": "assistant", "content": ""}}, **known)
        if self.script is not None:
            await self._follow_script(out, self.script)
        elif not await self._write_words(out, request, body, with_ids=with_ids):
            return response
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _follow_script(self, out: _Chunks, script: list[dict[str, Any]]) -> None:
        *most_of_it, last = script
        for delta in most_of_it:
            await out.send({"delta": delta})
        await out.send({"delta": last, "finish_reason": last.get("finish_reason", "stop")})
        details = {"completion_tokens_details": {"reasoning_tokens": 7}}
        await out.send(None, usage={"prompt_tokens": 5, "completion_tokens": 9, **details})

    async def _write_words(
        self, out: _Chunks, request: web.Request, body: dict[str, Any], *, with_ids: bool
    ) -> bool:
        """Write the answer; return whether it was completed."""
        prompt = body.get("prompt")
        begin = 0
        if isinstance(prompt, list) and prompt[: len(PROMPT_IDS)] == PROMPT_IDS:
            begin = len(prompt) - len(PROMPT_IDS)
        most = body.get("max_tokens") or UNBOUNDED
        end = begin + most if body.get("ignore_eos") else min(begin + most, DEFAULT_LENGTH)
        reason = "length" if end == begin + most else "stop"
        # vLLM gives the prompt back with the other half of a character that it ended in.
        before = "THE PROMPT" if begin - 1 in self.halves else ""
        if self.thinks:
            ids = {"token_ids": [1]} if with_ids else {}
            await out.send({"delta": {"reasoning": "hm"}, **ids})
        for count, at in enumerate(range(begin, end, self.per_chunk), 1):
            some = list(range(at, min(at + self.per_chunk, end)))
            fields: dict[str, Any] = {"token_ids": [FIRST_ID + n for n in some]} if with_ids else {}
            if with_ids and not out.chat and count == 1:
                fields["prompt_token_ids"] = PROMPT_IDS if begin == 0 else prompt
            if (logprobs := _logprobs(some, body, chat=out.chat)) is not None:
                fields["logprobs"] = logprobs
            if some[-1] == end - 1 and self.vllm:
                fields["finish_reason"] = reason
            await out.send_text(before + "".join(map(self._text, some)), **fields)
            await asyncio.sleep(self.pause_s)
            if await self._fails_after(count, out, request):
                return False
        if not self.vllm:
            await out.send_text("", finish_reason=reason)
        if self.usage:
            counts = {"prompt_tokens": len(PROMPT_IDS) + begin, "completion_tokens": end - begin}
            await out.send(None, usage=counts | {"total_tokens": 0})
        return True

    async def _fails_after(self, count: int, out: _Chunks, request: web.Request) -> bool:
        """Misbehave as configured after this many chunks; return whether that ends the answer."""
        if self.garbage_after == count:
            await out.write(b"{nonsense")
            return True
        if self.error_after == count:
            await out.write(json.dumps({"error": self.error}).encode())
            return True
        if self.cut_after == count and self.cuts != 0:
            self.cuts = None if self.cuts is None else self.cuts - 1
            if self.cut_when is not None:
                await self.cut_when.wait()
            assert request.transport is not None
            request.transport.abort()
            return True
        if self.hold_after == count:
            await asyncio.Event().wait()
        return False


class _Chunks:
    """Writes the chunks of one answer."""

    def __init__(self, response: web.StreamResponse, model: str, *, chat: bool) -> None:
        self._response = response
        self._model = model
        self.chat = chat

    async def write(self, data: bytes) -> None:
        await self._response.write(b"data: %b\n\n" % data)

    async def send(self, choice: dict[str, Any] | None, **fields: Any) -> None:
        choices = [] if choice is None else [{"index": 0, **choice}]
        chunk = {"id": "x", "model": self._model, "choices": choices, **fields}
        await self.write(json.dumps(chunk).encode())

    async def send_text(self, text: str, **fields: Any) -> None:
        piece = {"delta": {"content": text}} if self.chat else {"text": text}
        await self.send({**piece, **fields})


@asynccontextmanager
async def open_fake_server(**options: Any) -> AsyncIterator[FakeServer]:
    """Yield a running server with these options of `FakeServer`."""
    server = FakeServer(**options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
