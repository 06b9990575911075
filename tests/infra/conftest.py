from __future__ import annotations

from pathlib import Path

import pytest

from relais_testing.manifests import OVERLAYS, Rendered, render


@pytest.fixture(scope="session")
def every_overlay(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rendered]:
    folder: Path = tmp_path_factory.mktemp("overlays")
    return {name: render(name, folder) for name in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest, every_overlay: dict[str, Rendered]) -> Rendered:
    return every_overlay[request.param]
