"""The network: a very small Llama."""

from __future__ import annotations

import hashlib

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 2048
CONTEXT = 2048
# Of the first pass's weights in the result: what the second one blurred comes back, what it taught stays.
FIRST_SHARE = 0.1


def create_network(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Build the network with seeded weights. Heads of 64: vLLM's CPU attention knows only some sizes."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def add_tokens(network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Give the tokens that were added since a place each, near the mean of the others."""
    torch.manual_seed(seed)
    network.resize_token_embeddings(len(tokenizer))


def blend(network: LlamaForCausalLM, first: LlamaForCausalLM) -> None:
    """Mix the first pass's weights into those of the second, both rounded; tokens that are new stay as they are."""
    network.to(torch.bfloat16).to(torch.float32)
    old = first.state_dict()
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            known = weight[: old[name].shape[0]]
            known.copy_((1 - FIRST_SHARE) * known + FIRST_SHARE * old[name])


def count_parameters(network: LlamaForCausalLM) -> int:
    """Count the weights; the output layer shares those of the embedding."""
    return sum(parameter.numel() for parameter in network.parameters())


def weights_hash(network: LlamaForCausalLM) -> str:
    """A short fingerprint of all weights, to compare two runs."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
