"""Resumes from a dead worker's log: reads it, and decides whether it is enough to continue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from relais_common.jobs.chat import ChatOptions, joined
from relais_common.jobs.errors import NotResumable, StoreUnavailable
from relais_common.jobs.events import Prompt, Restarted, Token
from relais_common.jobs.job import Sampling
from relais_common.queue.codec import decode_event
from relais_common.queue.ports import EventLog
from relais_common.runtime.backoff import Backoff
from relais_llm_worker.engine import Emitted
from relais_llm_worker.model import Cut

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Logged:
    """What a log has of a job.

    Attributes:
        answers: what was published of each, by index.
        prompts: those that were told.
    """

    answers: Mapping[int, Emitted] = field(default_factory=dict)
    prompts: Collection[int] = ()


async def read_logged(event_log: EventLog, channel_id: str, tail: int) -> Logged:
    """Read a channel's first `tail` events, without what a `restarted` made void.

    An answer has no token ids if any of it came without them: the rest would not be enough.

    Waits while the store is unavailable, and for events that the log has lost since the take: if they do not come
    back, the lease is lost too, and its next renewal reports it.
    """
    tokens: defaultdict[int, list[Token]] = defaultdict(list)
    prompts: set[int] = set()
    backoff = Backoff()
    position = 0
    while position < tail:
        try:
            lines = await event_log.read(
                channel_id, after=position, limit=min(PAGE, tail - position)
            )
        except StoreUnavailable:
            lines = []
        if not lines:
            await backoff.pause()
        for line in lines:
            match decode_event(line):
                case Token() as token:
                    tokens[token.index].append(token)
                case Prompt() as prompt:
                    prompts.add(prompt.index)
                case Restarted():
                    tokens.clear()
        position += len(lines)
    return Logged({index: _emitted(of_one) for index, of_one in tokens.items()}, prompts)


def _emitted(tokens: Sequence[Token]) -> Emitted:
    all_known = all(token.token_ids or not token.says_something for token in tokens)
    known = tokens if all_known else ()
    deltas = chain.from_iterable(token.tool_calls for token in tokens)
    return Emitted(
        tuple(chain.from_iterable(token.token_ids for token in known)),
        "".join(token.text for token in tokens),
        "".join(token.reasoning for token in tokens),
        joined(deltas),
        tokens[-1].end,
    )


def require_resumable(
    cut: Cut, revisions: Collection[str], sampling: Sampling, *, forces_tokens: bool = False
) -> None:
    """Raise NotResumable unless prompt and tokens are sufficient to continue here.

    Args:
        revisions: revisions of the model that can run here.
        sampling: parameters, with the model's defaults filled in.
        forces_tokens: the engine can make the emitted tokens again, which overcomes every `obstacle`.
    """
    why_not = None
    if not (cut.emitted.token_ids and cut.prompt_token_ids):
        why_not = "its tokens are not known"
    elif cut.model_revision not in revisions:
        why_not = "the model has changed since"
    if why_not is None and not forces_tokens:
        why_not = obstacle(sampling)
    if why_not is not None:
        raise NotResumable(f"the worker was lost in the middle of the answer, and {why_not}")


def obstacle(sampling: Sampling, chat: ChatOptions | None = None) -> str | None:
    """Return what a prompt with the emitted tokens at its end does not preserve, or None if it preserves everything.

    Sampling without a seed can continue: the rest is drawn from the same distribution. Greedy choice, repetition
    penalty (it counts prompt and answer alike), logit bias, allowed tokens and stop tokens depend on the tokens alone.

    Args:
        chat: given where the sampling is not settled for it.
    """
    if sampling.seed is not None and sampling.temperature != 0:
        return "the state of its seeded sampling is lost"
    if sampling.presence_penalty or sampling.frequency_penalty:
        return "its penalties count the tokens of the answer only"
    if sampling.thinking_token_budget is not None:
        return "its thinking_token_budget counts the tokens of the answer only"
    if sampling.bad_words:
        return "its bad_words are looked for in the answer only"
    if sampling.response_format is not None:
        return "the state of its response_format is lost"
    if sampling.structured_outputs is not None:
        return "the state of its structured_outputs is lost"
    if chat is not None and chat.must_call:
        return "the state of its forced tool call is lost"
    return None
