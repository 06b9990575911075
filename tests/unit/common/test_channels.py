"""Channel ids: safe anywhere, and they tell their model."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relais_common.jobs.channels import (
    MAX_MODEL_NAME_BYTES,
    MOST_SHARDS,
    channel_model,
    channel_queue,
    channel_shard,
    channel_tag,
    model_tag,
    new_channel_id,
    queue_model,
    queue_of,
    queue_tag,
    tag_model,
)

RANDOM = "A" * 22
MODELS = st.text(min_size=1, max_size=40).filter(
    lambda name: "\n" not in name and not any("\ud800" <= char <= "\udfff" for char in name)
)


@given(MODELS)
@example("org/model")
@example("a.b-c_D9")
@example("~41")
@example("{x}")
@example("é\t\x00")
@example("..")
def test_model_survives_the_way_through_tag_and_channel(model: str) -> None:
    tag = model_tag(model)
    assert re.fullmatch(r"[A-Za-z0-9._~-]+", tag)  # RFC 3986 unreserved: safe in URL and braces
    assert tag_model(tag) == model
    channel_id = new_channel_id(model)
    assert channel_tag(channel_id) == tag
    assert channel_model(channel_id) == model


@given(MODELS, st.integers(0, MOST_SHARDS - 1))
def test_queue_survives_the_way_through_a_channel(model: str, shard: int) -> None:
    queue = queue_of(model, shard)
    channel_id = new_channel_id(queue)
    assert channel_queue(channel_id) == queue
    assert channel_tag(channel_id) == queue_tag(queue)
    assert (channel_model(channel_id), queue_model(queue)) == (model, model)
    assert channel_shard(channel_id) == shard


def test_first_queue_of_a_model_has_its_name() -> None:
    assert (queue_of("m", 0), queue_tag("m")) == ("m", "m")
    assert queue_tag(queue_of("org/m", 7)) == "org~2fm:7"


@pytest.mark.parametrize("name", ["\n", "m\n1", "m\n"])
def test_no_model_is_named_like_a_shard(name: str) -> None:
    with pytest.raises(ValueError, match="line breaks"):
        model_tag(name)


@given(MODELS, MODELS)
def test_two_models_never_share_a_tag(one: str, other: str) -> None:
    assert (model_tag(one) == model_tag(other)) == (one == other)


def test_channel_ids_do_not_repeat() -> None:
    assert len({new_channel_id("m") for _ in range(1000)}) == 1000


def test_longest_model_name_fits_and_one_byte_more_does_not() -> None:
    longest = "é" * (MAX_MODEL_NAME_BYTES // 2)
    assert channel_model(new_channel_id(longest)) == longest
    with pytest.raises(ValueError, match="bytes"):
        model_tag(longest + "x")


def test_model_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        model_tag("")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        RANDOM,
        f".{RANDOM}",
        f"m.{RANDOM[1:]}",
        f"m.{RANDOM}A",
        f"m.{RANDOM}\n",
        f" m.{RANDOM}",
        f"m m.{RANDOM}",
        f"m}}.{RANDOM}",
        f"{{m.{RANDOM}",
        f"m:log.{RANDOM}",
        f"m:0.{RANDOM}",
        f"m:01.{RANDOM}",
        f"m:100.{RANDOM}",
        f"m:1:1.{RANDOM}",
        f":1.{RANDOM}",
        f"m:.{RANDOM}",
        f"m/../x.{RANDOM}",
        f"~2.{RANDOM}",
        f"~2F.{RANDOM}",
        f"~zz.{RANDOM}",
        f"é.{RANDOM}",
        f"m*.{RANDOM}",
        f"{'m' * 481}.{RANDOM}",
        "m." + "é" * 22,
    ],
)
def test_what_is_no_channel_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="channel id"):
        channel_tag(text)
    with pytest.raises(ValueError, match="channel id"):
        channel_model(text)


def test_tag_of_no_characters_at_all_is_refused() -> None:
    for text in ("~ff", "~c3", f"~ff~fe.{RANDOM}"):  # bytes that are not UTF-8
        with pytest.raises(ValueError, match="utf-8"):
            tag_model(text)
    with pytest.raises(ValueError, match="not a model tag"):
        tag_model("a b")


@given(st.text())
def test_any_text_is_a_channel_id_or_a_value_error(text: str) -> None:
    try:
        model = channel_model(text)
    except ValueError:
        return
    assert model


@given(st.from_regex(r"(?:[A-Za-z0-9._-]|~[0-9a-f]{2}){1,9}\.[A-Za-z0-9_-]{22}", fullmatch=True))
def test_a_model_has_one_spelling_only(channel_id: str) -> None:
    """Else one job could be asked for under two sets of keys."""
    try:
        model = channel_model(channel_id)
    except ValueError:
        return
    assert model_tag(model) == channel_tag(channel_id)
