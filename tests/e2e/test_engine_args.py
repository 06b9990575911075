"""`VLLM_ENGINE_ARGS`: options of `vllm serve` reach the engine; wrong ones end the worker in vLLM's words."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from relais_common.jobs.errors import SettingsError
from relais_llm_worker.settings import read_settings
from relais_testing.int8_model import make_int8_model
from relais_testing.process_stack import DEMO_MODEL, VLLM_ON_CPU, Starter, make_starter
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import LIVENESS_S

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # vLLM's own warnings, at import and load.
    pytest.mark.filterwarnings("ignore"),
]


def _read(line: str) -> dict[str, Any]:
    from relais_llm_worker.engines.vllm.arguments import read_engine_args

    return read_engine_args(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("", {}),
        ("--quantization fp8", {"quantization": "fp8"}),
        ("--no-enable-prefix-caching --seed 0", {"enable_prefix_caching": False, "seed": 0}),
        ("--max_num_batched_tokens 1k", {"max_num_batched_tokens": 1000}),
        ("--speculative-config.method ngram", {"speculative_config": {"method": "ngram"}}),
        ("-pp 2 -dp 2", {"pipeline_parallel_size": 2, "data_parallel_size": 2}),
    ],
)
def test_given_options_alone_become_arguments(line: str, arguments: dict[str, Any]) -> None:
    assert _read(line) == arguments


@pytest.mark.parametrize(("line", "in_pieces"), [("", False), ("--enable-chunked-prefill", True)])
def test_prompts_are_whole_on_a_cpu_unless_asked_otherwise(line: str, in_pieces: bool) -> None:
    """In pieces, those of seeded requests end vLLM's engine there."""
    from relais_llm_worker.engines.vllm.arguments import engine_args

    settings = read_settings({**VLLM_ON_CPU, "VLLM_ENGINE_ARGS": line})
    arguments, _ = engine_args(settings.engine)
    assert arguments.enable_chunked_prefill is in_pieces


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--bogus 1", "unrecognized arguments: --bogus"),
        ("--help", "unrecognized arguments: --help"),
        ("--max-logprobs x", "argument --max-logprobs: invalid int value: 'x'"),
        ("--quantization", "argument --quantization/-q: expected one argument"),
        ("--speculative-config.method", "--speculative-config.method has no value"),
        ("--speculative-config {", "argument --speculative-config/-sc: Value { cannot be"),
        ("--compilation-config '{\"x\":1}'", "CompilationConfig x Unexpected keyword argument"),
        ("--config /nowhere.yaml", "No such file or directory: '/nowhere.yaml'"),
        ("--config", "No config file specified!"),
        ("model", "the model is set by VLLM_HF_REPO_ID"),
        ("--max-model-len 5", "--max-model-len is set by VLLM_MAX_MODEL_LEN"),
        ("--max_num_seqs=5", "--max-num-seqs is set by VLLM_MAX_NUM_SEQS"),
        ("-tp 1", "--tensor-parallel-size is set by VLLM_TENSOR_PARALLEL_SIZE"),
        ("--runner pooling", "--runner cannot be set: embedding models have a worker"),
        ("--port 80", "--port is an option of vLLM's server, not of its engine"),
        ("--middleware x", "--middleware is an option of vLLM's server"),
    ],
)
def test_wrong_option_is_one_line_that_names_it(line: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _read(line)
    assert str(caught.value).startswith("VLLM_ENGINE_ARGS: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ("base=/x", "'base' names two models"),
        ("a=/x a=/y", "'a' names two models"),
        ('{"name":"a","path":"/x","base_model_name":"b"}', "for another model than 'base'"),
        ("=/x", "a model name has 1 to"),
        ("a=/x b=/x c=/x d=/x", "VLLM_MAX_NUM_SEQS is 4; with 4 adapters it takes at least 5"),
    ],
)
def test_adapter_whose_name_no_model_can_have_is_refused(modules: str, message: str) -> None:
    from relais_llm_worker.engines.vllm.adapters import adapters_of

    line = f"--lora-modules {modules}" if "{" not in modules else f"--lora-modules '{modules}'"
    with pytest.raises(SettingsError) as caught:
        adapters_of(_read(line)["lora_modules"], "base", 4)
    assert message in str(caught.value)


