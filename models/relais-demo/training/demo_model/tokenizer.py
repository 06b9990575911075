"""The tokenizer, learnt from the training texts, and the chat template."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BOS, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = ("system", "user", "assistant")
SPECIAL = (PAD, BOS, END, *(f"<|{role}|>" for role in ROLES))

# Around thoughts and calls. As in the models of others they are not special: without a parser they are text.
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")

# Unknown roles (developer) are read as the user's: a refused request would help nobody here. Of a tool only its names
# and description are told: a schema would be longer than all that the model can follow.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}
{{- '<|system|>' }}
{%- if messages and messages[0]['role'] == 'system' %}
{{- (messages[0]['content'] or '') | trim + '\\n' }}
{%- set messages = messages[1:] %}
{%- endif %}
{{- 'Tools:' }}
{%- for tool in tools %}
{%- set function = tool['function'] %}
{%- set names = ((function['parameters'] or {})['properties'] or {}) | join(', ') %}
{{- '\\n' + function['name'] + '(' + names + '): ' + (function['description'] or '') | trim }}
{%- endfor %}
{{- '<|end|>' }}
{%- endif %}
{%- for message in messages %}
{%- set role = message['role'] if message['role'] in ['system', 'user', 'assistant'] else 'user' %}
{%- set content = (message['content'] or '') | trim %}
{%- if message['role'] == 'tool' %}
{%- set content = '<tool_response>\\n' + content + '\\n</tool_response>' %}
{%- endif %}
{{- '<|' + role + '|>' + content }}
{%- for call in message['tool_calls'] or [] %}
{%- set given = call['function']['arguments'] %}
{%- set given = given if given is string else given | tojson %}
{{- '<tool_call>\\n{"name": "' + call['function']['name'] + '", "arguments": ' + given + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{%- if enable_thinking or thinking %}
{{- '<|system|>Think first.<|end|>' }}
{%- endif %}
{{- '<|assistant|>' }}
{%- endif %}
"""


def learn_tokenizer(texts: Iterable[str], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE: no text is ever out of vocabulary. Digits stay single, so that numbers can be copied."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[f"<|{role}|>" for role in ROLES],
        chat_template=CHAT_TEMPLATE,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def add_marks(tokenizer: PreTrainedTokenizerFast) -> None:
    """Add what the second pass teaches: marks around thoughts and calls, and a template that has them."""
    tokenizer.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in MARKS])
    tokenizer.chat_template = CHAT_TEMPLATE
