"""Identifies the caller of a request and checks which channels it may read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from aiohttp import web

from relais_common.jobs.channels import channel_tag
from relais_common.jobs.errors import ChannelNotFound, Forbidden
from relais_common.jobs.job import ChannelState
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.http.held import HOLDER
from relais_orchestrator.http.request_ids import call_by_channel

KeyCheck = Callable[[], None]
"""Raises KeyRevoked once the key that opened a stream is no longer valid."""

_CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)


def caller_of(request: web.Request) -> Caller:
    """Return who sent the request. Raises Unauthorized."""
    if _CALLER in request:
        return request[_CALLER]
    headers = request.headers
    caller = request.app[PARTS].key_ring.identify(
        headers.get("Authorization"), headers.get("X-Api-Key")
    )
    request[_CALLER] = caller
    request[HOLDER] = caller.key_id
    return caller


def check_admin(request: web.Request) -> None:
    """Raises Unauthorized, or Forbidden if the key has no admin rights."""
    if not caller_of(request).may.admin:
        raise Forbidden("this needs a key with admin rights")


async def own_channel(request: web.Request) -> ChannelState:
    """Return the channel in the path, if this request's key owns it.

    Raises:
        Unauthorized: no key.
        ChannelNotFound: it never existed, has expired, or belongs to another key; the answer is the same.
    """
    return await _channel(request, caller_of(request).key_id)


async def readable_channel(request: web.Request) -> tuple[ChannelState, KeyCheck]:
    """Return the channel in the path, opened by its key or by a signed `?token=`.

    Raises:
        Unauthorized: no key, or a token for a channel whose client no longer has a key.
        ChannelNotFound: as `own_channel`.
    """
    parts = request.app[PARTS]
    if parts.signer.opens(request.query.get("token", ""), request.match_info["channel_id"]):
        state = await _channel(request, None)
        check = partial(parts.key_ring.check_client, state.key_id)
        check()
        return state, check
    caller = caller_of(request)
    return await _channel(request, caller.key_id), partial(parts.key_ring.check, caller)


async def _channel(request: web.Request, owner: str | None) -> ChannelState:
    channel_id = request.match_info["channel_id"]
    try:
        channel_tag(channel_id)
    except ValueError:
        raise ChannelNotFound("there is no such channel", param="channel_id") from None
    state = await request.app[PARTS].queue.state(channel_id)
    if state is None or (owner is not None and state.key_id != owner):
        raise ChannelNotFound("there is no such channel", param="channel_id")
    call_by_channel(request, channel_id)
    return state
