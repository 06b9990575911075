"""Keeps converted models in a folder that several workers share."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from relais_common.jobs.errors import SettingsError

log = structlog.get_logger(__name__)

FOLDER = "relais-converted"


def converted(models_cache: Path, name: str, convert: Callable[[Path], None]) -> Path:
    """Return the folder of a converted model, which is converted if it is not there yet.

    One worker converts while others wait for it. A folder is whole or absent, whoever was killed.

    Args:
        name: of the folder: another one for whatever changes its contents.
        convert: writes the files to a folder.

    Raises:
        SettingsError: the folder cannot be written.
    """
    folder = models_cache / FOLDER / name
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not folder.is_dir():
                _convert(folder, convert)
    except OSError as error:
        raise SettingsError(
            f"MODELS_CACHE_DIR: a converted model cannot be written to {folder.parent}:"
            f" {error.strerror or error}"
        ) from error
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = os.open(folder.with_name(f"{folder.name}.lock"), os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("model_conversion_awaited", folder=str(folder))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _convert(folder: Path, convert: Callable[[Path], None]) -> None:
    began_s = time.monotonic()
    partial = folder.with_name(f"{folder.name}.partial")
    # Of a worker that was killed.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    log.info("model_converting", folder=str(folder))
    try:
        convert(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    # Converters leave the weights in cycles.
    gc.collect()
    size = sum(path.stat().st_size for path in folder.iterdir())
    log.info(
        "model_converted",
        folder=str(folder),
        megabytes=round(size / 1e6, 1),
        elapsed_s=round(time.monotonic() - began_s, 1),
    )
