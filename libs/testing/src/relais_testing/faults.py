"""Wraps any port so that its store can fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

from relais_common.jobs.errors import StoreUnavailable

Port = TypeVar("Port")
_CONTEXTS = ("subscribe", "stop_requests")


class Faults:
    """Decides which calls to the wrapped ports fail.

    Attributes:
        away: while True, every call raises StoreUnavailable and nothing is executed.
        calls: name and arguments of every call, in order.
    """

    def __init__(self) -> None:
        self.away = False
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._refusals: Counter[str] = Counter()
        self._lost_answers: Counter[str] = Counter()

    def around(self, port: Port) -> Port:
        """Return the same port with these faults."""
        return cast("Port", _Faulty(port, self))

    def refuse(self, method: str, times: int = 1) -> None:
        """Make the next calls fail before they are executed."""
        self._refusals[method] += times

    def lose_answer(self, method: str, times: int = 1) -> None:
        """Make the next calls lose their answer after they were executed."""
        self._lost_answers[method] += times

    def count(self, method: str) -> int:
        """Return how often a method was called."""
        return sum(name == method for name, _, _ in self.calls)

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Be away inside the context: a worker, for instance, cannot end a job before a request for it is answered."""
        self.away = True
        try:
            yield
        finally:
            self.away = False

    def begin(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls.append((method, args, kwargs))
        if self.away:
            raise StoreUnavailable("away")
        if self._refusals[method] > 0:
            self._refusals[method] -= 1
            raise StoreUnavailable("refused")

    def end(self, method: str) -> None:
        if self._lost_answers[method] > 0:
            self._lost_answers[method] -= 1
            raise StoreUnavailable("answer lost")


class _Faulty:
    def __init__(self, port: object, faults: Faults) -> None:
        self._port = port
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._port, name)
        if name in _CONTEXTS:
            return _faulty_context(name, attribute, self._faults)
        if iscoroutinefunction(attribute):
            return _faulty_call(name, attribute, self._faults)
        return attribute


def _faulty_call(name: str, method: Callable[..., Any], faults: Faults) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        faults.begin(name, args, kwargs)
        answer = await method(*args, **kwargs)
        faults.end(name)
        return answer

    return call


def _faulty_context(name: str, method: Callable[..., Any], faults: Faults) -> Callable[..., Any]:
    @asynccontextmanager
    async def enter(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        faults.begin(name, args, kwargs)
        async with method(*args, **kwargs) as value:
            yield value

    return enter