def test_every_option_that_a_setting_sets_is_refused(tmp_path: Path) -> None:
    from relais_llm_worker.engines.vllm.arguments import engine_args

    # Folders: names of models are looked up in the hub's cache.
    plain = read_settings({"VLLM_HF_REPO_ID": str(DEMO_MODEL)}).engine
    ours = read_settings(
        {
            "VLLM_HF_REPO_ID": str(tmp_path),
            "SERVED_MODEL_NAME": "name",
            "VLLM_DTYPE": "float32",
            "VLLM_MAX_MODEL_LEN": "5",
            "VLLM_MAX_NUM_SEQS": "5",
            "VLLM_KV_CACHE_MEMORY_BYTES": str(2 << 20),
            "VLLM_TENSOR_PARALLEL_SIZE": "2",
            "VLLM_GPU_MEMORY_UTILIZATION": "0.5",
            "VLLM_ENFORCE_EAGER": "true",
            "MODELS_CACHE_DIR": "cache",
            "VLLM_STRUCTURED_OUTPUTS_CONFIG": '{"backend": "xgrammar"}',
            "VLLM_REASONING_PARSER": "qwen3",
        }
    ).engine
    before, after = (vars(engine_args(settings)[0]) for settings in (plain, ours))
    changed = {name for name in before if before[name] != after[name]}
    assert len(changed) == 12
    values = {"dtype": " half", "enforce_eager": "", "structured_outputs_config": " {}"}
    for name in changed:
        with pytest.raises(SettingsError, match="is set by"):
            _read(f"--{name.replace('_', '-')}{values.get(name, ' 1')}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"VLLM_ENGINE_ARGS": "--block-siez 16"}, "unrecognized arguments: --block-siez"),
        (
            {"VLLM_ENGINE_ARGS": "--speculative-config.method none-such"},
            "SpeculativeConfig: method: Input",
        ),
        ({"VLLM_ENGINE_ARGS": "--lora-modules a=/nowhere"}, "--lora-modules: "),
        ({"VLLM_MAX_MODEL_LEN": "100000"}, "max_model_len (100000) is greater than"),
        ({"VLLM_REASONING_PARSER": "minimax_m3"}, "could not locate think start/end tokens"),
    ],
)
def test_worker_ends_at_start_with_vllm_s_message(
    start: Starter, settings: dict[str, str], message: str
) -> None:
    worker = start("llm_worker", wait=False, **{**VLLM_ON_CPU, **settings})
    assert worker.wait() == 2
    # vLLM's own lines begin with the name of their process.
    lines = [one for one in worker.log_path.read_text().splitlines() if one[:1] != "("]
    (line,) = [one for one in lines if one.startswith("relais-llm-worker: ")]
    assert message in line
    assert not any("Traceback" in one for one in lines)


N_GRAMS = (
    "--speculative-config.method ngram --speculative-config.num_speculative_tokens 3"
    " --speculative-config.prompt_lookup_max 4 --speculative-config.prompt_lookup_min 1"
)
PROMPTS = ("The waiting time at the town hall is far too long.", "Merci pour votre aide.")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[str]]]:
    """Asks the model of this name for greedy answers, which have no end of their own."""
    int8 = make_int8_model(tmp_path_factory.mktemp("models") / "int8")
    settings = {
        "plain": {},
        "speculating": {"VLLM_ENGINE_ARGS": N_GRAMS},
        "int8": {
            "VLLM_HF_REPO_ID": str(int8),
            "VLLM_ENGINE_ARGS": "--quantization compressed-tensors",
        },
    }
    with ValkeyServer(tmp_path_factory.mktemp("redis")) as redis, ExitStack() as stack:
        start = make_starter(stack, redis, tmp_path_factory.mktemp("logs"))
        for name, own in settings.items():
            start("llm_worker", **VLLM_ON_CPU | {"SERVED_MODEL_NAME": name} | own)
        url = start("orchestrator", MODELS=",".join(settings)).url
        client = stack.enter_context(httpx.Client(base_url=url, timeout=LIVENESS_S))

        def ask(model: str, text: str, tokens: int) -> str:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": text}],
                "temperature": 0,
                "ignore_eos": True,
                "max_tokens": tokens,
            }
            answer = client.post("/v1/chat/completions", json=body).json()
            return str(answer["choices"][0]["message"]["content"])

        yield lambda model, tokens=60: [ask(model, text, tokens) for text in PROMPTS]


def test_speculation_with_n_grams_changes_no_answer(answers: Callable[..., list[str]]) -> None:
    assert answers("speculating") == answers("plain")


def test_int8_model_writes_nearly_what_the_model_writes(answers: Callable[..., list[str]]) -> None:
    assert answers("int8", tokens=8) == answers("plain", tokens=8)
