#!/usr/bin/env bash
# Installs what the tests need, then runs the checks and all tests.
# With arguments: only pytest, with them (scripts/test.sh tests/unit -k codec), and only what the named tests need.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PROGRAM='test'
# shellcheck source-path=SCRIPTDIR/..
. "$ROOT/scripts/lib/env.sh"
cd "$ROOT"

case ${1:-} in
    -h | --help)
        echo "usage: scripts/test.sh [pytest argument...]"
        exit 0
        ;;
esac

# What decides how a stack runs must not decide how the tests end. PYTHON and RELAIS_DEVICE choose what is installed.
for variable in $(compgen -e); do
    case $variable in
        API_* | CLASSIFY_* | EMBEDDING_* | RERANK_* | ENV | ENGINE | HEALTH_* | LLM_TABLE | MODELS* | MONGODB_* | REDIS_* | SERVED_MODEL_NAME | VLLM_*) unset "$variable" ;;
        RELAIS_RUN_DIR | RELAIS_API_KEY) unset "$variable" ;;
    esac
done

# The costliest kind of tests that the arguments name decides; where they name none, any test may run.
needs=light
named=0
for argument in "$@"; do
    case $argument in
        tests/unit* | tests/contract* | tests/docs* | tests/infra*) named=1 ;;
        tests/integration*) named=1 needs=${needs/light/mongo} ;;
        tests*) named=1 needs=everything ;;
    esac
done
((named)) || needs=everything

case $needs in
    light) with_install_lock install services embedded dev ;;
    mongo) with_install_lock install services embedded embedded-mongo dev ;;
    everything)
        llm=$(llm_requirements)
        with_install_lock install services embedded embedded-mongo embeddings openvino onnx dev "$llm"
        want_nginx
        want_sshd
        export RELAIS_DEVICE=${llm#llm-}
        ;;
esac
if [[ $needs == everything || "$*" == *tests/docs* ]]; then
    want_promtool
fi
# Over a gigabyte, for one file of tests; where it is named by its folder, it installs them itself.
if [[ $# == 0 || "$*" == *test_clients* ]]; then
    long_step "installing the clients of docs/clients.md" "$VENV_PYTHON" -m relais_testing.environments
fi
export PATH=$VENV/bin:$PATH

if (($#)); then
    exec "$VENV_PYTHON" -m pytest "$@"
fi

failed=()
check() { # check NAME COMMAND...: all are run, so that one look shows everything
    local name=$1 started=$SECONDS
    shift
    say "$name"
    if "$@"; then
        say "$name: passed ($((SECONDS - started)) s)"
    else
        say "$name: FAILED ($((SECONDS - started)) s)"
        failed+=("$name")
    fi
}

# Beside the tests, which wait more than they compute; shown whole once they are done.
logs=$(mktemp -d)
declare -A beside=()
start_beside() { # start_beside NAME COMMAND...
    "${@:2}" >"$logs/$1" 2>&1 &
    beside[$1]=$!
}
end_beside() {
    local status=0
    wait "${beside[$1]}" || status=$?
    cat "$logs/$1"
    return "$status"
}
trap 'kill "${beside[@]}" 2>/dev/null || true; wait; rm -rf "$logs"' EXIT
start_beside mypy mypy
if [[ -n ${CI:-} ]] || { docker compose version && docker version; } >/dev/null 2>&1; then
    start_beside images ./scripts/check_images.sh
else
    say "images: not checked, since no Docker engine answers here (scripts/check_images.sh)"
fi

# Python code that pytest has rewritten is kept, so that one process does it and not each of those below.
unset PYTHONDONTWRITEBYTECODE
"$VENV_PYTHON" -m pytest --collect-only -qq >/dev/null 2>&1 &
rewriting=$!

# Two of them to a core: each waits most of its time, for leases, deadlines and processes that start.
workers=$((2 * $(nproc)))
((workers <= 8)) || workers=8

check "ruff" ruff check .
check "ruff format" ruff format --check .
check "shellcheck" shellcheck -x relais scripts/*.sh scripts/lib/*.sh .ci/run
check "manifests" ./scripts/check_manifests.sh
check "import-linter" lint-imports
wait "$rewriting" || true # what cannot be collected is told below
check "pytest" "$VENV_PYTHON" -m pytest -n "$workers" --durations 20
check "mypy" end_beside mypy
[[ -z ${beside[images]:-} ]] || check "images" end_beside images
if ((${#failed[@]})); then
    die "failed: ${failed[*]} (see above)"
fi
say "all passed ($SECONDS s)"
