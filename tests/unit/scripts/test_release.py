"""One version, and scripts/release.sh: what it changes, in a repository of its own; it never pushes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from prometheus_client import generate_latest

from relais_common import __version__
from relais_common.runtime.command_line import dispatch
from relais_common.runtime.metrics.exposition import new_registry

ROOT = Path(__file__).resolve().parents[3]
VERSION_FILE = "libs/common/src/relais_common/__init__.py"
MANIFEST = "infra/minikube/overlays/production/kustomization.yaml"
PROJECTS = sorted(ROOT.glob("*/*/pyproject.toml"))


class Repository:
    """What a release touches, on a branch `main` that follows a bare `origin`."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repository"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        for name in (VERSION_FILE, MANIFEST):
            (self.root / name).parent.mkdir(parents=True)
            shutil.copy(ROOT / name, self.root / name)
        self.changelog = self.root / "CHANGELOG.md"
        self.changelog.write_text("# Changelog\n\n## Unreleased\n\n### Added\n\n- A thing.\n")
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.org",
        }
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "Begin")
        self.git("clone", "--quiet", "--bare", ".", str(folder / "origin"))
        self.git("remote", "add", "origin", str(folder / "origin"))
        self.start = self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def release(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "scripts/release.sh", *arguments],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def is_untouched(self) -> bool:
        return (self.git("rev-parse", "HEAD"), self.git("tag"), self.git("status", "-s")) == (
            self.start,
            "",
            "",
        )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_every_package_has_the_version_of_the_one_file(project: Path) -> None:
    declared = tomllib.loads(project.read_text())
    assert "version" not in declared["project"]
    metadata = ProjectMetadata(str(project.parent), PluginManager(), declared)
    assert metadata.version == __version__


def test_command_and_metrics_show_the_version(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dispatch(["--version"], []) == 0
    assert capsys.readouterr().out == f"relais {__version__}\n"
    for package in ("relais-orchestrator", "relais-llm-worker", "relais-embedding-worker"):
        info = f'relais_build_info{{service="{package[7:]}",version="{__version__}"}} 1.0'
        assert info in generate_latest(new_registry(package)).decode().splitlines()


def test_images_and_manifests_show_the_version() -> None:
    build = (ROOT / "scripts" / "build_images.sh").read_text()
    assert '--build-arg "VERSION=$version"' in build
    for dockerfile in ROOT.glob("services/*/Dockerfile"):
        text = dockerfile.read_text()
        labels = text.count("LABEL ")
        assert labels == text.count('org.opencontainers.image.version="$VERSION"')
    tags = re.findall(r"newTag: ([^-\n]+)", (ROOT / MANIFEST).read_text())
    assert set(tags) == {f"v{__version__}"}


def test_changelog_has_the_version_and_a_place_for_what_comes_next() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(re.escape(__version__) + r" - \d{4}-\d\d-\d\d", headings[1])


def test_release_tag_of_another_version_is_not_built(repository: Repository) -> None:
    for setting in ("CI_API_IMAGE_TAG", "CI_VLLM_IMAGE_TAG"):
        repository.environment[setting] = "v99.0.0"
        done = subprocess.run(
            ["bash", "scripts/build_images.sh", "--print", "all"],
            cwd=repository.root,
            env=repository.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        del repository.environment[setting]
        assert done.returncode == 1
        assert "v99.0.0" in done.stderr


def test_release_is_a_commit_and_a_tag_and_pushes_nothing(repository: Repository) -> None:
    done = repository.release("99.1.0")
    assert done.returncode == 0, done.stderr
    today = datetime.now(UTC).date().isoformat()
    assert '__version__ = "99.1.0"\n' in (repository.root / VERSION_FILE).read_text()
    assert (
        f"## Unreleased\n\n## 99.1.0 - {today}\n\n### Added\n" in repository.changelog.read_text()
    )
    tags = re.findall(r"newTag: (\S+)", (repository.root / MANIFEST).read_text())
    assert set(tags) == {"v99.1.0", "v99.1.0-cuda", "v99.1.0-remote"}
    assert repository.git("log", "-1", "--format=%s") == "Release 99.1.0"
    assert repository.git("rev-parse", "v99.1.0^{commit}") == repository.git("rev-parse", "HEAD")
    assert repository.git("status", "--short") == ""
    assert repository.git("ls-remote", "origin").split() == [
        repository.start,
        "HEAD",
        repository.start,
        "refs/heads/main",
    ]
    assert "git push origin main v99.1.0" in done.stdout


def test_dry_run_shows_the_change_and_makes_none(repository: Repository) -> None:
    done = repository.release("--dry-run", "99.1.0")
    assert done.returncode == 0, done.stderr
    assert '+__version__ = "99.1.0"' in done.stdout
    assert "+## 99.1.0 - " in done.stdout
    assert repository.is_untouched()


def test_version_whose_heading_is_there_is_tagged(repository: Repository) -> None:
    repository.changelog.write_text(
        f"# Changelog\n\n## Unreleased\n\n## {__version__} - 2026-11-30\n\n- A thing.\n"
    )
    repository.git("commit", "--quiet", "--all", "--message", "Head it")
    head = repository.git("rev-parse", "HEAD")
    done = repository.release(__version__)
    assert done.returncode == 0, done.stderr
    assert repository.git("rev-parse", f"v{__version__}^{{commit}}") == head


@pytest.mark.parametrize("arguments", [[], ["1.2"], ["v1.2.3"], ["1.2.3", "1.2.4"]])
def test_what_is_no_version_is_wrong_use(repository: Repository, arguments: list[str]) -> None:
    done = repository.release(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_older_version_is_refused(repository: Repository) -> None:
    done = repository.release("0.0.1")
    assert (done.returncode, repository.is_untouched()) == (1, True)
    assert "comes before" in done.stderr


def test_release_needs_main_and_nothing_uncommitted(repository: Repository) -> None:
    (repository.root / "left").touch()
    assert "uncommitted" in repository.release("99.1.0").stderr
    (repository.root / "left").unlink()
    repository.git("switch", "--quiet", "--create", "other")
    assert "on main" in repository.release("99.1.0").stderr
    assert repository.is_untouched()


def test_release_needs_lines_in_the_changelog(repository: Repository) -> None:
    repository.changelog.write_text("# Changelog\n\n## Unreleased\n")
    repository.git("commit", "--quiet", "--all", "--message", "Empty it")
    done = repository.release("99.1.0")
    assert done.returncode == 1
    assert "nothing under Unreleased" in done.stderr
