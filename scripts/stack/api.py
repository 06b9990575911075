"""The HTTP API of a run, asked as a client would, and never through a proxy."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stack.errors import StackError
from stack.model import Program
from stack.probes import reachable

_TIMEOUT_S = 180.0


@contextmanager
def post(api: Program, path: str, body: Mapping[str, Any]) -> Iterator[http.client.HTTPResponse]:
    """The answer to a request that was accepted. Raises `StackError` where there is none, also while it is read."""
    headers = {
        "Content-Type": "application/json",
        # ENV=dev takes any key; elsewhere one of API_KEYS is wanted.
        "Authorization": f"Bearer {os.environ.get('RELAIS_API_KEY') or 'bootstrap'}",
    }
    connection = http.client.HTTPConnection(reachable(api.host), api.port, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        if response.status == 401:
            raise StackError(
                "the API wants a key for the first request: set RELAIS_API_KEY to one of API_KEYS"
            )
        if response.status != 200:
            raise StackError(
                f"the first request was refused: {message_of(response.read(65536)) or response.status}"
            )
        yield response
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise StackError(
            f"the first request got no answer: {str(error) or type(error).__name__}"
        ) from error
    finally:
        connection.close()


def message_of(body: bytes) -> str:
    """What an error of the API says."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return body.decode(errors="replace").strip()[:200]
