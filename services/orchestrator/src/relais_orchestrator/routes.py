"""The route table, readable as the API."""

from __future__ import annotations

from aiohttp import web

from relais_orchestrator import admin, events, native
from relais_orchestrator.openai import handlers as openai

ROUTES = [
    web.post("/v1/requests", native.submit),
    web.get("/v1/channels/{channel_id}", native.show, allow_head=False),
    web.delete("/v1/channels/{channel_id}", native.cancel),
    web.get("/v1/channels/{channel_id}/events", events.stream_events, allow_head=False),
    web.post("/v1/chat/completions", openai.chat_completions),
    web.post("/v1/completions", openai.completions),
    web.get("/v1/models", openai.list_models, allow_head=False),
    web.get("/v1/models/{model:.+}", openai.show_model, allow_head=False),
    web.get("/v1/admin/queues", admin.queues, allow_head=False),
    web.get("/v1/admin/workers", admin.workers, allow_head=False),
    web.get("/v1/admin/channels", admin.channels, allow_head=False),
    web.get("/v1/admin/dead-letters", admin.dead_letters, allow_head=False),
    web.post("/v1/admin/dead-letters/{channel_id}/replay", admin.replay),
    web.delete("/v1/admin/dead-letters/{channel_id}", admin.drop),
]
