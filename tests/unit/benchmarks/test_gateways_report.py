"""What `benchmarks gateways` counts as delivered, as failed, and as a gateway's own cost."""

from __future__ import annotations

import time
from array import array
from dataclasses import replace

import pytest

from benchmarks.answering.report import Measured
from benchmarks.forwarding.report import (
    BARE,
    LITELLM,
    RELAIS,
    Step,
    ladder_text,
    latency_text,
    own_cpu_us,
    rate_text,
    step_line,
)
from benchmarks.forwarding.streams import Stream

CPU_US = {"orchestrator": 20.0, "worker": 40.0, "redis": 10.0, "upstream": 15.0, "client": 12.0}
STEP = Step(
    streams=64,
    opened=64,
    opening_s=0.2,
    offered_per_s=3200,
    sent_per_s=3199,
    frames=12_800,
    elapsed_s=4.0,
    delays_ms=(2.0, 8.0),
    cpu_us=CPU_US,
    busy={"client": 0.2, "upstream": 0.3},
)


def measured(latency_s: float, cpu_us: dict[str, float]) -> Measured:
    return Measured(100, 100 * latency_s, (latency_s,) * 100, cpu_us, 0.1)


def token(number: int, stamp: int) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%07dat%019d;"}}]}\n\n' % (number, stamp)


class Reading:
    """A stream that gets bytes as its parser would hand them on."""

    async def start(self) -> Reading:
        self.delays_s: array[float] = array("d")
        self.stream = Stream(7, b"", 2, self.delays_s)
        return self

    def read(self, *pieces: bytes) -> Stream:
        for piece in pieces:
            self.stream.on_body(piece)
        return self.stream


@pytest.fixture
async def reading() -> Reading:
    return await Reading().start()


def test_upstream_and_client_are_no_gateway_s_own_cost() -> None:
    assert own_cpu_us(CPU_US) == 70
    assert "70.0" in step_line(RELAIS, STEP)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"delays_ms": (900.0, 1000.0)}, None),
        ({"delays_ms": (900.0, 1001.0)}, "p99 of a frame's delay over 1 s"),
        ({"sent_per_s": 2800}, "the upstream sent under 90% of what was offered"),
        ({"errors": ("2 streams cut", "2 streams cut")}, "2 streams cut"),
        ({"errors": ("refused with 503",), "frames": 0, "delays_ms": ()}, "refused with 503"),
    ],
)
def test_a_step_fails_by_errors_by_late_frames_and_by_those_never_sent(
    changes: dict[str, object], why: str | None
) -> None:
    step = replace(STEP, **changes)  # type: ignore[arg-type]
    assert step.failed == why
    assert ("FAILED" in step_line(RELAIS, step)) == (why is not None)


def test_whoever_is_at_his_limit_is_named() -> None:
    assert "over 85%" not in step_line(RELAIS, STEP)
    busy = replace(STEP, busy={"client": 0.86, "upstream": 0.99})
    assert "[client and upstream over 85% of a core]" in step_line(RELAIS, busy)


def test_a_ladder_ends_with_its_last_passed_step_and_is_compared_there() -> None:
    larger = replace(STEP, streams=256, offered_per_s=12_800, sent_per_s=12_790, frames=51_200)
    late = replace(larger, delays_ms=(900.0, 2000.0))
    costly = replace(STEP, cpu_us={"litellm": 350.0, "client": 12.0}, delays_ms=(4.0, 16.0))
    text = ladder_text({BARE: [STEP, larger], LITELLM: [costly, late], RELAIS: [STEP, larger]})
    bare, litellm, relais = text.splitlines()
    assert bare == "upstream alone: up to 256 streams, 12,800 frames/s"
    assert litellm == (
        "LiteLLM: up to 64 streams, 3,200 frames/s; at 64 streams 5.00 of Relais's CPU per frame,"
        " 2.00 of its p99 delay"
    )
    assert relais == "Relais: up to 256 streams, 12,800 frames/s"
    assert "LiteLLM: passed no step" in ladder_text({LITELLM: [late], RELAIS: [STEP]})


def test_latency_is_what_a_side_adds_to_the_upstream_s() -> None:
    round_ = {
        BARE: measured(0.020, {}),
        LITELLM: measured(0.035, {}),
        RELAIS: measured(0.025, {}),
    }
    bare, litellm, relais = latency_text([round_]).splitlines()[1:]
    assert bare.split()[-2:] == ["20.00", "20.00"]
    assert litellm.split()[-3:] == ["15.00", "15.00", "3.00"]
    assert relais.split()[-3:] == ["5.00", "5.00", "1.00"]


def test_rates_and_cpu_are_compared_with_relais() -> None:
    round_ = {
        BARE: measured(0.020, {"upstream": 50.0}),
        LITELLM: measured(0.040, {"litellm": 700.0, "upstream": 50.0}),
        RELAIS: measured(0.025, CPU_US),
    }
    litellm = rate_text([round_]).splitlines()[2]
    assert litellm.split()[:3] == ["LiteLLM", "25", "0.62"]
    assert " 10.00 " in litellm


async def test_a_token_that_comes_in_two_pieces_is_one(reading: Reading) -> None:
    now_ns = time.monotonic_ns()
    whole = token(7, now_ns)
    stream = reading.read(whole[:60], whole[60:] + token(7, now_ns), b"data: [DONE]\n\n")
    assert (stream.tokens, stream.wrong) == (2, 0)
    assert stream.ended.done()
    assert stream.closed.done()
    assert len(reading.delays_s) == 2
    assert all(0 <= delay_s < 60 for delay_s in reading.delays_s)


@pytest.mark.parametrize(
    "pieces",
    [
        [token(8, 5)],
        [token(7, 5), token(7, 4)],
        [token(7, 5).replace(b'"}}', b'0000007at%019d;"}}' % 6)],
    ],
    ids=["of another stream", "out of order", "two in a frame"],
)
async def test_a_token_that_is_not_the_next_in_its_own_frame_is_wrong(
    reading: Reading, pieces: list[bytes]
) -> None:
    assert reading.read(*pieces).wrong == 1
