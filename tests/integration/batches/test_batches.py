"""`/v1/batches`: what becomes of the lines of a file."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relais_common.insights.batches import BATCHES, read_batches
from relais_common.insights.periods import Period
from relais_common.insights.rollups import HOUR, hour_of
from relais_common.runtime.lifecycle import pause
from relais_orchestrator.batches import feeding, runner
from relais_orchestrator.batches.feeding import LEAST_INFLIGHT
from relais_orchestrator.batches.store import RESULTS
from relais_testing.batches import CHAT, BatchClient, encode, line, lines
from relais_testing.builders import MODEL
from relais_testing.embedding_worker import open_embedding_worker
from relais_testing.encoders import WatchedClassifier, WatchedEncoder
from relais_testing.kept import Kept
from relais_testing.keys import KeyFile, bearer
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.waiting import LIVENESS_S, wait_until
from relais_testing.worker import Worker


async def refusal(
    front: Front, method: str, path: str, **options: Any
) -> tuple[int, str, str | None]:
    async with front.session.request(method, path, **options) as response:
        error = (await response.json())["error"]
        return response.status, error["code"], error["param"]


async def has_completed(client: BatchClient, batch_id: str, count: int) -> None:
    """Wait until so many requests have."""

    async def reached() -> bool:
        return bool((await client.show(batch_id))["request_counts"]["completed"] >= count)

    await wait_until(reached)


async def lines_wait(stack: Stack) -> None:
    """Wait until something is in the queue."""

    async def waits() -> bool:
        return (await stack.store.intake.depth(MODEL)).waiting > 0

    await wait_until(waits)


async def test_each_line_has_its_answer_in_the_output_file(
    client: BatchClient, worker: Worker, kept: Kept
) -> None:
    batch_id = await client.create(encode(lines(40)), metadata={"night": "1"})
    batch = await client.ended(batch_id)
    assert (batch["status"], batch["model"], batch["metadata"]) == (
        "completed",
        MODEL,
        {"night": "1"},
    )
    assert batch["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
    assert batch["error_file_id"] is None
    assert batch["usage"]["output_tokens"] == 160
    moments = [batch[f"{one}_at"] for one in ("created", "in_progress", "finalizing", "completed")]
    assert moments == sorted(moments)
    found = await client.content(batch["output_file_id"])
    assert [one["custom_id"] for one in found] == [f"r-{number}" for number in range(40)]
    for number, one in enumerate(found):
        assert one["error"] is None
        assert one["response"]["status_code"] == 200
        said = one["response"]["body"]["choices"][0]["message"]["content"]
        assert said == answer_to(f"line {number}", 4)
    file = await client.json("GET", f"/v1/files/{batch['output_file_id']}")
    assert file["purpose"] == "batch_output"
    assert await kept.database[RESULTS].count_documents({}) == 0


async def test_traces_of_lines_name_their_batch(
    client: BatchClient, worker: Worker, kept: Kept
) -> None:
    batch_id = await client.create(encode(lines(3)))
    await client.ended(batch_id)

    async def traced() -> bool:
        return await kept.count() == 3

    await wait_until(traced)
    for trace in await kept.documents():
        assert (trace["batch_id"], trace["priority"]) == (batch_id, "batch")


async def test_reports_tell_of_batches_that_ended_in_their_period(
    front: Front, client: BatchClient, worker: Worker, kept: Kept
) -> None:
    batch_id = await client.create(encode(lines(3)))
    batch = await client.ended(batch_id)
    wrong_id = await client.create(b"")
    await client.ended(wrong_id)
    begin = hour_of(datetime.now(UTC)) - HOUR  # a test may run over the hour
    found = await read_batches(kept.database, Period(begin, begin + 3 * HOUR))
    assert found.left_out == 0
    one, wrong = found.batches
    assert (one.batch_id, one.status, one.model) == (batch_id, "completed", MODEL)
    assert (one.requests, one.completed, one.failed) == (3, 3, 0)
    assert one.input_tokens == batch["usage"]["input_tokens"] > 0
    assert one.output_tokens == 12
    assert 0 < one.duration_s < LIVENESS_S
    assert (wrong.batch_id, wrong.status, wrong.requests) == (wrong_id, "failed", 0)
    before = Period(begin - 3 * HOUR, begin)
    assert (await read_batches(kept.database, before)).batches == ()
    async with front.get("/v1/kpis?since=1h") as response:
        assert (await response.json())["batches_left_out"] == 0


async def test_text_completions_are_run_too(client: BatchClient, worker: Worker) -> None:
    body = {"model": MODEL, "prompt": "once", "max_tokens": 3}
    batch_id = await client.create(
        encode([line(0, url="/v1/completions", body=body)]), "/v1/completions"
    )
    (one,) = await client.content((await client.ended(batch_id))["output_file_id"])
    assert one["response"]["body"]["object"] == "text_completion"


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[]", "invalid_value", ""),
        (encode([{"method": "POST", "url": CHAT, "body": {}}])[:-1], "invalid_value", "custom_id"),
        (encode([line(0)])[:-1], "duplicate_custom_id", "custom_id"),
        (encode([line(1, url="/v1/embeddings")])[:-1], "invalid_url", "url"),
        (encode([line(1, method="GET")])[:-1], "invalid_method", "method"),
        (encode([line(1, body=chat_request(stream=True))])[:-1], "unsupported_value", "body.stream"),
        (encode([line(1, body=chat_request(max_tokens=-1))])[:-1], "invalid_value", "body.max_tokens"),
        (encode([line(1, body=chat_request(model="other"))])[:-1], "model_not_found", "body.model"),
        (b'{"custom_id": "' + b"x" * (5 << 20) + b'"}', "line_too_long", None),
    ],
    ids=["json", "list", "no name", "twice", "url", "method", "stream", "field", "model", "long"],
)  # fmt: skip
async def test_wrong_line_is_named_and_nothing_is_run(
    front: Front, client: BatchClient, wrong: bytes, code: str, param: str | None
) -> None:
    batch_id = await client.create(b"\n" + encode([line(0)]) + wrong + b"\n" + encode([line(2)]))
    batch = await client.ended(batch_id)
    assert batch["status"] == "failed"
    (error,) = batch["errors"]["data"]
    assert (error["code"], error["line"]) == (code, 3)
    assert error["param"] == param or not param
    assert batch["request_counts"]["total"] == 0
    assert (await front.parts.queue.depth(MODEL)).waiting == 0


@pytest.mark.parametrize("content", [b"", b"\n" * 100_000, b" \n"])
async def test_file_without_requests_fails(client: BatchClient, content: bytes) -> None:
    batch = await client.ended(await client.create(content))
    assert [one["code"] for one in batch["errors"]["data"]] == ["empty_file"]


async def test_too_many_lines_fail(stack: Stack, kept: Kept) -> None:
    front = await stack.front(**kept.settings, MAX_BATCH_LINES="3")
    client = BatchClient(front.session)
    batch = await client.ended(await client.create(encode(lines(4))))
    (error,) = batch["errors"]["data"]
    assert (error["code"], error["line"]) == ("too_many_requests", 4)


async def test_line_that_fails_goes_to_the_error_file(stack: Stack, client: BatchClient) -> None:
    await stack.worker(max_model_len=64)
    long = chat_request("x" * 100)
    batch_id = await client.create(encode([line(0), line(1, body=long), line(2)]))
    batch = await client.ended(batch_id)
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    (one,) = await client.content(batch["error_file_id"])
    assert (one["custom_id"], one["response"]["status_code"], one["error"]) == ("r-1", 400, None)
    assert one["response"]["body"]["error"]["param"] == "messages"
    assert len(await client.content(batch["output_file_id"])) == 2


async def test_cancelled_batch_keeps_what_has_ended_and_names_the_rest(
    stack: Stack, client: BatchClient
) -> None:
    await stack.worker(max_num_seqs=2, tokens_per_s=4)
    batch_id = await client.create(encode(lines(60)))
    await has_completed(client, batch_id, 2)
    assert (await client.cancel(batch_id))["status"] == "cancelling"
    batch = await client.ended(batch_id)
    assert batch["status"] == "cancelled"
    counts = batch["request_counts"]
    assert counts["completed"] >= 2
    assert counts["failed"] >= 1
    done = await client.content(batch["output_file_id"])
    not_run = await client.content(batch["error_file_id"])
    assert len(done) == counts["completed"]
    assert {one["error"]["code"] for one in not_run} == {"batch_cancelled"}
    names = [one["custom_id"] for one in [*done, *not_run]]
    assert sorted(names) == sorted(f"r-{number}" for number in range(60))
    await wait_until(stack.idle)


async def test_batch_without_a_worker_is_cancelled(stack: Stack, client: BatchClient) -> None:
    batch_id = await client.create(encode(lines(30)))
    await lines_wait(stack)
    await client.cancel(batch_id)
    batch = await client.ended(batch_id)
    assert batch["request_counts"] == {"total": 30, "completed": 0, "failed": 30}
    assert await stack.idle()


async def test_ended_batch_cannot_be_cancelled(
    front: Front, client: BatchClient, worker: Worker
) -> None:
    batch_id = await client.create(encode(lines(1)))
    await client.ended(batch_id)
    assert await refusal(front, "POST", f"/v1/batches/{batch_id}/cancel") == (
        409,
        "batch_ended",
        None,
    )


async def test_batch_expires_with_its_window(stack: Stack, client: BatchClient, kept: Kept) -> None:
    await stack.worker(max_num_seqs=2, tokens_per_s=4)
    batch_id = await client.create(encode(lines(60)))
    await has_completed(client, batch_id, 2)
    soon = datetime.now(UTC) - timedelta(seconds=1)
    await kept.database[BATCHES].update_one({"_id": batch_id}, {"$set": {"expires_at": soon}})
    batch = await client.ended(batch_id)
    assert batch["status"] == "expired"
    not_run = await client.content(batch["error_file_id"])
    assert {one["error"]["code"] for one in not_run} == {"batch_expired"}
    done = await client.content(batch["output_file_id"])
    assert len(done) + len(not_run) == 60
    assert await stack.idle()


async def test_input_of_a_running_batch_cannot_be_deleted(
    front: Front, client: BatchClient
) -> None:
    batch_id = await client.create(encode(lines(1)))
    file_id = (await client.show(batch_id))["input_file_id"]
    assert await refusal(front, "DELETE", f"/v1/files/{file_id}") == (409, "file_in_use", None)
    await client.cancel(batch_id)
    await client.ended(batch_id)
    await client.json("DELETE", f"/v1/files/{file_id}")


async def test_batch_whose_input_is_gone_fails(client: BatchClient, front: Front) -> None:
    assert front.parts.files is not None
    file_id = await client.upload(encode(lines(1)))
    wanted = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    await front.parts.files.delete(file_id)
    assert await refusal(front, "POST", "/v1/batches", json=wanted) == (
        404,
        "file_not_found",
        "file_id",
    )


async def test_input_deleted_behind_the_api_s_back_leaves_what_has_ended(
    stack: Stack, front: Front, client: BatchClient
) -> None:
    # Blank, so that the file takes several reads, and all of them cannot be in the queue.
    content = b"".join(one + b" " * 100_000 + b"\n" for one in encode(lines(60)).splitlines())
    batch_id = await client.create(content)

    async def as_many_as_may_wait() -> bool:
        return (await stack.store.intake.depth(MODEL)).waiting == LEAST_INFLIGHT

    await wait_until(as_many_as_may_wait)
    assert front.parts.files is not None
    await front.parts.files.delete((await client.show(batch_id))["input_file_id"])
    await stack.worker(max_num_seqs=2)
    batch = await client.ended(batch_id)
    assert batch["status"] == "expired"
    done = await client.content(batch["output_file_id"])
    assert 60 > len(done) == batch["request_counts"]["completed"] >= 1
    assert len({one["custom_id"] for one in done}) == len(done)
    await wait_until(stack.idle)


async def test_output_of_a_batch_is_no_input(
    front: Front, client: BatchClient, worker: Worker
) -> None:
    batch = await client.ended(await client.create(encode(lines(1))))
    wanted = {
        "input_file_id": batch["output_file_id"],
        "endpoint": CHAT,
        "completion_window": "24h",
    }
    found = await refusal(front, "POST", "/v1/batches", json=wanted)
    assert found == (400, "invalid_value", "input_file_id")


async def test_other_keys_see_nothing_of_a_batch(front: Front, client: BatchClient) -> None:
    batch_id = await client.create(encode(lines(1)))
    other = {"Authorization": "Bearer other"}
    for method, path in (("GET", ""), ("POST", "/cancel")):
        found = await refusal(front, method, f"/v1/batches/{batch_id}{path}", headers=other)
        assert found == (404, "batch_not_found", "batch_id")
    file_id = (await client.show(batch_id))["input_file_id"]
    wanted = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    found = await refusal(front, "POST", "/v1/batches", json=wanted, headers=other)
    assert found == (404, "file_not_found", "file_id")
    assert (await BatchClient(front.session, **other).json("GET", "/v1/batches"))["data"] == []
    await client.cancel(batch_id)
    await client.ended(batch_id)


async def test_batches_are_paged_the_newest_first(client: BatchClient) -> None:
    made = [await client.create(b"") for _ in range(5)]
    seen: list[str] = []
    page = await client.json("GET", "/v1/batches?limit=2")
    while True:
        seen += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            break
        page = await client.json("GET", f"/v1/batches?limit=2&after={page['last_id']}")
    assert seen == made[::-1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/images/generations"}, "endpoint"),
        ({"endpoint": "/v1/requests"}, "endpoint"),
        ({"completion_window": "1d"}, "completion_window"),
        ({"completion_window": "999h"}, "completion_window"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"window": "24h"}, "window"),
    ],
)
async def test_wrong_field_is_named(
    front: Front, client: BatchClient, fields: dict[str, Any], param: str
) -> None:
    file_id = await client.upload(b"")
    wanted = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"} | fields
    status, _, found = await refusal(front, "POST", "/v1/batches", json=wanted)
    assert (status, found) == (400, param)


async def test_open_batches_of_a_key_are_bounded(stack: Stack, kept: Kept) -> None:
    front = await stack.front(**kept.settings, MAX_BATCHES_PER_KEY="1")
    client = BatchClient(front.session)
    batch_id = await client.create(encode(lines(1)))
    file_id = await client.upload(b"")
    wanted = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    found = await refusal(front, "POST", "/v1/batches", json=wanted)
    assert found == (429, "too_many_batches", None)
    await client.cancel(batch_id)
    await client.ended(batch_id)
    await client.json("POST", "/v1/batches", json=wanted)


async def test_no_more_lines_are_in_the_queue_than_allowed(stack: Stack, kept: Kept) -> None:
    front = await stack.front(**kept.settings, BATCH_INFLIGHT="5")
    client = BatchClient(front.session)
    first, second = [await client.create(encode(lines(20))) for _ in range(2)]

    async def waits() -> bool:
        return (await stack.store.intake.depth(MODEL)).waiting == 5

    await wait_until(waits)
    await stack.worker()
    for batch_id in (first, second):
        assert (await client.ended(batch_id))["request_counts"]["completed"] == 20


@pytest.mark.parametrize("span", ["minute", "day"])
async def test_lines_wait_until_their_key_s_tokens_suffice(
    stack: Stack, kept: Kept, tmp_path: Path, span: str
) -> None:
    key_file = KeyFile(tmp_path / "keys.json", one={f"tokens_per_{span}": 150})
    front = await stack.front(**kept.settings, **key_file.settings)
    await stack.worker()
    client = BatchClient(front.session, **bearer("one"))
    batch_id = await client.create(encode(lines(20)))
    await has_completed(client, batch_id, 1)
    await wait_until(stack.idle)
    batch = await client.show(batch_id)
    assert batch["status"] == "in_progress"
    assert batch["request_counts"]["completed"] < 20
    assert batch["request_counts"]["failed"] == 0
    key_file.write(one={f"tokens_per_{span}": 1_000_000})
    assert (await client.ended(batch_id))["request_counts"] == {
        "total": 20,
        "completed": 20,
        "failed": 0,
    }


async def test_a_line_whose_key_is_out_of_tokens_is_seldom_tried_and_still_stopped(
    stack: Stack, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def noted(stop: asyncio.Event, seconds: float) -> bool:
        waits.append(seconds)
        return await pause(stop, 3600)

    monkeypatch.setattr(feeding, "pause", noted)
    key_file = KeyFile(tmp_path / "keys.json", one={"tokens_per_day": 150})
    front = await stack.front(**kept.settings, **key_file.settings)
    await stack.worker()
    client = BatchClient(front.session, **bearer("one"))
    batch_id = await client.create(encode(lines(20)))

    async def waits_alone() -> bool:
        return bool(waits) and await stack.idle()

    await wait_until(waits_alone)
    assert feeding.RETRY_S < min(waits) <= max(waits) <= feeding.LONGEST_RETRY_S
    await client.cancel(batch_id)
    assert (await client.ended(batch_id))["status"] == "cancelled"


async def test_batches_that_wait_for_their_key_s_day_leave_room_for_others(
    stack: Stack, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MAX_HELD", 2)
    monkeypatch.setattr(runner, "REST_S", 3600.0)
    key_file = KeyFile(tmp_path / "keys.json", one={"tokens_per_day": 150}, two={})
    front = await stack.front(**kept.settings, **key_file.settings)
    await stack.worker()
    one, two = (BatchClient(front.session, **bearer(name)) for name in ("one", "two"))
    waiting = [await one.create(encode(lines(20))) for _ in range(4)]
    batch_id = await two.create(encode(lines(3)))
    assert (await two.ended(batch_id))["status"] == "completed"
    for one_id in waiting:
        assert (await one.show(one_id))["status"] == "in_progress"
        await one.cancel(one_id)
    for one_id in waiting:
        batch = await one.ended(one_id)
        assert (batch["status"], batch["request_counts"]["total"]) == ("cancelled", 20)
    await wait_until(stack.idle)


async def test_request_beside_a_batch_of_its_key_goes_first(
    stack: Stack, front: Front, client: BatchClient
) -> None:
    await stack.worker(max_num_seqs=2, tokens_per_s=20)
    slow = [line(number, body=chat_request(f"{number}", max_tokens=400)) for number in range(8)]
    batch_id = await client.create(encode(slow))

    async def full() -> bool:
        return (await stack.store.intake.depth(MODEL)).running == 2

    await wait_until(full)
    async with front.post(CHAT, chat_request("now", max_tokens=2)) as response:
        assert response.status == 200
        said = json.loads(await response.read())["choices"][0]["message"]["content"]
    assert said == answer_to("now", 2)
    await client.cancel(batch_id)
    await client.ended(batch_id)


async def test_clients_cannot_ask_for_the_priority_of_batches(front: Front) -> None:
    found = await refusal(front, "POST", CHAT, json=chat_request(priority="batch"))
    assert found == (400, "invalid_value", "priority")


@pytest.mark.parametrize(
    ("path", "body", "key", "encoder"),
    [
        ("/v1/embeddings", {"input": ["a", "b"]}, "data", WatchedEncoder),
        ("/v1/rerank", {"query": "q", "documents": ["a", "b"]}, "results", WatchedEncoder),
        ("/v2/rerank", {"query": "q", "documents": ["a", "b"]}, "results", WatchedEncoder),
        ("/v1/score", {"text_1": "q", "text_2": ["a", "b"]}, "data", WatchedEncoder),
        ("/v1/classify", {"input": ["a", "b"]}, "data", WatchedClassifier),
    ],
)
async def test_embedding_models_and_classifiers_answer_lines_as_their_routes_do(
    stack: Stack,
    kept: Kept,
    path: str,
    body: dict[str, Any],
    key: str,
    encoder: type[WatchedEncoder],
) -> None:
    setting = "CLASSIFY_MODELS" if encoder is WatchedClassifier else "EMBEDDING_MODELS"
    front = await stack.front(**kept.settings, **{setting: "embedder"})
    client = BatchClient(front.session)
    body = {"model": "embedder", **body}
    async with open_embedding_worker(stack.redis_url, model="embedder", encoder=encoder()):
        batch = await client.ended(
            await client.create(encode([line(0, url=path, body=body)]), path)
        )
        async with front.post(path, body) as response:
            expected = await response.json()
    assert batch["status"] == "completed"
    (one,) = await client.content(batch["output_file_id"])
    found = one["response"]["body"]
    assert found[key] == expected[key]
    assert len(found[key]) == 2


async def test_revoked_key_stops_its_batches(stack: Stack, kept: Kept, tmp_path: Path) -> None:
    key_file = KeyFile(tmp_path / "keys.json", one={}, two={})
    front = await stack.front(**kept.settings, **key_file.settings)
    client = BatchClient(front.session, **bearer("one"))
    await client.create(encode(lines(30)))
    await lines_wait(stack)
    key_file.write(two={})

    async def over() -> bool:
        batch = await kept.database[BATCHES].find_one({})
        return batch is not None and batch["status"] == "cancelled"

    await wait_until(over)
    assert await stack.idle()


async def test_batch_for_an_unknown_endpoint_is_left_to_others_until_its_time_is_over(
    client: BatchClient, worker: Worker, kept: Kept
) -> None:
    batches = kept.database[BATCHES]
    known = await batches.find_one({"_id": await client.create(encode(lines(1)))})
    assert known is not None
    unknown = known | {"_id": "batch_newer", "endpoint": "/v1/newer", "status": "validating"}
    await batches.insert_one(unknown | {"lease": {"holder": "", "until": 0.0}})
    # Claimed after the older one, if at all.
    await client.ended(await client.create(encode(lines(1))))
    untouched = await batches.find_one({"_id": "batch_newer"})
    assert untouched is not None
    assert (untouched["status"], untouched["lease"]["until"]) == ("validating", 0.0)

    past = datetime.now(UTC) - timedelta(hours=1)
    await batches.update_one({"_id": "batch_newer"}, {"$set": {"expires_at": past}})
    batch = await client.ended("batch_newer")
    assert batch["status"] == "failed"
    assert [one["param"] for one in batch["errors"]["data"]] == ["endpoint"]
