#!/usr/bin/env bash
# Renders every overlay of infra/minikube, with its example secrets, and validates what comes out: built-in kinds by the
# schemas of three Kubernetes versions, KEDA's by one of our own. And .gitlab-ci.yml by GitLab's. Needs no cluster.
# `check_manifests.sh FOLDER` keeps the rendered files there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PWD/.venv/bin:$PATH

VERSIONS=(1.32 1.35 1.37)
SCHEMA=infra/minikube/scaledobject.schema.json

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
out=${1:-$copy/rendered}
mkdir -p "$out"

yamllint --strict infra .gitlab-ci.yml
check-jsonschema --quiet --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci .gitlab-ci.yml

cp -R infra/minikube "$copy/"
failed=()
for overlay in "$copy"/minikube/overlays/*/; do
    name=$(basename "$overlay")
    # What lies in secrets/ here is somebody's own.
    rm -rf "${overlay}secrets"
    cp -R "${overlay}secrets.example" "${overlay}secrets"
    kubectl kustomize "$overlay" >"$out/$name.yaml"
    for version in "${VERSIONS[@]}"; do
        # It has no schema of KEDA's, and warns.
        kubernetes-validate --strict --quiet --no-warn -k "$version" "$out/$name.yaml" || failed+=("$name $version")
    done
    python - "$out/$name.yaml" "$copy" <<'PYTHON'
import json, sys, yaml
for index, one in enumerate(yaml.safe_load_all(open(sys.argv[1]))):
    if one["kind"] == "ScaledObject":
        json.dump(one, open(f"{sys.argv[2]}/scaled-{index}.json", "w"))
PYTHON
    check-jsonschema --quiet --schemafile "$SCHEMA" "$copy"/scaled-*.json || failed+=("$name KEDA")
    rm -f "$copy"/scaled-*.json
    echo "$name: $(grep -c '^kind:' "$out/$name.yaml") objects, Kubernetes ${VERSIONS[*]}"
done
if ((${#failed[@]})); then
    printf 'not valid: %s\n' "${failed[@]}" >&2
    exit 1
fi
