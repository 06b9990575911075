"""All Redis keys and channels of Relais. Nothing else spells one.

All keys of a queue share one Redis Cluster hash tag, so each script runs in one slot. A model has one queue or several:
where a function takes a model, it takes the name of any of its queues (`queue_of`). The scripts derive the same names
from their first key, `base`; `tests/unit/common/test_keys.py` pins the literal strings.
"""

from __future__ import annotations

from relais_common.jobs.channels import channel_tag, queue_tag

PREFIX = "relais"

WORKERS = f"{PREFIX}:workers"
"""ZSET, bounded: worker ids, scored by their last heartbeat."""

SIGNING_SECRET = f"{PREFIX}:signing-secret"
"""STRING: the secret that signs `events_url` tokens, shared by all orchestrators."""


def worker(worker_id: str) -> str:
    """STRING with TTL: a worker's last heartbeat, as JSON."""
    return f"{PREFIX}:worker:{worker_id}"


def model_base(model: str) -> str:
    """The prefix of all keys of a queue; `KEYS[1]` of every script."""
    return f"{PREFIX}:{{{queue_tag(model)}}}"


def channel_base(channel_id: str) -> str:
    """`model_base` of a channel's queue. Raises ValueError if it is not a channel id."""
    return f"{PREFIX}:{{{channel_tag(channel_id)}}}"


def lane(model: str, priority: str, key_id: str) -> str:
    """LIST: waiting job ids of one priority and key, oldest first (RPUSH, LPOP). May hold tombstones."""
    return f"{model_base(model)}:queue:{priority}:{key_id}"


def turns(model: str, priority: str) -> str:
    """LIST: key ids that have a lane, in the order of their turns."""
    return f"{model_base(model)}:turns:{priority}"


def suspects(model: str) -> str:
    """LIST: jobs that crashed a worker, waiting to be run alone."""
    return f"{model_base(model)}:suspects"


def counts(model: str) -> str:
    """HASH: waiting jobs, order numbers, lane counters, mean service time."""
    return f"{model_base(model)}:counts"


def open_jobs(model: str) -> str:
    """HASH: unfinished jobs by key id."""
    return f"{model_base(model)}:open"


def running_jobs(model: str) -> str:
    """HASH: running jobs by key id."""
    return f"{model_base(model)}:running"


def used(model: str, limit: str, key_id: str) -> str:
    """STRING with TTL: `<used> <at>`, a key's usage of a limit per minute (`requests` or `tokens`)."""
    return f"{model_base(model)}:used:{limit}:{key_id}"


def usage(model: str, day: int) -> str:
    """HASH with TTL: `<key id> <counter>` of all keys on one day, which counts from 1970-01-01 in UTC."""
    return f"{model_base(model)}:usage:{day}"


def shards(model: str) -> str:
    """ZSET with TTL, bounded: numbers of queues that requests were spread over, scored by when they last were."""
    return f"{model_base(model)}:shards"


def redo(model: str) -> str:
    """LIST with TTL: writes that steps could not complete, packed; the reaper carries them out."""
    return f"{model_base(model)}:redo"


def host(model: str) -> str:
    """STRING with TTL: the busy worker that empties itself for a suspect."""
    return f"{model_base(model)}:host"


def takers(model: str) -> str:
    """HASH: workers that recently had room; how many jobs each held then, and when."""
    return f"{model_base(model)}:takers"


def inflight(model: str) -> str:
    """ZSET: taken job ids, scored by the end of their lease."""
    return f"{model_base(model)}:inflight"


def deadlines(model: str) -> str:
    """ZSET: job ids, scored by their deadline."""
    return f"{model_base(model)}:deadlines"


def watched(model: str) -> str:
    """ZSET: ids of jobs with `on_disconnect: cancel`, scored by the end of their watch lease."""
    return f"{model_base(model)}:watched"


def held(model: str) -> str:
    """HASH: bytes held for each key's jobs, unfinished and ended."""
    return f"{model_base(model)}:held"


def fading(model: str) -> str:
    """ZSET: ends of ten-second spans in which the remains of ended jobs expire."""
    return f"{model_base(model)}:fading"


def fading_span(model: str, at: int) -> str:
    """HASH: bytes that expire in the span that ends then, by key id; the total under the empty name."""
    return f"{model_base(model)}:fading:{at}"


def images(model: str) -> str:
    """SET with TTL: `<key id>:<hash>` of each image that unfinished jobs have."""
    return f"{model_base(model)}:images"


def image(model: str, key_id: str, image_hash: str) -> str:
    """HASH with TTL: an image that a key's unfinished jobs have: its data, how many have it, bytes counted for it."""
    return f"{model_base(model)}:image:{key_id}:{image_hash}"


def wakeup(model: str) -> str:
    """LIST, capped: what an idle worker blocks on."""
    return f"{model_base(model)}:wakeup"


def wakeup_of(model: str, worker_id: str) -> str:
    """LIST with TTL, capped: what wakes this worker alone, because it had the beginning of a new job's prompt."""
    return f"{wakeup(model)}:{worker_id}"


def homes(model: str) -> str:
    """HASH with TTL, bounded: which worker had the beginning of a prompt last, by the beginning's name."""
    return f"{model_base(model)}:homes"


def older_homes(model: str) -> str:
    """HASH with TTL, bounded: the same, of beginnings that were named before those of `homes`."""
    return f"{homes(model)}:older"


def dead(model: str) -> str:
    """LIST, bounded: jobs out of attempts, newest first."""
    return f"{model_base(model)}:dead"


def traces(model: str) -> str:
    """STREAM with one group, bounded: records of ended jobs on their way to the database."""
    return f"{model_base(model)}:traces"


def traces_aside(model: str) -> str:
    """STREAM with TTL, bounded: records that could not be written."""
    return f"{model_base(model)}:traces:aside"


def control(model: str) -> str:
    """PUBSUB channel: ids of running jobs that are asked to stop."""
    return f"{model_base(model)}:control"


def presence(model: str, watcher_id: str) -> str:
    """PUBSUB channel on which nothing is ever published: an orchestrator stays subscribed as long as it exists."""
    return f"{model_base(model)}:presence:{watcher_id}"


def take_memo(model: str, worker_id: str) -> str:
    """STRING with TTL: a worker's last take, to answer the same call again."""
    return f"{model_base(model)}:take:{worker_id}"


def job(channel_id: str) -> str:
    """HASH with TTL: payload, key id, status, fence, failures, cancel flag, timestamps."""
    return f"{channel_base(channel_id)}:job:{channel_id}"


def log(channel_id: str) -> str:
    """LIST with TTL: the channel's encoded events; event n is element n - 1."""
    return f"{channel_base(channel_id)}:log:{channel_id}"


def vectors(channel_id: str) -> str:
    """STRING with TTL: the vectors of a completed request, packed float32."""
    return f"{channel_base(channel_id)}:vectors:{channel_id}"


def live(channel_id: str) -> str:
    """PUBSUB channel: each batch of events as it is appended."""
    return f"{channel_base(channel_id)}:live:{channel_id}"


def idempotency(model: str, key_id: str, key_hash: str) -> str:
    """STRING with TTL: `<channel id> <body hash>` of the first request with this key."""
    return f"{model_base(model)}:idempotency:{key_id}:{key_hash}"
