"""Base images: named once, pinned to a digest by a script, and nothing is pushed that was built from an unpinned one.

Docker is a stand-in that writes down what it is asked; no registry is asked for a digest here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
VERSION_FILE = "libs/common/src/relais_common/__init__.py"
DIGEST = "sha256:" + "0123456789abcdef" * 4
OTHER = "sha256:" + "f" * 64
DOCKER = f"""#!/bin/sh
echo "docker $*" >>"$CALLS"
case "$*" in
    "pull "*) [ -e "$REGISTRY" ] ;;
    "image inspect --format {{{{range"*) printf 'other@{OTHER}\\npython@{DIGEST}\\n' ;;
    "image inspect"*) echo 1000000 ;;
esac
"""


class Checkout:
    """The scripts of a repository, with a base image of its own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repository"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        version = self.root / VERSION_FILE
        version.parent.mkdir(parents=True)
        shutil.copy(ROOT / VERSION_FILE, version)
        (self.root / "infra").mkdir()
        self.file = self.root / "infra" / "base-images.txt"
        self.file.write_text("# which\npython:3.11-slim-bookworm\n")
        self.calls_file = folder / "calls"
        self.registry = folder / "registry"
        self.registry.touch()
        docker = folder / "bin" / "docker"
        docker.parent.mkdir()
        docker.write_text(DOCKER)
        docker.chmod(0o755)
        self._environment = {
            "PATH": f"{docker.parent}:{os.environ['PATH']}",
            "CALLS": str(self.calls_file),
            "REGISTRY": str(self.registry),
        }

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    def run(self, script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.root / "scripts" / script), *arguments],
            env=self._environment | more,
            capture_output=True,
            text=True,
            check=False,
        )

    def built_from(self) -> set[str]:
        return set(re.findall(r"PYTHON_IMAGE=(\S+)", "\n".join(self.calls)))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_digest_behind_the_tag_is_written_down_and_built_from(checkout: Checkout) -> None:
    pinned = f"python:3.11-slim-bookworm@{DIGEST}"
    assert checkout.run("pin_images.sh", "--check").returncode == 1
    done = checkout.run("pin_images.sh")
    assert done.returncode == 0, done.stderr
    assert checkout.file.read_text() == f"# which\n{pinned}\n"
    assert checkout.run("pin_images.sh", "--check").returncode == 0
    # Again: by the tag, for it may lead elsewhere now.
    assert checkout.run("pin_images.sh").returncode == 0
    assert checkout.calls.count("docker pull --quiet python:3.11-slim-bookworm") == 2
    done = checkout.run("build_images.sh", "--push", "kpi")
    assert done.returncode == 0, done.stderr
    assert checkout.built_from() == {pinned}
    assert "docker push --quiet relais/relais-kpi:local" in checkout.calls


def test_nothing_is_built_to_be_pushed_from_an_image_without_digest(checkout: Checkout) -> None:
    done = checkout.run("build_images.sh", "--push", "all")
    assert done.returncode == 1
    assert "scripts/pin_images.sh" in done.stderr
    assert checkout.calls == []


def test_here_an_image_without_digest_will_do(checkout: Checkout) -> None:
    done = checkout.run("build_images.sh", "kpi")
    assert done.returncode == 0, done.stderr
    assert "is not pinned" in done.stdout + done.stderr
    assert checkout.built_from() == {"python:3.11-slim-bookworm"}


def test_stand_in_goes_before_what_is_pinned(checkout: Checkout) -> None:
    checkout.run("build_images.sh", "kpi", PYTHON_IMAGE="a-stand-in:1")
    assert checkout.built_from() == {"a-stand-in:1"}


def test_registry_that_cannot_be_reached_changes_nothing(checkout: Checkout) -> None:
    before = checkout.file.read_text()
    checkout.registry.unlink()
    done = checkout.run("pin_images.sh")
    assert (done.returncode, checkout.file.read_text()) == (1, before)
    assert "cannot be pulled" in done.stderr


def test_every_dockerfile_is_built_from_the_image_that_is_named_once() -> None:
    (image,) = [
        line
        for line in (ROOT / "infra" / "base-images.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    for dockerfile in sorted(ROOT.glob("services/*/Dockerfile")):
        text = dockerfile.read_text()
        assert f"ARG PYTHON_IMAGE={image.partition('@')[0]}\n" in text
        bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
        stages = set(re.findall(r"^FROM \S+ AS (\S+)", text, re.MULTILINE))
        assert bases - stages - {"scratch"} == {"${PYTHON_IMAGE}"}
