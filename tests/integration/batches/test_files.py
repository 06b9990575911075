"""`/v1/files`: what a key uploads, and what others see of it. Over a database that speaks MongoDB's protocol."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relais_orchestrator.api.files.uploads import MAX_FIELDS
from relais_orchestrator.files.store import BUFFER_BYTES, CHUNK_BYTES, CHUNKS, FILES
from relais_orchestrator.http import ignored_fields
from relais_testing.kept import Kept, open_kept
from relais_testing.mongo import MongoServer
from relais_testing.stack import Front, Stack
from relais_testing.waiting import wait_until

OTHER = {"Authorization": "Bearer other"}


def form(content: bytes = b"{}\n", *, filename: str | None = "a.jsonl", **fields: str) -> Any:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in ({"purpose": "batch"} | fields).items():
        data.add_field(name, value)
    if filename is not None:
        data.add_field("file", BytesIO(content), filename=filename)
    return data


async def upload(front: Front, content: bytes, **fields: str) -> dict[str, Any]:
    async with front.session.post("/v1/files", data=form(content, **fields)) as response:
        assert response.status == 200, await response.text()
        body: dict[str, Any] = await response.json()
        return body


async def code_of(response: aiohttp.ClientResponse) -> tuple[int, str]:
    return response.status, (await response.json())["error"]["code"]


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, BUFFER_BYTES, 2 * BUFFER_BYTES + 12_345]
)
async def test_content_comes_back_as_it_was_uploaded(front: Front, size: int) -> None:
    content = secrets.token_bytes(size)
    file = await upload(front, content)
    assert (file["bytes"], file["filename"], file["purpose"]) == (size, "a.jsonl", "batch")
    async with front.get(f"/v1/files/{file['id']}") as response:
        assert await response.json() == file
    async with front.get(f"/v1/files/{file['id']}/content") as response:
        assert (response.status, await response.read()) == (200, content)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("0-9", 0, 10),
        ("5-", 5, 600_000),
        ("-7", 599_993, 600_000),
        ("261119-261121", 261_119, 261_122),
    ],
)
async def test_range_of_the_content(front: Front, asked: str, start: int, end: int) -> None:
    content = secrets.token_bytes(600_000)
    file = await upload(front, content)
    wanted = {"Range": f"bytes={asked}"}
    async with front.get(f"/v1/files/{file['id']}/content", headers=wanted) as response:
        assert (response.status, await response.read()) == (206, content[start:end])
        assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/600000"


async def test_range_past_the_end_is_refused(front: Front) -> None:
    file = await upload(front, b"abc")
    wanted = {"Range": "bytes=3-"}
    async with front.get(f"/v1/files/{file['id']}/content", headers=wanted) as response:
        assert await code_of(response) == (416, "range_not_satisfiable")


async def test_list_is_paged_by_age(front: Front) -> None:
    ids = [(await upload(front, b"x"))["id"] for _ in range(5)]
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        seen: list[str] = []
        after = ""
        while True:
            async with front.get(f"/v1/files?limit=2&order={order}{after}") as response:
                page = await response.json()
            seen += [one["id"] for one in page["data"]]
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
        assert seen == expected


async def test_other_keys_see_nothing_of_a_file(front: Front) -> None:
    file = await upload(front, b"secret")
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        async with front.session.request(
            method, f"/v1/files/{file['id']}{path}", headers=OTHER
        ) as response:
            assert await code_of(response) == (404, "file_not_found")
    async with front.get("/v1/files", headers=OTHER) as response:
        assert (await response.json())["data"] == []


async def test_deleted_file_leaves_nothing_behind(front: Front, kept: Kept) -> None:
    file = await upload(front, secrets.token_bytes(CHUNK_BYTES + 1))
    async with front.delete(f"/v1/files/{file['id']}") as response:
        assert await response.json() == {"id": file["id"], "object": "file", "deleted": True}
    async with front.get(f"/v1/files/{file['id']}") as response:
        assert await code_of(response) == (404, "file_not_found")
    assert await kept.database[CHUNKS].count_documents({}) == 0
    assert await kept.database[FILES].count_documents({}) == 0


async def test_file_expires_when_its_form_says(front: Front, kept: Kept) -> None:
    file = await upload(
        front,
        b"x",
        **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"},
    )
    assert file["expires_at"] - file["created_at"] == 3600
    assert front.parts.files is not None
    assert await front.parts.files.expire() == 0
    past = datetime.now(UTC) - timedelta(seconds=1)
    await kept.database[FILES].update_one(
        {"_id": file["id"]}, {"$set": {"metadata.expires_at": past}}
    )
    async with front.get(f"/v1/files/{file['id']}") as response:
        assert response.status == 404
    assert await front.parts.files.expire() == 1
    assert await kept.database[CHUNKS].count_documents({}) == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"size": "3"}, "size"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "1"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"expires_after": '{"anchor": "created_at", "seconds": 1}'}, "expires_after[seconds]"),
        ({"expires_after": "soon"}, "expires_after"),
    ],
)  # fmt: skip
async def test_wrong_field_is_named(
    front: Front, kept: Kept, fields: dict[str, str], param: str
) -> None:
    async with front.session.post("/v1/files", data=form(b"{}", **fields)) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == param
    assert await kept.database[FILES].count_documents({}) == 0


async def test_unknown_field_is_ignored_and_named_where_bodies_are_read_so(
    stack: Stack, kept: Kept
) -> None:
    front = await stack.front(**kept.settings, UNKNOWN_FIELDS="ignore")
    async with front.session.post("/v1/files", data=form(b"{}", size="3")) as response:
        assert response.status == 200
        assert response.headers[ignored_fields.HEADER] == "size"


@pytest.mark.parametrize("name", ["purpose", "nope"])
async def test_form_without_end_is_refused(stack: Stack, kept: Kept, name: str) -> None:
    front = await stack.front(**kept.settings, UNKNOWN_FIELDS="ignore")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(2 * MAX_FIELDS):
            yield f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\nx\r\n'.encode()

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with front.session.post("/v1/files", data=endless(), headers=headers) as response:
        assert await code_of(response) == (413, "request_too_large")


async def test_missing_file_and_missing_purpose_are_named(front: Front) -> None:
    only_file = aiohttp.FormData()
    only_file.add_field("file", b"{}", filename="a.jsonl")
    for data, param in ((form(filename=None), "file"), (only_file, "purpose")):
        async with front.session.post("/v1/files", data=data) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == param


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"--b\r\n", b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\nx"],
)
async def test_body_that_is_no_form_is_refused(front: Front, kept: Kept, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with front.session.post("/v1/files", data=body, headers=headers) as response:
        assert response.status == 400
    assert await kept.database[FILES].count_documents({}) == 0


@pytest.mark.parametrize("stated", ["application/json", "multipart/mixed; boundary=b"])
async def test_other_content_types_are_refused(front: Front, stated: str) -> None:
    headers = {"Content-Type": stated}
    async with front.session.post("/v1/files", data=b"{}", headers=headers) as response:
        assert await code_of(response) == (415, "unsupported_media_type")


async def test_file_over_the_bound_is_refused_and_not_kept(stack: Stack, kept: Kept) -> None:
    front = await stack.front(**kept.settings, MAX_FILE_BYTES="5000000")

    async def endless() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(80):
            yield bytes(100_000)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with front.session.post("/v1/files", data=endless(), headers=headers) as response:
        assert await code_of(response) == (413, "file_too_large")
    async with front.session.post("/v1/files", data=form(bytes(5_100_000))) as response:
        assert await code_of(response) == (413, "file_too_large")
    assert await kept.database[CHUNKS].count_documents({}) == 0


async def test_files_of_a_key_are_bounded(stack: Stack, kept: Kept) -> None:
    front = await stack.front(**kept.settings, MAX_FILE_BYTES="2000", MAX_FILE_BYTES_PER_KEY="3000")
    file = await upload(front, bytes(2000))
    async with front.session.post("/v1/files", data=form(bytes(1001))) as response:
        assert await code_of(response) == (429, "file_storage_full")
    async with front.session.post("/v1/files", data=form(bytes(2000)), headers=OTHER) as response:
        assert response.status == 200
    await front.delete(f"/v1/files/{file['id']}")
    await upload(front, bytes(1001))


async def test_upload_of_a_client_that_leaves_is_deleted(front: Front, kept: Kept) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield bytes(BUFFER_BYTES + (1 << 20))
        await asyncio.Event().wait()

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    sending = asyncio.create_task(front.session.post("/v1/files", data=half(), headers=headers))

    async def chunks() -> int:
        return int(await kept.database[CHUNKS].count_documents({}))

    await wait_until(chunks)
    sending.cancel()

    async def gone() -> bool:
        return await kept.database[FILES].count_documents({}) == 0 and await chunks() == 0

    await wait_until(gone)


async def test_silent_upload_is_ended_and_not_kept(stack: Stack, kept: Kept) -> None:
    front = await stack.front(**kept.settings, BODY_TIMEOUT_S="0.5")

    async def half() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx'
        await asyncio.Event().wait()

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with front.session.post("/v1/files", data=half(), headers=headers) as response:
        assert await code_of(response) == (408, "request_timeout")
    assert await kept.database[FILES].count_documents({}) == 0


@pytest.mark.realtime  # a standstill is one of this very process, longer than a client may be silent
async def test_upload_outlives_a_standstill(stack: Stack, kept: Kept) -> None:
    front = await stack.front(**kept.settings, BODY_TIMEOUT_S="1")

    async def halves() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx'

        async def begun() -> int:
            return int(await kept.database[FILES].count_documents({}))

        await wait_until(begun)
        time.sleep(1.5)  # noqa: ASYNC251 # the whole process stands still
        yield b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with front.session.post("/v1/files", data=halves(), headers=headers) as response:
        assert response.status == 200


async def test_without_a_database_files_are_unavailable(stack: Stack) -> None:
    front = await stack.front()
    async with front.get("/v1/files") as response:
        assert await code_of(response) == (503, "files_unavailable")


async def test_database_that_is_away_is_said(stack: Stack, tmp_path: Path) -> None:
    with MongoServer(tmp_path) as server:
        async with open_kept(server.url, MONGODB_TIMEOUT_S="10") as kept:
            file = await upload(await stack.front(**kept.settings), b"x")
            front = await stack.front(**kept.settings | {"MONGODB_TIMEOUT_S": "0.5"})
            server.kill()
            for path in ("/v1/files", f"/v1/files/{file['id']}/content"):
                async with front.get(path) as response:
                    assert await code_of(response) == (503, "files_unavailable")
