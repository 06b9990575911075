#!/usr/bin/env bash
# Builds the images, and pushes them where asked. `scripts/build_images.sh --help` says how.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PROGRAM=build_images
# shellcheck source-path=SCRIPTDIR/..
. "$ROOT/scripts/lib/env.sh"
cd "$ROOT"

ALL=(orchestrator kpi embedding-worker llm-worker-remote llm-worker-cpu llm-worker-cuda)

usage() {
    cat <<END
usage: scripts/build_images.sh [--push] [--print] NAME...

  NAME     ${ALL[*]}, or all
  --push   push each once all are built; refused where the base image is not pinned to a digest (scripts/pin_images.sh)
  --print  print the names with tags that would be built, one a line, and end

Settings, from the environment:
  CI_REGISTRY_IMAGE (relais)   what goes before an image's name
  CI_API_IMAGE_TAG (local)     tag of the orchestrator, the KPI job and the embedding worker
  CI_VLLM_IMAGE_TAG (local)    tag of the LLM worker, with -remote, -cpu or -cuda behind it
  EMBEDDING_BACKEND (torch)    openvino, onnx or auto: the embedding worker's image gets what they need
  PYTHON_IMAGE                 the base image, in place of that of infra/base-images.txt
  UV_FIND_LINKS, or else PIP_FIND_LINKS   a folder with wheels that no index has (torch's CPU build, say)
  RELAIS_UV_CONFIG, RELAIS_PIP_CONFIG     files uv.toml and pip.conf, for an index of your own; no trace of them stays in an image
END
}

image_of() { # image_of NAME: with its tag
    local registry=${CI_REGISTRY_IMAGE:-relais} api=${CI_API_IMAGE_TAG:-local} vllm=${CI_VLLM_IMAGE_TAG:-local}
    case $1 in
        llm-worker-*) echo "$registry/relais-llm-worker:$vllm-${1#llm-worker-}" ;;
        *) echo "$registry/relais-$1:$api" ;;
    esac
}

build() { # build NAME
    local name=$1 image started=$SECONDS wheels=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}} arguments=() folder
    image=$(image_of "$name")
    case $name in
        llm-worker-*) arguments+=(--target "${name#llm-worker-}") ;;
    esac
    folder=services/${name//-/_}
    folder=${folder/llm_worker_*/llm_worker}
    if [[ -d $wheels && $name =~ ^(embedding-worker|llm-worker-cpu)$ ]]; then
        arguments+=(--build-context "wheels=$wheels")
    fi
    [[ $name != embedding-worker ]] || arguments+=(--build-arg "EMBEDDING_BACKEND=${EMBEDDING_BACKEND:-torch}")
    [[ -z ${RELAIS_UV_CONFIG:-} ]] || arguments+=(--secret "id=uv.toml,src=$RELAIS_UV_CONFIG")
    [[ -z ${RELAIS_PIP_CONFIG:-} ]] || arguments+=(--secret "id=pip.conf,src=$RELAIS_PIP_CONFIG")
    DOCKER_BUILDKIT=1 docker build --quiet --file "$folder/Dockerfile" --tag "$image" \
        --build-arg "PYTHON_IMAGE=$base" --build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
        "${arguments[@]}" . >/dev/null || die "$image could not be built (see above)"
    say "$image: $(($(docker image inspect --format '{{.Size}}' "$image") / 1000000)) MB ($((SECONDS - started)) s)"
}

# A tag that names a release belongs to that release alone.
version=$(relais_version)
for tag in "${CI_API_IMAGE_TAG:-}" "${CI_VLLM_IMAGE_TAG:-}"; do
    [[ ! $tag =~ ^v?[0-9]+\.[0-9]+\.[0-9]+$ || ${tag#v} == "$version" ]] ||
        die "the tag is $tag, and this is version $version ($VERSION_FILE)"
done

push=false print=false names=()
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --push) push=true ;;
        --print) print=true ;;
        all) names+=("${ALL[@]}") ;;
        *)
            [[ " ${ALL[*]} " == *" $1 "* ]] || { usage >&2; die "there is no image '$1'"; }
            names+=("$1")
            ;;
    esac
    shift
done
if ((${#names[@]} == 0)); then
    usage >&2
    exit 2
fi

if $print; then
    for name in "${names[@]}"; do image_of "$name"; done
    exit 0
fi
# A tag may lead elsewhere tomorrow: what is pushed is built from what somebody has looked at.
base=${PYTHON_IMAGE:-$("$ROOT/scripts/pin_images.sh" --print python)}
if [[ ! $base =~ @sha256:[0-9a-f]{64}$ ]]; then
    ! $push || die "the base image $base is not pinned to a digest, so that nothing is pushed: run scripts/pin_images.sh"
    say "the base image $base is not pinned to a digest (scripts/pin_images.sh)"
fi
for name in "${names[@]}"; do build "$name"; done
if $push; then
    for name in "${names[@]}"; do docker push --quiet "$(image_of "$name")"; done
fi
