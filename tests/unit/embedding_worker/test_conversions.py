"""The folder of converted models: each is converted once, and is whole or absent."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from relais_common.jobs.errors import SettingsError
from relais_embedding_worker.backends import conversions
from relais_embedding_worker.backends.conversions import FOLDER, converted
from relais_testing.waiting import LIVENESS_S


def test_two_workers_at_once_convert_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, awaited, go = threading.Event(), threading.Event(), threading.Event()
    calls: list[Path] = []

    def info(event: str, **_: object) -> None:
        if event == "model_conversion_awaited":
            awaited.set()

    monkeypatch.setattr(conversions, "log", SimpleNamespace(info=info))

    def convert(folder: Path) -> None:
        calls.append(folder)
        (folder / "a").write_text("half")
        begun.set()
        assert go.wait(LIVENESS_S)
        (folder / "b").write_text("whole")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(converted, tmp_path, "m", convert)
        assert begun.wait(LIVENESS_S)
        second = pool.submit(converted, tmp_path, "m", convert)
        assert awaited.wait(LIVENESS_S)
        assert not (tmp_path / FOLDER / "m").exists()
        go.set()
        assert first.result(30) == second.result(30) == tmp_path / FOLDER / "m"
    assert len(calls) == 1
    assert {path.name for path in (tmp_path / FOLDER / "m").iterdir()} == {"a", "b"}


def test_what_a_killed_or_failed_worker_left_is_not_used(tmp_path: Path) -> None:
    partial = tmp_path / FOLDER / "m.partial"
    partial.mkdir(parents=True)
    (partial / "left over").touch()

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        converted(tmp_path, "m", fail)
    assert not partial.exists()
    folder = converted(tmp_path, "m", lambda folder: (folder / "b").touch())
    assert [path.name for path in folder.iterdir()] == ["b"]


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / FOLDER).touch()
    with pytest.raises(SettingsError, match="MODELS_CACHE_DIR"):
        converted(tmp_path, "m", lambda _: None)


def test_folder_that_cannot_be_written_to_the_end_is_named(tmp_path: Path) -> None:
    def fill_the_disk(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SettingsError, match=r"MODELS_CACHE_DIR: .*: No space left on device"):
        converted(tmp_path, "m", fill_the_disk)
    (tmp_path / FOLDER / "m.partial").touch()
    with pytest.raises(SettingsError, match="MODELS_CACHE_DIR"):
        converted(tmp_path, "m", lambda _: None)
