"""A tiny reward model of fixed random weights: .venv/vllm/bin/python tests/vllm/reward_model.py MODEL FOLDER

Its scores mean nothing: it shows that scores come over the wire, for whole answers and for each step. MODEL: whose
tokenizer it takes, and adds the step mark to.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch  # pyright: ignore
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification  # pyright: ignore

STEP_MARK = "<extra_0>"  # the process reward scorer's default, Qwen2.5-Math-PRM's


def make(model: Path, folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"additional_special_tokens": [STEP_MARK]})
    torch.manual_seed(0)
    config: Any = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        num_labels=2,
        pad_token_id=0,
        initializer_range=0.2,  # wide enough for texts to get different scores
    )
    classifier: Any = LlamaForSequenceClassification(config).to(torch.bfloat16)
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
