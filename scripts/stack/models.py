"""Which models a run serves: their settings, settled, and the names clients use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError

DEMO_MODEL = "models/relais-demo"

_DEMO_DEFAULTS = {
    "VLLM_TOOL_CALL_PARSER": "hermes",
    "VLLM_REASONING_PARSER": "deepseek_v3",  # of those for its marks, the one that waits to be asked
}
_CPU_DEFAULTS = {
    # One engine process: its two processes would spin on a core each, and starve Redis of a small machine.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENFORCE_EAGER": "true",  # compiling needs a C++ compiler, which a fresh machine lacks
    "VLLM_KV_CACHE_MEMORY_BYTES": str(1 << 30),  # unsaid, vLLM takes half of the memory
}
_CPU_DEMO_DEFAULTS = {
    "VLLM_KV_CACHE_MEMORY_BYTES": str(256 << 20),
    "VLLM_DTYPE": "float32",  # bfloat16 flips near-ties, and a resumed answer must be the same answer
    "VLLM_MAX_MODEL_LEN": "1024",
}


@dataclass(frozen=True, slots=True)
class Model:
    """One that this machine's workers serve.

    Attributes:
        name: that clients use.
        demo: it is the one from this repository.
        environment: what its workers get beside the environment of the run.
        declared_in: the setting that declares it, if it gives vectors or judges texts.
    """

    name: str
    demo: bool
    environment: Mapping[str, str]
    declared_in: str = ""


def settle_llm(root: Path, environment: dict[str, str], environ: Mapping[str, str]) -> Model:
    """Settle the settings of what writes text in `environment`."""
    if environment["ENGINE"] == "remote":
        return Model(_first_of_table(environment), demo=False, environment={})
    wanted = environment["VLLM_HF_REPO_ID"]
    path = root / Path(wanted).expanduser()
    if environment["ENGINE"] != "vllm":
        name = environment.setdefault(
            "SERVED_MODEL_NAME", path.name if wanted == DEMO_MODEL else wanted
        )
        return Model(name, demo=wanted == DEMO_MODEL, environment={})
    is_local = wanted == DEMO_MODEL or _names_a_folder(wanted, path)
    own = {}
    if is_local:
        if not (path / "config.json").is_file():
            raise StackError(
                f"there is no model in {path}: set VLLM_HF_REPO_ID to a model's folder or name"
            )
        path = path.resolve()
        environment["VLLM_HF_REPO_ID"] = str(path)
        own["HF_HUB_OFFLINE"] = "1"
    demo = path == (root / DEMO_MODEL).resolve()
    name = environment.setdefault("SERVED_MODEL_NAME", path.name if is_local else wanted)
    defaults = _DEMO_DEFAULTS if demo else {}
    if environ.get("RELAIS_DEVICE") == "cpu":
        defaults = {**defaults, **_CPU_DEFAULTS}
        if demo:
            defaults |= _CPU_DEMO_DEFAULTS
            own["OMP_NUM_THREADS"] = "1"
    for key, value in defaults.items():
        environment.setdefault(key, value)
    return Model(name, demo, _unless_set(own, environ))


def settle_embedder(root: Path, environment: dict[str, str], environ: Mapping[str, str]) -> Model:
    """Settle the settings of what gives vectors in `environment`."""
    # Not above: `down` and `status` do without the environment.
    from relais_common.jobs.errors import SettingsError
    from relais_common.jobs.job import Operation
    from relais_common.runtime.environ import KINDS, model_kinds, words
    from relais_embedding_worker.settings import read_settings

    if environment["ENGINE"] == "deterministic":
        environment.setdefault("EMBEDDING_ENGINE", "deterministic")
    wanted = words(environment, "EMBEDDING_MODEL", "")
    if wanted:
        environment["EMBEDDING_MODEL"] = ",".join(_embedding_model(root, one) for one in wanted)
    try:
        encoders = read_settings(environment).encoders
        kinds = model_kinds(environment)
    except SettingsError as error:
        raise StackError(str(error)) from None
    settings = [KINDS[kinds.get(one.served_name, Operation.EMBEDDINGS)] for one in encoders]
    vectors = [
        one.served_name
        for one, setting in zip(encoders, settings, strict=True)
        if setting == "EMBEDDING_MODELS"
    ]
    if vectors:
        environment.setdefault("EMBEDDING_MODELS", ",".join(vectors))
    own = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}
    if all(Path(one.model).is_dir() for one in encoders):
        own["HF_HUB_OFFLINE"] = "1"
    return Model(
        encoders[0].served_name,
        demo=not wanted,
        environment=_unless_set(own, environ),
        declared_in=settings[0],
    )


def _embedding_model(root: Path, wanted: str) -> str:
    path = root / Path(wanted).expanduser()
    if not _names_a_folder(wanted, path):
        return wanted
    if not path.is_dir():
        raise StackError(
            f"there is no model in {path}: set EMBEDDING_MODEL to a model's folder or name"
        )
    return str(path.resolve())


def declared_models(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Those that the orchestrators declare."""
    from relais_common.jobs.errors import SettingsError
    from relais_common.runtime.environ import models

    try:
        return models(environment)
    except SettingsError as error:
        raise StackError(str(error)) from None


def _names_a_folder(wanted: str, path: Path) -> bool:
    return wanted.startswith((".", "/", "~")) or path.is_dir()


def _unless_set(own: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in own.items() if not environ.get(key)}


def _first_of_table(environment: dict[str, str]) -> str:
    """The model of `LLM_TABLE` that is asked first; settles the table, which orchestrators want too."""
    # Not above: `down` and `status` do without the environment.
    from relais_common.config.server_table import ALBERT_S_TABLE
    from relais_common.jobs.errors import SettingsError
    from relais_common.runtime.environ import llm_table

    try:
        environment.setdefault("LLM_TABLE", ALBERT_S_TABLE)
        table = llm_table(environment)
    except SettingsError as error:
        raise StackError(str(error)) from None
    if not table:
        raise StackError("LLM_TABLE is empty: with ENGINE=remote it names models and servers")
    return table[0].model
