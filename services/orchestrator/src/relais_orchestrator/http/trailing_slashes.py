"""Lets clients end a path with a slash: `/v1/models/` is `/v1/models`."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from yarl import URL


class TrailingSlashes:
    """Drops the slash at the end of paths.

    Args:
        paths: those that any key may use. Other paths have no second name, so that a proxy that blocks one blocks it.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._groups = {_group(path) for path in paths}

    def dropped(self, request: web.BaseRequest) -> web.BaseRequest:
        """Return the request without the slash, or as it is if that would be another path."""
        path = request.rel_url.raw_path
        if not path.endswith("/") or path.endswith("//") or _group(path) not in self._groups:
            return request
        query = request.rel_url.raw_query_string
        return request.clone(rel_url=URL.build(path=path[:-1], query_string=query, encoded=True))


def _group(path: str) -> str:
    """Return the version and the first name, as in `/v1/chat`; of `/tokenize/`, the name."""
    return "/".join(path.split("/", 3)[:3]).rstrip("/")
