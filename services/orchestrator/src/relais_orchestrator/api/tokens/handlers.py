"""`/v1/tokenize` and `/v1/detokenize`: a worker answers, since only it has the model's tokenizer."""

from __future__ import annotations

from contextlib import ExitStack

import orjson
from aiohttp import web

from relais_common.jobs.channels import channel_model
from relais_orchestrator.api.answering import open_answer
from relais_orchestrator.api.tokens.schemas import DetokenizeResponse, TokenizeResponse
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.http.responses import json_response
from relais_orchestrator.submission.reading import Reading


async def tokenize(request: web.Request) -> web.Response:
    """Return the token ids of a text or a chat."""
    model, text = await _ask(request, Reading.TOKENIZE)
    state = (await request.app[PARTS].model_states.all()).get(model)
    told = orjson.loads(text)
    # Workers tell ids alone where nothing more is asked.
    tokens: list[int] = told if isinstance(told, list) else told["tokens"]
    body: TokenizeResponse = {
        "count": len(tokens),
        "max_model_len": None if state is None else state.max_model_len,
        "tokens": tokens,
        "token_strs": None if isinstance(told, list) else told["token_strs"],
    }
    return json_response(body)


async def detokenize(request: web.Request) -> web.Response:
    """Return the text of token ids."""
    _, text = await _ask(request, Reading.DETOKENIZE)
    body: DetokenizeResponse = {"prompt": text}
    return json_response(body)


async def _ask(request: web.Request, route: Reading) -> tuple[str, str]:
    """Queue the request and wait for its end. Returns the model's own name and the worker's answer."""
    with ExitStack() as open_request:
        _, answer = await open_answer(request, route, open_request)
        whole = await answer.whole()
        return channel_model(answer.channel_id), whole.text
