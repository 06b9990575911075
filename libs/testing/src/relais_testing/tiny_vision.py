"""A vision model: the demo model's language model behind a tiny vision encoder of random weights (Idefics3).

vLLM's build for CPUs lacks torchvision, which its code for most vision models imports; this one needs none.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from relais_testing.process_stack import DEMO_MODEL

SIDE = 56
IMAGE_TOKENS = 4
"""Of each image: four patches by four, of which two by two are joined."""

_SPECIAL = ("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>")

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_vision_model(folder: Path) -> Path:
    """Write it to the folder, which must not exist."""
    import torch
    from transformers import (
        AutoTokenizer,
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
        LlamaForCausalLM,
    )

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    tokenizer.add_special_tokens({"extra_special_tokens": list(_SPECIAL)}, False)
    language_model = LlamaForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    language_model.resize_token_embeddings(len(tokenizer), 64, mean_resizing=False)
    config = Idefics3Config(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 14,
        },
        text_config=language_model.config.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(1)
    model = Idefics3ForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, weight in model.model.vision_model.named_parameters():
            if "norm" not in name:
                weight.normal_(0, 0.2)
        # About as long as the embeddings of words, so that answers depend on the image.
        of_words = float(language_model.get_input_embeddings().weight[:2048].std())
        model.model.connector.modality_projection.proj.weight.normal_(0, of_words / 6)
    model.model.text_model.load_state_dict(language_model.model.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    processor = Idefics3Processor(
        Idefics3ImageProcessor(
            size={"longest_edge": SIDE},
            max_image_size={"longest_edge": SIDE},
            do_image_splitting=False,
        ),
        tokenizer,
        image_seq_len=IMAGE_TOKENS,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder


def picture(seed: int, width: int = 40, height: int = 32, form: str = "PNG") -> bytes:
    """Return an image of random pixels."""
    import random

    from PIL import Image

    pixels = random.Random(seed).randbytes(3 * width * height)
    with BytesIO() as file:
        Image.frombytes("RGB", (width, height), pixels).save(file, form)
        return file.getvalue()
