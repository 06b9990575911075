"""Reports what a key has left of its minute, in OpenAI's rate limit headers."""

from __future__ import annotations

from aiohttp import web

from relais_common.jobs.limits import Bucket, Buckets

_BUCKETS: web.RequestKey[Buckets] = web.RequestKey("buckets", Buckets)


def note(request: web.Request, buckets: Buckets | None) -> None:
    """Have the response to this request report these buckets."""
    if buckets is not None:
        request[_BUCKETS] = buckets


async def stamp(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers; for `Application.on_response_prepare`."""
    buckets = request.get(_BUCKETS)
    if buckets is not None:
        response.headers.update(rate_headers(buckets))


def rate_headers(buckets: Buckets) -> dict[str, str]:
    """Return `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` for the existing limits."""
    return _headers("requests", buckets.requests) | _headers("tokens", buckets.tokens)


def _headers(what: str, bucket: Bucket | None) -> dict[str, str]:
    if bucket is None:
        return {}
    return {
        f"x-ratelimit-limit-{what}": str(bucket.per_minute),
        f"x-ratelimit-remaining-{what}": str(bucket.remaining),
        f"x-ratelimit-reset-{what}": duration(bucket.reset_s),
    }


def duration(seconds: float) -> str:
    """Format a duration as OpenAI does, rounded up to a millisecond: `12ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    milliseconds = -int(-seconds * 1000 // 1)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    rest = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}"
    return f"{minutes}m{rest}" if minutes else rest
