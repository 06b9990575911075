"""Which key a request has, and which channels it may see."""

from __future__ import annotations

from aiohttp import web

from relais_common.channels import channel_tag
from relais_common.errors import ChannelNotFound, Forbidden
from relais_common.jobs import ChannelState
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.auth import Caller


def key_id(request: web.Request) -> str:
    """Raises Unauthorized."""
    return _caller(request).key_id


def admin_key_id(request: web.Request) -> str:
    """Raises Unauthorized, or Forbidden where the key is no operator's."""
    caller = _caller(request)
    if not caller.admin:
        raise Forbidden("this needs a key with admin rights")
    return caller.key_id


def _caller(request: web.Request) -> Caller:
    return request.app[PARTS].key_ring.identify(request.headers.get("Authorization"))


async def own_channel(request: web.Request, *, token_opens: bool = False) -> ChannelState:
    """The channel in the path, if this request may see it.

    Args:
        token_opens: a signed `?token=` does instead of a key.

    Raises:
        Unauthorized: no key.
        ChannelNotFound: it never existed, is gone, or is another key's: the answer is the same.
    """
    parts = request.app[PARTS]
    channel_id = request.match_info["channel_id"]
    by_token = token_opens and parts.signer.opens(request.query.get("token", ""), channel_id)
    owner = None if by_token else key_id(request)
    try:
        channel_tag(channel_id)
    except ValueError:
        raise ChannelNotFound("there is no such channel", param="channel_id") from None
    state = await parts.queue.state(channel_id)
    if state is None or (owner is not None and state.key_id != owner):
        raise ChannelNotFound("there is no such channel", param="channel_id")
    return state
