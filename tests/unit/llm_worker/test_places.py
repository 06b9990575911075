"""An engine's places, shared by a model and its adapters."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from relais_llm_worker.engines.places import Places


class Bench:
    """Workers that take what they are given, as long as jobs wait."""

    def __init__(self, count: int, **waiting: int) -> None:
        self.waiting = waiting
        self.now_s = 100.0
        self.places = Places(list(waiting), count, lambda: self.now_s)
        self.running: dict[str, list[ExitStack]] = {model: [] for model in waiting}

    def take(self, model: str) -> int:
        """Take once, and return how many."""
        taken = min(self.places.room(model, len(self.running[model])), self.waiting[model])
        for _ in range(taken):
            self.running[model].append(ExitStack())
            self.running[model][-1].enter_context(self.places.running(model))
        self.waiting[model] -= taken
        return taken

    def end(self, model: str) -> None:
        """End one job."""
        self.running[model].pop().close()

    def held(self) -> dict[str, int]:
        return {model: len(jobs) for model, jobs in self.running.items()}


def test_single_model_has_every_place() -> None:
    bench = Bench(4, base=10)
    assert bench.take("base") == 4
    assert bench.take("base") == 0
    bench.end("base")
    assert bench.take("base") == 1


def test_first_request_of_a_model_need_not_wait_for_another_model_s_end() -> None:
    bench = Bench(8, base=100, one=0, two=0)
    assert bench.take("base") == 6
    bench.waiting |= {"one": 1, "two": 1}
    assert (bench.take("one"), bench.take("two")) == (1, 1)
    assert bench.places.used_by_others("base") == 2


@pytest.mark.parametrize("order", [("base", "one"), ("one", "base")])
def test_models_that_want_more_come_to_hold_the_same(order: tuple[str, str]) -> None:
    bench = Bench(8, base=100, one=100)
    bench.take("base")
    bench.take("one")
    assert bench.held() == {"base": 7, "one": 1}
    # Whoever is quicker to ask.
    for _ in range(20):
        bench.end("base")
        for _ in range(2):
            for model in order:
                bench.take(model)
    assert bench.held() == {"base": 4, "one": 4}


def test_queue_that_fills_while_there_is_no_room_gets_its_share_too() -> None:
    bench = Bench(8, base=1000, one=1)
    bench.take("one")
    bench.take("one")
    bench.take("base")
    bench.take("base")
    bench.waiting["one"] = 1000
    for _ in range(100):
        bench.now_s += 0.1
        bench.end("base")
        bench.take("base")
        bench.take("one")
        bench.take("base")
    assert bench.held() == {"base": 4, "one": 4}


def test_places_that_a_model_no_longer_wants_go_back() -> None:
    bench = Bench(8, base=100, one=3)
    bench.take("base")
    for _ in range(10):
        for model in ("one", "base", "one"):
            bench.take(model)
        for model, held in bench.held().items():
            if held:
                bench.end(model)
    for model in ("one", "base", "base"):
        bench.take(model)
    assert bench.waiting["one"] == 0
    assert bench.held()["base"] == 7
