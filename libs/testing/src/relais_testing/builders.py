"""Jobs and events with defaults, so that a test states only what matters to it."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.chat import ImagePart, ImageUrl, Message, TextPart
from relais_common.jobs.events import Completed, Timings, Token, Usage
from relais_common.jobs.job import Job, Operation, TakenJob
from relais_common.queue import codec
from relais_common.worker.held import HeldJob
from relais_common.worker.metrics import JobMetrics, WorkerMetrics

MODEL = "org/model"
COMPLETED = Completed("stop", Usage(3, 2), Timings(queue_s=0.1, prefill_s=0.2, decode_s=0.3))


def make_job(key_id: str = "key-a", *, model: str = MODEL, **fields: Any) -> Job:
    """Return a chat job; any field of `Job` may be given."""
    defaults: dict[str, Any] = {
        "channel_id": new_channel_id(model),
        "operation": Operation.CHAT,
        "deadline_s": 600.0,
        "log_ttl_s": 60.0,
        "result_ttl_s": 120.0,
    }
    if not fields.keys() & {"prompt", "prompts", "embedding"}:
        defaults["messages"] = (Message("user", "Où est la gare ?"),)
    return Job(key_id=key_id, model=model, **(defaults | fields))


def picture(characters: int = 4000, letter: str = "A") -> Message:
    """Return a turn with an image, or what looks like one, of so much base64."""
    url = f"data:image/png;base64,{letter * characters}"
    return Message("user", (TextPart("What is it?"), ImagePart(ImageUrl(url))))


def token_line(text: str = "a", *token_ids: int) -> bytes:
    """Return an encoded `token` event."""
    return codec.encode_event(Token(text, token_ids or (1,)))


def worker_metrics(*models: str) -> WorkerMetrics:
    """Return metrics that nobody reads."""
    return WorkerMetrics(CollectorRegistry(), models or [MODEL])


def hold(taken: TakenJob) -> HeldJob:
    """Return a job held by a worker whose metrics nobody reads."""
    return HeldJob(taken, JobMetrics(worker_metrics(taken.job.model), taken))
