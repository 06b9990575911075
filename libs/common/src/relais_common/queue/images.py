"""Takes images out of an encoded job, so that each can be stored once. Pure; `lua/images.lua` puts them back."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from secrets import token_hex
from typing import NamedTuple

import orjson

from relais_common.jobs.chat import images_of, with_images
from relais_common.jobs.job import Job
from relais_common.queue import codec

LEAST_BYTES = 1024
"""Size from which an image is taken out."""


class Apart(NamedTuple):
    """An encoded job and its images.

    Attributes:
        payload: the job; the data of each image's URL is replaced by `stand_in`. If any is, it has the field
            `codec.APART`, so that versions that cannot put images back refuse it.
        places: `<bytes of the payload before it>:<hash>` for each place of an image, in order, with spaces between.
        images: the data as JSON has it, by its SHA-256 in hexadecimal, in order of the first place.
    """

    payload: bytes
    places: str
    images: dict[str, bytes]


def stand_in(characters: int) -> str:
    """Return what stands for an image's data, which it cannot be: base64 has no parentheses."""
    return f"({characters} characters)"


def take_out(job: Job) -> Apart:
    """Encode a job, with its larger images apart."""
    large = [
        (path, kind, data)
        for path, part in images_of(job.messages or ())
        for kind, _, data in (part.image_url.url.partition(","),)
        if len(data) >= LEAST_BYTES
    ]
    if not large:
        return Apart(codec.encode_job(job), "", {})
    mark = token_hex(16)  # nobody could have written it elsewhere in the job
    urls = {path: f"{kind},{mark}{stand_in(len(data))}" for path, kind, data in large}
    messages = with_images(job.messages or (), urls)
    first, *pieces = codec.encode_job(replace(job, messages=messages)).split(mark.encode())
    payload, places, images = bytearray(first), [], {}
    for piece, (_, _, data) in zip(pieces, large, strict=True):
        image = orjson.dumps(data)[1:-1]
        digest = hashlib.sha256(image).hexdigest()
        images[digest] = image
        places.append(f"{len(payload)}:{digest}")
        payload += piece
    payload[-1:] = b',"%b":true}' % codec.APART.encode()  # behind all places
    return Apart(bytes(payload), " ".join(places), images)
