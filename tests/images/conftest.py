"""Containers of the images that scripts/check_images.sh has built. Without it nothing here is collected."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from relais_testing.composed import Composed, free_port_range
from relais_testing.manifests import ROOT

collect_ignore_glob = [] if os.environ.get("RELAIS_CHECK_IMAGES") else ["test_*.py"]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """infra/compose, up and ready, as a project of this run's own; gone with its volumes afterwards."""
    folder: Path = tmp_path_factory.mktemp("compose")
    first = free_port_range(4)
    settings = {
        "REDIS_PASSWORD": secrets.token_hex(16),
        "MONGODB_PASSWORD": secrets.token_hex(16),
        "API_PORT": f"{first}-{first + 3}",
        # A stream that lasts long enough to be cut.
        "DETERMINISTIC_TOKENS_PER_S": "25",
        "TRACE_WRITE_EVERY_S": "0.2",
        "API_KEYS_DIR": str(folder),
    }
    example = (ROOT / "infra" / "compose" / ".env.example").read_text()
    env_file = folder / "env"
    env_file.write_text(example + "".join(f"{key}={value}\n" for key, value in settings.items()))
    files = os.environ["RELAIS_CHECK_IMAGES"].split(":")
    composed = Composed(f"relais-check-{os.getpid()}", env_file, files, settings)
    try:
        composed.run("up", "--detach", "--wait", "--no-build")
        yield composed
    finally:
        composed.run("down", "--volumes", "--remove-orphans", "--timeout", "20", check=False)
