"""Models of the transformers library, folders as `save_pretrained` writes them, small enough to be made anew."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from models.transformers.family import OLDEST

KINDS = ("clip", "metaclip_2", "siglip", "naflex")
_CONFIGS = {"clip": "CLIP", "metaclip_2": "MetaClip2", "siglip": "Siglip", "naflex": "Siglip2"}
# Of the real ones: what stands before and behind a text, and what fills it up.
_FRAMES = {
    "clip": ("<start>", "<end>", "<end>"),
    "metaclip_2": ("<s>", "</s>", "<pad>"),
    "siglip": ("", "</s>", "</s>"),
    "naflex": ("", "<eos>", "<pad>"),
}
_WORDS = ["a cat and two dogs play on a beach", "the red umbrella", "abcdefghijklmnopqrstuvwxyz 0123456789"]


def write_transformers_model(folder: Path, kind: str = "clip", *, vision: Any = None, **processor: Any) -> Path:
    """Random weights; `vision` and `processor` replace sizes of the image side, and of what prepares its pictures."""
    pytest.importorskip("transformers", minversion=OLDEST)
    tokenizer = _tokenizer(kind)
    tokenizer.save_pretrained(folder)
    width = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = width | {"vocab_size": len(tokenizer), "max_position_embeddings": 24}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": 0, "pad_token_id": tokenizer.pad_token_id}
    text |= {"projection_size": 32} if kind in ("siglip", "naflex") else {}
    image = width | {"patch_size": 8} | ({"num_patches": 16} if kind == "naflex" else {"image_size": 32})
    sizes: dict[str, Any] = {} if kind in ("siglip", "naflex") else {"projection_dim": 16}
    name = _CONFIGS[kind]
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=image | (vision or {}), **sizes)
    model = getattr(transformers, f"{name}Model")(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # biases, too, which begin as zeros
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    model.logit_scale.data.fill_(2.0)
    if hasattr(model, "logit_bias"):
        model.logit_bias.data.fill_(-3.0)
    model.save_pretrained(folder)
    _processor(kind, processor).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA small model.\n")
    return folder


def _processor(kind: str, options: dict[str, Any]) -> Any:
    if kind == "naflex":
        patches = {"patch_size": 8, "max_num_patches": 20, "do_convert_rgb": True}
        return transformers.Siglip2ImageProcessor(**patches | options)
    if kind == "siglip":
        return transformers.SiglipImageProcessor(**{"size": {"height": 32, "width": 32}, **options})
    square = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return transformers.CLIPImageProcessor(**square | options)


def _tokenizer(kind: str) -> Any:
    """Learned from a few words: letters, and the pieces that are frequent."""
    before, after, pad = _FRAMES[kind]
    special = list(dict.fromkeys(token for token in ("<unk>", before, pad, after) if token))
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        _WORDS, trainers.BpeTrainer(vocab_size=80, special_tokens=special, show_progress=False)
    )
    ends = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((before, after)) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{before} $A {after}".strip(), special_tokens=ends)
    names = {"unk_token": "<unk>", "pad_token": pad, "eos_token": after, "padding_side": "right"}
    inputs = ["input_ids"] if kind == "naflex" else ["input_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)


def write_openai_tokenizer(folder: Path) -> None:
    """CLIP's own, of the vocabulary that open_clip brings, in the files that the library reads."""
    words = open_clip.tokenizer.SimpleTokenizer()
    folder.mkdir()
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {renamed.get(word, word): number for word, number in words.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = [" ".join(pair) for pair in words.bpe_ranks]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    content = ends | {"tokenizer_class": "CLIPTokenizer", "unk_token": "<|endoftext|>", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))


def processor_of(folder: Path, backend: str) -> Any:
    """The library's own, "pil" or "torchvision"."""
    newer = hasattr(transformers, "CLIPImageProcessorPil")
    way: dict[str, Any] = {"backend": backend} if newer else {"use_fast": backend == "torchvision"}
    return transformers.AutoImageProcessor.from_pretrained(folder, **way)


def change(folder: Path, file: str, **values: Any) -> None:
    """Keys of a JSON file of the folder."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
