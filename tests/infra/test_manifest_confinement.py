"""Containers can do little, take no more than they may, and the repository has no secret of theirs."""

from __future__ import annotations

import re

import pytest

from relais_testing.manifest_settings import ours
from relais_testing.manifests import MINIKUBE, OVERLAYS, Rendered


def test_every_container_is_confined_and_bounded(overlay: Rendered) -> None:
    for workload in overlay.workloads.values():
        pod, container = workload.pod, workload.container
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        resources = container["resources"]
        assert resources["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in resources["limits"]
        assert "cpu" not in resources["limits"]
        for volume in pod["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], (workload.name, volume["name"])


def test_our_containers_run_as_the_images_user_and_write_to_tmp_alone(overlay: Rendered) -> None:
    for workload in ours(overlay):
        assert workload.pod["securityContext"]["runAsUser"] == 10001
        written = {
            mount["mountPath"]
            for mount in workload.container["volumeMounts"]
            if not mount.get("readOnly")
        }
        assert "/tmp" in written
        assert written <= {"/tmp", "/models", "/dev/shm"}


def test_services_are_not_put_into_the_environment(overlay: Rendered) -> None:
    """A Service named `redis` would set REDIS_PORT to tcp://10.0.0.1:6379."""
    for workload in overlay.workloads.values():
        assert workload.pod["enableServiceLinks"] is False


def test_namespace_enforces_the_strictest_profile(overlay: Rendered) -> None:
    labels = overlay.one("Namespace", "relais")["metadata"]["labels"]

    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for manifest in overlay.manifests:
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "relais"


def test_images_have_tags_that_do_not_move(overlay: Rendered) -> None:
    for workload in overlay.workloads.values():
        _, _, tag = workload.container["image"].rpartition(":")
        assert re.fullmatch(r"[A-Za-z0-9._-]+", tag)
        assert tag != "latest"


@pytest.mark.parametrize("overlay_name", OVERLAYS)
def test_no_secret_is_in_the_repository(overlay_name: str) -> None:
    for path in (MINIKUBE / "overlays" / overlay_name / "secrets.example").iterdir():
        text = path.read_text()
        assert "change-me" in text or "replace me" in text, path.name
        assert not re.search(r"[0-9a-f]{32}", text.replace("0" * 60, "")), path.name
