#!/usr/bin/env bash
# Builds the images (all but vLLM's) and runs infra/compose with them: tests/images says what is looked at. Uses the engine of
# this machine; in CI, where none answers, one of its own, in a temporary folder (scripts/lib/docker.sh).
# `check_images.sh ARGUMENT...` passes arguments on to pytest.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PROGRAM=check_images
# shellcheck source-path=SCRIPTDIR/..
. "$ROOT/scripts/lib/env.sh"
# shellcheck source-path=SCRIPTDIR/..
. "$ROOT/scripts/lib/docker.sh"
cd "$ROOT"
export PATH=$VENV/bin:$PATH

PYTHON_IMAGE=$(scripts/pin_images.sh --print python)
COMPOSE=(docker compose --file infra/compose/compose.yaml)

say "Dockerfiles"
hadolint services/*/Dockerfile tests/images/*.Dockerfile

require_engine
trap stop_engine EXIT

say "compose files"
for example in .env.example staging.env.example prod.env.example; do
    for profile in cpu gpu remote kpi monitoring proxy '*'; do
        "${COMPOSE[@]}" --env-file "infra/compose/$example" --profile "$profile" config --quiet
    done
done

# Ours go by a tag of their own, so that nobody's images are overwritten.
export CI_REGISTRY_IMAGE=relais-check CI_API_IMAGE_TAG=checked CI_VLLM_IMAGE_TAG=checked
stand_in() { docker build --quiet --file "tests/images/$1.Dockerfile" --tag "$2" . >/dev/null; }
need_image "$PYTHON_IMAGE" make_python_image "${PYTHON_IMAGE%@*}"
# What stands in for it has its tag, and no digest.
! is_stand_in "${PYTHON_IMAGE%@*}" 2>/dev/null || PYTHON_IMAGE=${PYTHON_IMAGE%@*}
export PYTHON_IMAGE
need_image redis:7.4-bookworm stand_in redis redis:7.4-bookworm
need_image mongo:8.0 stand_in mongo mongo:8.0
scripts/build_images.sh orchestrator kpi llm-worker-remote embedding-worker

files=tests/images/compose.ci.yaml
! is_stand_in mongo:8.0 || files+=:tests/images/compose.stand-ins.yaml
RELAIS_CHECK_IMAGES=$files python -m pytest tests/images "$@"
