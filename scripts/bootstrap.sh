#!/usr/bin/env bash
# Runs all of Relais on this machine. `scripts/bootstrap.sh --help` says how.
# This file makes the environment; scripts/stack/ (Python) starts, watches and stops the processes.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PROGRAM=bootstrap
# shellcheck source-path=SCRIPTDIR/..
. "$ROOT/scripts/lib/env.sh"

usage() {
    cat <<'END'
usage: scripts/bootstrap.sh [start] [--detach] [--orchestrators N] [--llm-workers N] [--embedding-workers N]
                            [--no-mongodb]
       scripts/bootstrap.sh status | logs [NAME] [-f] [--json] | down
       scripts/bootstrap.sh examples | compose --help | minikube --help

  start    install what is missing (the first time only), start Redis, MongoDB, the orchestrator, a worker that writes
           text and one that gives vectors, answer a first request of each, then stay in the foreground: Ctrl-C stops
           all of it
  status   each process, whether it is ready, and the URLs; exit 0 only if all is ready
  logs     the last lines of all logs, or of NAME's; -f follows them; --json prints them as they were written
  down     stop a detached stack
  examples install what examples/ and its notebook need

  --detach                return once the first requests are answered
  --orchestrators N       several HTTP servers, on API_PORT and the ports after it (default 1)
  --llm-workers N         several workers for text (default 1)
  --embedding-workers N   several workers for vectors; 0 for none (default 1; with ENGINE=remote 0)
  --no-mongodb            keep no traces (and so no KPIs), unless MONGODB_URL names a server

Settings come from the environment, or from a file .env beside README.md. The most used:
  API_PORT (8080)   API_HOST (127.0.0.1)   REDIS_URL, MONGODB_URL (servers of yours in place of the embedded ones)
  VLLM_HF_REPO_ID (a model's name or path; models/relais-demo)   SERVED_MODEL_NAME
  EMBEDDING_MODEL (a sentence-transformers model's name or path; all-MiniLM-L6-v2, which a package carries)
  ENGINE (vllm; remote: only the models of LLM_TABLE; deterministic: no model at all)
  LLM_TABLE ([("model", "http://host:port"), ...]: models that run already; a worker for them is started too)
  EMBEDDING_BACKEND (torch; openvino, onnx and auto install what they need)
  EMBEDDING_TABLE, RERANK_TABLE, CLASSIFY_TABLE (likewise, for embedding models, rerankers and classification models)
  ENV (dev: any key will do; staging, prod: only those of the file API_KEYS) and RELAIS_API_KEY (one of them, for the
  first request)   RELAIS_DEVICE (cpu or cuda; found by looking)
  RELAIS_RUN_DIR (.run: logs, data and sockets; another one makes a second stack)   PYTHON (the interpreter to use)
END
}

stack() { # the rest is Python; signals go straight to it
    PYTHONPATH=$ROOT/scripts exec "$1" -m stack "${@:2}"
}

positive() { [[ ${1:-} =~ ^[1-9][0-9]?$ ]]; }
not_negative() { [[ ${1:-} =~ ^(0|[1-9][0-9]?)$ ]]; }

if [[ ${1:-} == compose ]]; then
    . "$ROOT/scripts/lib/compose.sh"
    compose_main "${@:2}"
    exit
fi
if [[ ${1:-} == minikube ]]; then
    . "$ROOT/scripts/lib/minikube.sh"
    minikube_main "${@:2}"
    exit
fi

command=start
if [[ ${1:-} =~ ^[a-z] ]]; then
    command=$1
    shift
fi
arguments=()
embedding_workers=""
mongodb=yes
while (($#)); do
    case $command:$1 in
        *:-h | *:--help)
            usage
            exit 0
            ;;
        start:--detach | logs:-f | logs:--json) arguments+=("$1") ;;
        start:--no-mongodb)
            arguments+=("$1")
            mongodb=no
            ;;
        start:--orchestrators | start:--llm-workers)
            positive "${2:-}" || usage_error usage "$1 needs a number from 1 to 99"
            arguments+=("$1" "$2")
            shift
            ;;
        start:--orchestrators=* | start:--llm-workers=*)
            positive "${1#*=}" || usage_error usage "${1%%=*} needs a number from 1 to 99"
            arguments+=("${1%%=*}" "${1#*=}")
            ;;
        start:--embedding-workers)
            not_negative "${2:-}" || usage_error usage "$1 needs a number from 0 to 99"
            embedding_workers=$2
            shift
            ;;
        start:--embedding-workers=*)
            not_negative "${1#*=}" || usage_error usage "${1%%=*} needs a number from 0 to 99"
            embedding_workers=${1#*=}
            ;;
        logs:[a-z]*) arguments+=("$1") ;;
        *) usage_error usage "unknown argument '$1'" ;;
    esac
    shift
done

# Asked before anything is installed or started: without it the first request, and with it the start, would fail.
require_first_key() {
    local missing=()
    [[ ${ENV:-dev} == dev ]] && return
    [[ -n ${API_KEYS:-} ]] || missing+=("API_KEYS: the file of keys, as made by: ./relais keys create client1 --file api_keys.json")
    [[ -n ${RELAIS_API_KEY:-} ]] || missing+=("RELAIS_API_KEY: one of these keys, for the first request")
    refuse_missing "ENV=$ENV" "${missing[@]}"
}

load_dotenv
case $command in
    start)
        require_first_key
        engine=${ENGINE:-vllm}
        if [[ -z $embedding_workers ]]; then
            if [[ $engine == remote ]]; then embedding_workers=0; else embedding_workers=1; fi
        fi
        arguments+=(--embedding-workers "$embedding_workers")
        encoder=none
        if ((embedding_workers)); then
            encoder=${EMBEDDING_ENGINE:-$([[ $engine == deterministic ]] && echo deterministic || echo real)}
        fi
        wanted=(services embedded)
        # torch comes with vLLM's build for the machine.
        if [[ $engine == vllm || ! $encoder =~ ^(none|deterministic|remote)$ ]]; then
            llm=$(llm_requirements)
            wanted+=("$llm")
            export RELAIS_DEVICE=${llm#llm-}
        fi
        if [[ ! $encoder =~ ^(none|deterministic|remote)$ ]]; then
            wanted+=(embeddings)
            case ${EMBEDDING_BACKEND:-torch} in
                openvino | onnx) wanted+=("$EMBEDDING_BACKEND") ;;
                auto) wanted+=(openvino) ;;
            esac
        fi
        [[ $mongodb == no || -n ${MONGODB_URL:-} ]] || wanted+=(embedded-mongo)
        with_install_lock install "${wanted[@]}"
        stack "$VENV_PYTHON" start "${arguments[@]}"
        ;;
    examples)
        with_install_lock install services examples
        say "ready: .venv/bin/python examples/resuming_client.py Bonjour, .venv/bin/jupyter lab examples/demo.ipynb"
        ;;
    status | logs | down)
        PYTHON_COMMAND=$VENV_PYTHON
        python_fits "$PYTHON_COMMAND" >/dev/null || find_python
        stack "$PYTHON_COMMAND" "$command" ${arguments[@]+"${arguments[@]}"}
        ;;
    help) usage ;;
    *) usage_error usage "unknown command '$command'" ;;
esac
