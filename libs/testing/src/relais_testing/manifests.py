"""Renders infra/minikube with `kubectl kustomize`, and shows what a container would see."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[4]
MINIKUBE = ROOT / "infra" / "minikube"
OVERLAYS = sorted(path.name for path in (MINIKUBE / "overlays").iterdir() if path.is_dir())
WORKLOADS = ("Deployment", "StatefulSet", "CronJob")

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """A workload whose pods have one container."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def template(self) -> Manifest:
        spec: Manifest = self.manifest["spec"]
        if self.manifest["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        template: Manifest = spec["template"]
        return template

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def pod(self) -> Manifest:
        pod: Manifest = self.template["spec"]
        return pod

    @property
    def container(self) -> Manifest:
        (container,) = self.pod["containers"]
        assert "initContainers" not in self.pod
        one: Manifest = container
        return one

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", [])}


@dataclass(frozen=True)
class Rendered:
    """One overlay."""

    name: str
    manifests: tuple[Manifest, ...]

    def of(self, *kinds: str) -> list[Manifest]:
        return [one for one in self.manifests if one["kind"] in kinds]

    def one(self, kind: str, name: str) -> Manifest:
        (found,) = [one for one in self.of(kind) if one["metadata"]["name"] == name]
        return found

    @cached_property
    def workloads(self) -> dict[str, Workload]:
        return {one["metadata"]["name"]: Workload(one) for one in self.of(*WORKLOADS)}

    def selected(self, selector: Manifest) -> list[str]:
        """Return the workloads whose pods a label selector selects."""
        return [name for name, one in self.workloads.items() if selects(selector, one.labels)]

    def environment(self, workload: Workload) -> dict[str, str]:
        """Return the environment of the container; names of pods and nodes are made up."""
        found: dict[str, str] = {}
        for source in workload.container.get("envFrom", []):
            ((kind, reference),) = source.items()
            if kind == "configMapRef":
                found |= self.one("ConfigMap", reference["name"])["data"]
            else:
                found |= self.secret(reference["name"])
        for variable in workload.container.get("env", []):
            if "value" in variable:
                found[variable["name"]] = variable["value"]
            elif "secretKeyRef" in variable["valueFrom"]:
                reference = variable["valueFrom"]["secretKeyRef"]
                secret = self.secret(reference["name"])
                if reference["key"] in secret or not reference.get("optional"):
                    found[variable["name"]] = secret[reference["key"]]
            else:
                found[variable["name"]] = f"{workload.name}-0"
        return found

    def secret(self, name: str) -> dict[str, str]:
        data = self.one("Secret", name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def mounted_file(self, workload: Workload, path: str) -> str:
        """Return the text of a file that the container gets from a Secret or ConfigMap."""
        volumes = {volume["name"]: volume for volume in workload.pod["volumes"]}
        for mount in workload.container["volumeMounts"]:
            folder, _, file = path.rpartition("/")
            if mount["mountPath"] != folder:
                continue
            volume = volumes[mount["name"]]
            if "secret" in volume:
                return self.secret(volume["secret"]["secretName"])[file]
            return str(self.one("ConfigMap", volume["configMap"]["name"])["data"][file])
        raise AssertionError(f"{workload.name} mounts nothing at {path}")


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Return whether a LabelSelector selects these labels."""
    wanted = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", "no other operator is read here"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


def render(overlay: str, folder: Path) -> Rendered:
    """Run `kubectl kustomize` over a copy with the example secrets."""
    copy = folder / overlay
    shutil.copytree(MINIKUBE, copy, ignore=shutil.ignore_patterns("secrets"))
    path = copy / "overlays" / overlay
    shutil.copytree(path / "secrets.example", path / "secrets")
    return _rendered(overlay, path)


def render_with(
    overlay: str, component: str, secrets: dict[str, dict[str, str]], folder: Path
) -> Rendered:
    """As `render`, with a component and the files of secrets that it needs on top."""
    render(overlay, folder)
    path = folder / overlay / "overlays" / "more"
    path.mkdir()
    generated = []
    for name, files in secrets.items():
        for file, text in files.items():
            (path / file).write_text(text)
        generated.append({"name": name, "files": list(files)})
    more = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "relais",
        "resources": [f"../{overlay}"],
        "components": [f"../../components/{component}"],
        "secretGenerator": generated,
    }
    (path / "kustomization.yaml").write_text(yaml.safe_dump(more))
    return _rendered(f"{overlay} with {component}", path)


def _rendered(name: str, path: Path) -> Rendered:
    done = subprocess.run(
        ["kubectl", "kustomize", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # deprecated fields are warned of there
    return Rendered(name, tuple(yaml.safe_load_all(done.stdout)))


def texts(manifest: object) -> Iterator[str]:
    """Yield every text in a document."""
    if isinstance(manifest, dict):
        for key, value in manifest.items():
            yield str(key)
            yield from texts(value)
    elif isinstance(manifest, list):
        for value in manifest:
            yield from texts(value)
    elif isinstance(manifest, str):
        yield manifest
