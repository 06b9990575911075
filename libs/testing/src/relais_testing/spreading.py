"""Groups tests that must run in one process, one after another (`pytest -n`), and says which begin."""

from __future__ import annotations

import re
from typing import Any

from xdist.scheduler import LoadScopeScheduling

# What imports vLLM or torch in its own process, so that one process of a run does; services are forked from another.
_IMPORTS_MODELS = re.compile(
    r"/e2e/test_(embeddings\w*|encoder|engine_args|forced_tokens|remote_embeddings|trials|vllm_(chats|contract|images))\."
)
# Servers with models, which a file shares.
_SERVES_MODELS = re.compile(
    r"/e2e/test_(clients|lora|openai_compat|serve_benchmark|vllm\w*)\.|/faults/test_(remote_vllm|vllm_\w+)\."
)
# Many small tests, with fixtures for the whole file.
_BY_FILE = re.compile(
    r"tests/(unit|docs|infra|integration/kpi)/|/integration/test_traces\.|/e2e/test_bootstrap\."
)
_LONG = re.compile(r"/(e2e|faults)/")


def scope_of(node_id: str) -> str:
    """Return the same name for tests that belong together."""
    if _IMPORTS_MODELS.search(node_id):
        return "models in the test's process"
    by_file = _SERVES_MODELS.search(node_id) or _BY_FILE.search(node_id)
    return node_id.partition("::")[0] if by_file else node_id


def turn_of(node_id: str) -> int:
    """By this number the longest begin, so that the short ones fill the end."""
    kinds = (_IMPORTS_MODELS, _SERVES_MODELS, _LONG)
    return next((at for at, kind in enumerate(kinds) if kind.search(node_id)), len(kinds))


class Spread(LoadScopeScheduling):  # type: ignore[misc] # without types
    """Gives each test to whichever process is free, but for those that belong together.

    Takes what xdist calls a scope from `scope_of`, since xdist's own groups hang on node ids that tests can rename, and
    pytest 9.2's cannot be.
    """

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)

    def _reschedule(self, node: Any) -> None:
        """Give the process work until it has three tests, or none is left: it holds each until it knows the next one.

        xdist 3.8 gives one piece at a time, when a test ends. What replaces a dead process gets its first so, and may
        wait for ever with it.
        """
        if node.shutting_down:
            return
        while self.workqueue and self._pending_of(self.assigned_work[node]) < 3:
            self._assign_work_unit(node)
        if not self.workqueue:
            node.shutdown()

    def remove_node(self, node: Any) -> str | None:
        """Take a process out; return the test at which it died, if it did. That test is not run again.

        xdist 3.8 hands on what the dead process had done, too. Of work that has ended nobody hears any more, so that
        whoever gets it waits for ever with the tests it still has.
        """
        units: dict[str, dict[str, bool]] = self.assigned_work.pop(node)
        left = [(scope, name) for scope, unit in units.items() for name in unit if not unit[name]]
        if not left:
            return None
        (scope, crashed), *rest = left
        units[scope][crashed] = True
        self.workqueue.update({scope: units[scope] for scope, _ in rest})
        for other in self.assigned_work:
            if other in self.registered_collections:
                self._reschedule(other)
        return crashed
