"""A GGUF file's model in the form that vLLM reads: .venv/vllm/bin/python tests/vllm/weights.py FILE FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer  # pyright: ignore


def convert(file: Path, folder: Path) -> None:
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer: Any = AutoTokenizer.from_pretrained(**where)
    model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype="bfloat16")
    model.hf_quantizer = None  # it is not quantized any more, and is not to be saved as if it were
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
