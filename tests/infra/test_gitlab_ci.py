"""The pipeline: what is deployed was checked, built and settled before, and prod is touched by hand alone."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from relais_testing.manifests import ROOT

PATH = ROOT / ".gitlab-ci.yml"
STAGES = ["check", "test", "build", "settings", "deploy", "rollback"]
NO_JOBS = {"stages", "workflow", "default", "variables"}


@pytest.fixture(scope="module")
def jobs() -> dict[str, dict[str, Any]]:
    """By name, with what they extend."""
    read = yaml.safe_load(PATH.read_text())

    def whole(job: dict[str, Any]) -> dict[str, Any]:
        base = job.get("extends")
        return job if base is None else whole(read[base]) | job

    assert read["stages"] == STAGES
    return {
        name: whole(job)
        for name, job in read.items()
        if name not in NO_JOBS and not name.startswith(".")
    }


def test_every_stage_has_its_jobs(jobs: dict[str, dict[str, Any]]) -> None:
    assert {name: job["stage"] for name, job in jobs.items()} == {
        "lint": "check",
        "test": "test",
        "build": "build",
        "settings": "settings",
        "deploy staging": "deploy",
        "deploy prod": "deploy",
        "roll back staging": "rollback",
        "roll back prod": "rollback",
    }


def test_prod_and_going_back_wait_for_a_person(jobs: dict[str, dict[str, Any]]) -> None:
    for name in ("deploy prod", "roll back staging", "roll back prod"):
        assert {rule["when"] for rule in jobs[name]["rules"]} == {"manual"}
    assert not any("when" in rule for rule in jobs["deploy staging"]["rules"])


def test_one_deployment_of_an_environment_at_a_time(jobs: dict[str, dict[str, Any]]) -> None:
    for job in jobs.values():
        if job["stage"] in ("deploy", "rollback"):
            assert job["resource_group"] == job["environment"]["name"]
            assert job["environment"]["name"] in ("staging", "prod")
            assert job["interruptible"] is False


def test_every_image_is_built(jobs: dict[str, dict[str, Any]]) -> None:
    printed = subprocess.run(
        ["bash", "scripts/build_images.sh", "--print", "all"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    ((matrix),) = jobs["build"]["parallel"]["matrix"]
    named = subprocess.run(
        ["bash", "scripts/build_images.sh", "--print", *matrix["IMAGE"]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(named.stdout.split()) == sorted(printed.stdout.split())


def test_every_variable_of_the_deployment_is_explained() -> None:
    """At the head of the file, and in deploy.sh's help."""
    help_text = subprocess.run(
        ["bash", "scripts/deploy.sh", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    head = PATH.read_text().split("\n\n", 1)[0]
    for name in (
        "CI_API_IMAGE_TAG",
        "CI_VLLM_IMAGE_TAG",
        "CI_DEPLOY_USER",
        "CI_DEPLOY_USER_SSH_PRIVATE_KEY",
        "CI_DEPLOY_GROUP_USER",
        "CI_DEPLOY_GROUP_TOKEN",
        "CI_DEPLOY_KNOWN_HOSTS",
        "STAGING__ENV_FILE",
        "PROD__ENV_FILE",
        "API_KEYS",
    ):
        assert re.search(rf"\b{name}\b", head), name
        assert re.search(rf"\b{name}\b", help_text), name


def test_no_secret_is_shown_or_put_on_a_command_line(jobs: dict[str, dict[str, Any]]) -> None:
    for job in jobs.values():
        for part in ("before_script", "script", "after_script"):
            for line in job.get(part, []):
                assert "set -x" not in line
                for secret in re.findall(r"\$\{?(\w*(?:TOKEN|PASSWORD|PRIVATE_KEY)\w*)", line):
                    assert re.search(rf"printf '%s' \"\${secret}\" \|", line), line
