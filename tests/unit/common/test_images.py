"""Images are taken out of an encoded job, and are found again at their places."""

from __future__ import annotations

import hashlib

import orjson
import pytest

from relais_common.jobs.chat import ImagePart, ImageUrl, Message, TextPart
from relais_common.jobs.errors import DecodeError
from relais_common.jobs.job import Job
from relais_common.queue import codec
from relais_common.queue.images import LEAST_BYTES, Apart, stand_in, take_out
from relais_testing.builders import make_job, picture


def put_back(apart: Apart) -> bytes:
    """What `with_images` of `lua/images.lua` does."""
    whole, start = b"", 0
    for place in apart.places.split():
        at, _, digest = place.partition(":")
        whole += apart.payload[start : int(at)] + apart.images[digest]
        start = apart.payload.index(b'"', int(at))
    return whole + apart.payload[start:]


JOBS = {
    "one": make_job(messages=(picture(),)),
    "the same twice": make_job(messages=(picture(), picture(letter="B"), picture())),
    "beside a small one": make_job(messages=(picture(LEAST_BYTES - 1, "B"), picture())),
    "what JSON escapes": make_job(messages=(picture(letter='é"\\\n'),)),
    "text that looks like a place": make_job(
        messages=(Message("user", f'"url":"data:image/png;base64,{stand_in(4000)}"'), picture())
    ),
    "with a detail": make_job(
        messages=(
            Message(
                "user",
                (
                    ImagePart(ImageUrl(f"data:image/gif;base64,{'A' * 5000}", "low")),
                    TextPart("é" * 5000),
                ),
            ),
        )
    ),
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS.keys())
def test_job_with_its_images_put_back_is_what_it_was(job: Job) -> None:
    apart = take_out(job)
    assert apart.places
    assert codec.decode_job(put_back(apart)) == job
    assert all(hashlib.sha256(one).hexdigest() == digest for digest, one in apart.images.items())


def test_version_that_does_not_know_of_images_apart_cannot_decode_such_a_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would otherwise blame the client for what stands for the images."""
    payload = take_out(make_job(messages=(picture(),))).payload
    monkeypatch.setattr(codec, "APART", "unknown")
    with pytest.raises(DecodeError):
        codec.decode_job(payload)


def test_same_image_is_taken_out_once_and_found_at_both_places() -> None:
    apart = take_out(make_job(messages=(picture(), picture(letter="B"), picture())))
    assert [len(image) for image in apart.images.values()] == [4000, 4000]
    digests = [place.partition(":")[2] for place in apart.places.split()]
    assert digests == [*apart.images, digests[0]]


def test_same_image_has_the_same_hash_in_any_request() -> None:
    (one,) = take_out(make_job(messages=(picture(),))).images
    (other,) = take_out(make_job("key-b", messages=(Message("user", "Non"), picture()))).images
    assert one == other


@pytest.mark.parametrize(
    "job",
    [
        make_job(),
        make_job(prompt="x" * 9000),
        make_job(messages=(picture(LEAST_BYTES - 1),)),
        make_job(messages=(Message("user", "data:image/png;base64," + "A" * 9000),)),
    ],
    ids=["a chat", "a prompt", "a small image", "a text that looks like one"],
)
def test_what_has_no_large_image_is_encoded_as_it_is(job: Job) -> None:
    assert take_out(job) == (codec.encode_job(job), "", {})


def test_payload_tells_type_and_length() -> None:
    request = orjson.loads(take_out(make_job(messages=(picture(),))).payload)
    image = request["messages"][0]["content"][1]["image_url"]
    assert image == {"url": "data:image/png;base64,(4000 characters)"}
