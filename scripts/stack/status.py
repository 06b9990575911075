"""`status`: each process, its readiness, and the URLs."""

from __future__ import annotations

from stack.model import Run
from stack.probes import reachable, why_not_ready
from stack.supervisord import Supervisor


def print_status(run: Run) -> bool:
    """Says whether all of it is ready."""
    try:
        states = Supervisor(run.socket).states()
    except OSError:
        print("the supervisor does not answer: end what is left with 'scripts/bootstrap.sh down'")
        return False
    all_ready = True
    width = max(len(program.name) for program in run.programs)
    for program in run.programs:
        state = states.get(program.name)
        reason = why_not_ready(run, program, state.pid if state is not None else 0)
        ready = reason is None and state is not None and state.is_up
        all_ready = all_ready and ready
        words = (
            f"pid {state.pid:<8} up {state.uptime_s} s" if state is not None and state.pid else "-"
        )
        print(
            f"{program.name:<{width}}  {(state.state if state else 'UNKNOWN').lower():<9} {words:<26} "
            f"{'ready' if ready else f'not ready: {reason}':<10}  {reachable(program.host)}:{program.port}"
        )
    for url in run.api_urls:
        print(f"API {url}/v1 ({run.models_served})")
    return all_ready
