"""`/v1/files`: upload, list, show, download and delete."""

from __future__ import annotations

from aiohttp import hdrs, web

from relais_common.jobs.errors import FileInUse, FilesUnavailable, RangeNotSatisfiable, RelaisError
from relais_orchestrator.api.callers import caller_of
from relais_orchestrator.api.files.schemas import FileDeleted, FileList, FilesQuery, file_object
from relais_orchestrator.api.files.uploads import Upload
from relais_orchestrator.api.parsing import parse_query
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.batches.parts import BATCHES
from relais_orchestrator.files.store import BUFFER_BYTES, FileStore, StoredFile
from relais_orchestrator.http.held import HELD
from relais_orchestrator.http.responses import json_response


def store_of(request: web.Request) -> FileStore:
    """Return the store. Raises FilesUnavailable if this deployment has none."""
    store = request.app[PARTS].files
    if store is None:
        raise FilesUnavailable("no files are kept here: MONGODB_URL is not set")
    return store


async def upload_file(request: web.Request) -> web.Response:
    """`POST /v1/files`."""
    caller = caller_of(request)
    parts = request.app[PARTS]
    # What the writer buffers; it also bounds a key's uploads at once.
    with parts.drain.request(), request.app[HELD].of(caller.key_id, 2 * BUFFER_BYTES):
        file = await Upload(request, store_of(request), caller.key_id).receive()
    return json_response(file_object(file))


async def list_files(request: web.Request) -> web.Response:
    """`GET /v1/files`."""
    caller = caller_of(request)
    query = parse_query(FilesQuery, request.query)
    files, has_more = await store_of(request).page(
        key_id=caller.key_id,
        purpose=query.purpose,
        after=query.after,
        limit=query.limit,
        ascending=query.order == "asc",
    )
    body: FileList = {
        "object": "list",
        "data": [file_object(file) for file in files],
        "first_id": files[0].file_id if files else None,
        "last_id": files[-1].file_id if files else None,
        "has_more": has_more,
    }
    return json_response(body)


async def show_file(request: web.Request) -> web.Response:
    """`GET /v1/files/{file_id}`."""
    return json_response(file_object(await _own_file(request)))


async def download_file(request: web.Request) -> web.StreamResponse:
    """`GET /v1/files/{file_id}/content`, whole or one range."""
    file = await _own_file(request)
    start, end = _range_of(request, file.size_bytes)
    partial = (start, end) != (0, file.size_bytes)
    response = web.StreamResponse(status=206 if partial else 200)
    response.content_type = "application/octet-stream"
    response.content_length = end - start
    response.headers[hdrs.ACCEPT_RANGES] = "bytes"
    if partial:
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    with request.app[HELD].of(file.key_id, BUFFER_BYTES):
        await response.prepare(request)
        if request.method != "HEAD":
            try:
                async for piece in store_of(request).read(file, start, end):
                    await response.write(piece)
            except RelaisError as error:
                # The headers promised more: only a broken connection says that it does not come.
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionError(f"the file cannot be read on: {error.message}") from None
        await response.write_eof()
    return response


async def delete_file(request: web.Request) -> web.Response:
    """`DELETE /v1/files/{file_id}`."""
    file = await _own_file(request)
    batches = request.app.get(BATCHES)
    if batches is not None and file.file_id in await batches.store.input_files():
        raise FileInUse("a batch that has not ended reads this file; cancel it first")
    await store_of(request).delete(file.file_id)
    body: FileDeleted = {"id": file.file_id, "object": "file", "deleted": True}
    return json_response(body)


async def _own_file(request: web.Request) -> StoredFile:
    caller = caller_of(request)
    return await store_of(request).find(request.match_info["file_id"], key_id=caller.key_id)


def _range_of(request: web.Request, size: int) -> tuple[int, int]:
    """Return the requested range of bytes; the whole without a valid one. Raises RangeNotSatisfiable."""
    try:
        wanted = request.http_range
    except ValueError:
        return 0, size
    if wanted.start is None and wanted.stop is None:
        return 0, size
    start, end, _ = wanted.indices(size)
    if start >= end:
        raise RangeNotSatisfiable(f"the file has {size} bytes")
    return start, end
