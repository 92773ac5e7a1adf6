"""Folders of a small BERT and a small RoBERTa with the same weights everywhere, as transformers saves them."""

import json
from pathlib import Path

import numpy as np
import torch

WORDS = ["a", "red", "square", "blue", "circles", "on", "the", "left", "green", "triangle", "in", "middle", "two"]
WORDS += ["there", "is", "big", ",", ".", "##s"]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 66,
}


def write_bert(folder: Path) -> Path:
    """Words as WordPiece cuts them: of `WORDS`, anything else is unknown."""
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return _write(folder, BertModel(BertConfig(vocab_size=len(words), **SIZES)), {"vocab.txt": "\n".join(words)})


def write_roberta(folder: Path) -> Path:
    """Bytes are its tokens: that of a space before the first word is one more."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import RobertaConfig, RobertaModel

    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    ends = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    model = RobertaModel(RobertaConfig(vocab_size=len(words), type_vocab_size=1, **ends, **SIZES))
    numbered = json.dumps({word: number for number, word in enumerate(words)})
    return _write(folder, model, {"vocab.json": numbered, "merges.txt": "#version: 0.2\n"})


def _write(folder: Path, model: torch.nn.Module, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in (files | {"tokenizer_config.json": json.dumps({"model_max_length": 64})}).items():
        (folder / name).write_text(text, encoding="utf-8")
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "LayerNorm" not in name:
                scale = 1 if "embeddings" in name else 0.3
                parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape) * scale))
    model.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    return folder
