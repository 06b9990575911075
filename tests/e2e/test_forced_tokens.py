"""The logits processors that make vLLM begin an answer with given tokens, without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    # Its own warnings, at import.
    pytest.mark.filterwarnings("ignore"),
]

VOCABULARY = 8
FORCED = [3, 5]


def params(forced: list[int] | None) -> Any:
    from vllm.sampling_params import SamplingParams

    from relais_llm_worker.engines.vllm import forced_tokens

    return SamplingParams(extra_args={forced_tokens.FORCED: forced} if forced else None)


def logits(rows: int) -> Any:
    import torch

    # The model itself always prefers token 1, and a grammar has ruled out token 3.
    like = torch.zeros((rows, VOCABULARY))
    like[:, 1] = 9.0
    like[:, 3] = float("-inf")
    return like


def choices(after: Any) -> list[int]:
    return list(after.argmax(dim=-1).tolist())


def test_first_runner_chooses_the_given_tokens_and_then_its_own() -> None:
    import torch
    from vllm.v1.sample.logits_processor import BatchUpdate

    from relais_llm_worker.engines.vllm.forced_tokens import ForcedTokens

    config: Any = SimpleNamespace()
    processor = ForcedTokens(config, torch.device("cpu"), is_pin_memory=False)
    outputs: list[list[int]] = [[], []]
    processor.update_state(
        BatchUpdate(
            2, [], [(0, params(None), [1], outputs[0]), (1, params(FORCED), [1], outputs[1])], []
        )
    )
    assert not processor.is_argmax_invariant()
    for expected in (*FORCED, 1):
        assert choices(processor.apply(logits(2))) == [1, expected]
        # As vLLM has it before it knows the token.
        outputs[1].append(-1)
    processor.update_state(BatchUpdate(1, [1], [], []))
    outputs[1].clear()
    assert choices(processor.apply(logits(2))) == [1, 1]


def test_second_runner_chooses_the_given_tokens_and_then_its_own() -> None:
    import numpy as np
    import torch
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

    from relais_llm_worker.engines.vllm.forced_tokens import ForcedTokensV2

    prompts = np.array([4, 0, 6, 0])
    states: Any = SimpleNamespace(max_num_reqs=4, prompt_len=SimpleNamespace(np=prompts))
    config: Any = SimpleNamespace()
    processor = ForcedTokensV2(config, states)
    assert not processor.add_request(0, params(None))
    assert processor.add_request(2, params(FORCED))

    def step(lengths: dict[int, int]) -> list[int]:
        slots = np.array(list(lengths))
        unused: Any = torch.zeros(len(slots))
        context = LogitsContext(
            expanded_idx_mapping=torch.from_numpy(slots),
            idx_mapping=torch.from_numpy(slots),
            idx_mapping_np=slots,
            expanded_local_pos=unused,
            input_ids=unused,
            pos=unused,
            seq_lens_upper_bound_np=np.array(list(lengths.values())),
        )
        return choices(processor.apply(logits(len(slots)), context))

    assert step({2: 5, 0: 4}) == [1, 1], "the prompt is not all there"
    assert step({2: 6, 0: 5}) == [3, 1]
    assert step({0: 6, 2: 7}) == [1, 5]
    assert step({0: 7, 2: 8}) == [1, 1]
    # The engine took the request out for lack of room, and begins it again where it was.
    assert processor.add_request(2, params(FORCED))
    assert step({2: 7}) == [5]
    # Somebody else has its place now.
    assert not processor.add_request(2, params(None))
    assert step({2: 6}) == [1]


@pytest.mark.parametrize("runner", ["ForcedTokens", "ForcedTokensV2"])
@pytest.mark.parametrize("refuses", [{}, {"speculative": True}, {"mask": True}])
def test_engine_gets_the_processor_of_its_runner_where_vllm_takes_one(
    runner: str, refuses: dict[str, bool]
) -> None:
    from relais_llm_worker.engines.vllm import forced_tokens

    model: Any = SimpleNamespace(
        logits_processors=["of:Deployment"], return_sampling_mask=refuses.get("mask", False)
    )
    config: Any = SimpleNamespace(
        model_config=model,
        speculative_config=SimpleNamespace() if refuses.get("speculative") else None,
        use_v2_model_runner=runner == "ForcedTokensV2",
    )
    forced_tokens.add_processor(config)
    assert forced_tokens.has_processor(model) == (not refuses)
    names = ["of:Deployment"] if refuses else ["of:Deployment", getattr(forced_tokens, runner)]
    assert model.logits_processors == names
