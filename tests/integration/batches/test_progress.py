"""What a batch says of itself before it has ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relais_testing.batches import BatchClient, encode, lines
from relais_testing.kept import Kept
from relais_testing.keys import KeyFile, bearer
from relais_testing.stack import Front, Stack
from relais_testing.waiting import wait_until
from relais_testing.worker import Worker


async def in_progress(client: BatchClient, batch_id: str) -> dict[str, Any]:
    async def fed() -> dict[str, Any] | None:
        batch = await client.show(batch_id)
        return batch if batch["status"] == "in_progress" else None

    found: dict[str, Any] | None = await wait_until(fed)
    assert found is not None
    return found


async def events(front: Front, batch_id: str, **headers: str) -> list[tuple[str, str, Any]]:
    """Return id, name and data of every event until the stream ends."""
    found = []
    async with front.session.get(f"/v1/batches/{batch_id}/events", headers=headers) as response:
        assert response.status == 200, await response.text()
        for block in (await response.text()).split("\n\n"):
            fields = dict(
                one.split(": ", 1) for one in block.splitlines() if not one.startswith(":")
            )
            if "data" in fields:
                found.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
    return found


async def test_later_batch_of_the_model_has_the_next_position(client: BatchClient) -> None:
    first = await client.create(encode(lines(2)))
    await in_progress(client, first)
    second = await client.create(encode(lines(2)))
    batch = await in_progress(client, second)
    assert batch["progress"]["position"] == 1
    assert (await client.show(first))["progress"]["position"] == 0
    assert batch["progress"]["estimated_end_at"] is None
    page = await client.json("GET", "/v1/batches")
    assert [one["progress"]["position"] for one in page["data"]] == [1, 0]


async def test_rate_gives_an_estimate_of_the_end(client: BatchClient, kept: Kept) -> None:
    batch_id = await client.create(encode(lines(4)))
    await in_progress(client, batch_id)

    async def measured() -> bool:
        batch = await kept.database["batches"].find_one({"_id": batch_id})
        return batch is not None and batch.get("requests_per_s") is not None

    await wait_until(measured)
    progress = (await client.show(batch_id))["progress"]
    assert progress["requests_per_s"] == 0.0
    assert progress["estimated_end_at"] is None  # nothing runs: nobody knows


async def test_ended_batch_has_no_progress(client: BatchClient, worker: Worker) -> None:
    batch = await client.ended(await client.create(encode(lines(2))))
    assert batch["progress"] is None


async def test_events_tell_of_each_change_and_end_with_the_batch(
    front: Front, client: BatchClient, worker: Worker
) -> None:
    batch_id = await client.create(encode(lines(5)))
    seen = await events(front, batch_id)
    names = [name for _, name, _ in seen]
    assert names[-1] == "completed"
    assert len({one for one, _, _ in seen}) == len(seen)
    last_id, _, last = seen[-1]
    assert last == await client.show(batch_id)
    for _, name, data in seen:
        assert name == data["status"]
    async with front.session.get(
        f"/v1/batches/{batch_id}/events", headers={"Last-Event-ID": last_id}
    ) as response:
        assert response.status == 204
    assert [name for _, name, _ in await events(front, batch_id)] == ["completed"]


async def test_operators_see_the_batches_of_all_keys(
    stack: Stack, kept: Kept, tmp_path: Path
) -> None:
    keys = KeyFile(tmp_path / "keys.json", one={}, two={}, operator={"admin": True})
    front = await stack.front(**kept.settings, **keys.settings)
    made = {
        await BatchClient(front.session, **bearer(one)).create(encode(lines(1))): one
        for one in ("one", "two")
    }
    async with front.session.get("/v1/admin/batches", headers=bearer("operator")) as response:
        found = (await response.json())["batches"]
    assert {one["id"]: one["key_id"] for one in found} == made
    async with front.session.get("/v1/admin/batches", headers=bearer("one")) as response:
        assert response.status == 403
    for batch_id, key in made.items():
        other = bearer("two" if key == "one" else "one")
        async with front.session.get(f"/v1/batches/{batch_id}/events", headers=other) as response:
            assert response.status == 404


async def test_revoked_key_s_events_end(stack: Stack, kept: Kept, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json", one={}, two={})
    front = await stack.front(**kept.settings, **keys.settings)
    client = BatchClient(front.session, **bearer("one"))
    batch_id = await client.create(encode(lines(3)))
    await in_progress(client, batch_id)
    path = f"/v1/batches/{batch_id}/events"
    async with front.session.get(path, headers=bearer("one")) as response:
        keys.write(two={})
        assert "event: key_revoked" in await response.text()
