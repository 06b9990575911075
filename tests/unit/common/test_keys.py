"""Key names are a contract with data that is already in Redis: here are the literal strings."""

from __future__ import annotations

import pytest

from relais_common.queue import keys, scripts

MODEL = "org/model é"
TAG = "org~2fmodel~20~c3~a9"
CHANNEL = f"{TAG}.AAAAAAAAAAAAAAAAAAAAAA"


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        (keys.WORKERS, "relais:workers"),
        (keys.SIGNING_SECRET, "relais:signing-secret"),
        (keys.worker("w-1"), "relais:worker:w-1"),
        (keys.model_base(MODEL), f"relais:{{{TAG}}}"),
        (keys.channel_base(CHANNEL), f"relais:{{{TAG}}}"),
        (keys.lane(MODEL, "high", "key-a"), f"relais:{{{TAG}}}:queue:high:key-a"),
        (keys.turns(MODEL, "low"), f"relais:{{{TAG}}}:turns:low"),
        (keys.suspects(MODEL), f"relais:{{{TAG}}}:suspects"),
        (keys.counts(MODEL), f"relais:{{{TAG}}}:counts"),
        (keys.used(MODEL, "tokens", "key-a"), f"relais:{{{TAG}}}:used:tokens:key-a"),
        (keys.usage(MODEL, 20_000), f"relais:{{{TAG}}}:usage:20000"),
        (keys.inflight(MODEL), f"relais:{{{TAG}}}:inflight"),
        (keys.deadlines(MODEL), f"relais:{{{TAG}}}:deadlines"),
        (keys.watched(MODEL), f"relais:{{{TAG}}}:watched"),
        (keys.images(MODEL), f"relais:{{{TAG}}}:images"),
        (keys.image(MODEL, "key-a", "c0ffee"), f"relais:{{{TAG}}}:image:key-a:c0ffee"),
        (keys.wakeup(MODEL), f"relais:{{{TAG}}}:wakeup"),
        (keys.dead(MODEL), f"relais:{{{TAG}}}:dead"),
        (keys.traces(MODEL), f"relais:{{{TAG}}}:traces"),
        (keys.traces_aside(MODEL), f"relais:{{{TAG}}}:traces:aside"),
        (keys.control(MODEL), f"relais:{{{TAG}}}:control"),
        (keys.presence(MODEL, "o-1"), f"relais:{{{TAG}}}:presence:o-1"),
        (keys.take_memo(MODEL, "w-1"), f"relais:{{{TAG}}}:take:w-1"),
        (keys.job(CHANNEL), f"relais:{{{TAG}}}:job:{CHANNEL}"),
        (keys.log(CHANNEL), f"relais:{{{TAG}}}:log:{CHANNEL}"),
        (keys.vectors(CHANNEL), f"relais:{{{TAG}}}:vectors:{CHANNEL}"),
        (keys.live(CHANNEL), f"relais:{{{TAG}}}:live:{CHANNEL}"),
        (
            keys.idempotency(MODEL, "key-a", "c0ffee"),
            f"relais:{{{TAG}}}:idempotency:key-a:c0ffee",
        ),
    ],
)
def test_key_is_spelt_like_this(name: str, literal: str) -> None:
    assert name == literal


def test_channel_keys_need_a_channel_id() -> None:
    for make in (keys.channel_base, keys.job, keys.log, keys.live, keys.vectors):
        with pytest.raises(ValueError, match="channel id"):
            make("no channel")


@pytest.mark.parametrize("name", scripts.NAMES)
def test_script_names_no_key_but_those_of_its_base(name: str) -> None:
    text = scripts.source(name)
    code = "\n".join(line.split("--")[0] for line in text.splitlines())
    assert "relais:" not in code, "every name derives from KEYS[1], and so lies in its slot"
    assert "KEYS[2]" not in code
