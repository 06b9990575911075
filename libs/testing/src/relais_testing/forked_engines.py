"""Imported in a process that services are forked from: vLLM forks its engines too, as it does on a GPU.

On a CPU it spawns them, and each would import vLLM anew, which is nine tenths of what a start costs.
"""

from __future__ import annotations

from vllm import envs

envs.environment_variables["VLLM_WORKER_MULTIPROC_METHOD"] = lambda: "fork"
