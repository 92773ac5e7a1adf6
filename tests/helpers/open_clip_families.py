"""The families of open_clip that people ask for, each cut down to a layer or two: same classes, same options, tiny."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import pretrained as tags
from timm.models import eva, fastvit, vision_transformer, vitamin
from timm.models._registry import register_model
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
SIGLIP_TEXT = {
    **{"context_length": 24, "width": 32, "heads": 2, "layers": 1, "no_causal_mask": True, "proj_bias": True},
    **{"pool_type": "last", "norm_kwargs": {"eps": 1e-6}, "tokenizer_kwargs": {"clean": "canonicalize"}},
}


def cut_down(original: Callable[..., Any], name: str, **sizes: Any) -> str:
    """Registers with timm what `original` builds with other sizes."""

    def small(pretrained: bool = False, **options: Any) -> Any:
        return original(pretrained, **(sizes | options))

    small.__name__ = name
    register_model(small)
    return name


def timm_vision(original: Callable[..., Any], name: str, pool: str, proj: str | None, **sizes: Any) -> dict[str, Any]:
    return {"timm_model_name": cut_down(original, name, **sizes), "timm_pool": pool, "timm_proj": proj}


FASTVIT = timm_vision(
    fastvit.fastvit_mci0, "small_fastvit", "avg", None, layers=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64)
)
PE = timm_vision(eva.vit_pe_core_tiny_patch16_384, "small_pe_core", "map", None, img_size=64, embed_dim=48, depth=1)
VITAMIN = timm_vision(
    vitamin.vitamin_small_224,
    *("small_vitamin", "", "linear"),
    **{"img_size": 64, "embed_dim": 48, "depth": 1, "num_heads": 2},
    embed_cfg=vitamin.VitCfg(
        embed_dim=(16, 32, 48),
        depths=(1, 1, 1),
        stem_width=16,
        conv_cfg=vitamin.VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
        head_type="1d",
    ),
)
EVA = timm_vision(
    eva.eva02_base_patch16_clip_224, "small_eva02", "token", None, img_size=64, embed_dim=48, depth=1, num_heads=2
)
SIGLIP = timm_vision(
    vision_transformer.vit_base_patch16_siglip_224,
    *("small_siglip", "map", "none"),
    **{"img_size": 64, "embed_dim": 32, "depth": 1, "num_heads": 2},
)
VIT = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 16}


@dataclass(frozen=True)
class Family:
    """`like` is the model and tag of open_clip whose pictures and activation these weights want."""

    like: tuple[str, str]
    vision: dict[str, Any]
    text: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)
    tokenizer: Callable[[Path], None] | None = None
    image_size: int = 64

    def config(self) -> dict[str, Any]:
        vision = deepcopy(self.vision) | {"image_size": self.image_size}
        return {"embed_dim": 32, "vision_cfg": vision, "text_cfg": deepcopy(self.text), **self.more}

    def tag(self) -> dict[str, Any]:
        return dict(tags.get_pretrained_cfg(*self.like))


def words(folder: Path, vocabulary: dict[str, int], processor: Any, **config: Any) -> None:
    """A tokenizer of letters and a few words, as `transformers` finds it in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(Regex(" "), "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_previous")
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.post_processor = processor
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def gemma(folder: Path) -> None:
    """As SigLIP2's: `<pad>` 0, `<eos>` 1 behind every text, padding on the right."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right", **names}
    words(folder, letters(special), processor, **options)


def t5(folder: Path) -> None:
    """As SigLIP's: `</s>` 1 behind every text, and as padding."""
    special = ["<unk>", "</s>"]
    processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    words(folder, letters(special), processor, tokenizer_class="PreTrainedTokenizerFast", **names)


def xlm(folder: Path) -> None:
    """As MetaCLIP2's: `<s>` 0 before and `</s>` 2 behind every text, `<pad>` 1."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    words(folder, letters(special), processor, tokenizer_class="PreTrainedTokenizerFast", **names)


def letters(special: list[str]) -> dict[str, int]:
    return {piece: i for i, piece in enumerate([*special, "▁", *"abcdefghijklmnopqrstuvwxyzABC,.'"])}


SIGMOID: dict[str, Any] = {"init_logit_bias": -10, "custom_text": True}
CUSTOM: dict[str, Any] = {"custom_text": True}
FAMILIES = {
    "MobileCLIP2": Family(("MobileCLIP2-S0", "dfndr2b"), FASTVIT, TEXT | {"no_causal_mask": True}, CUSTOM),
    "PE-Core": Family(("PE-Core-T-16-384", "meta"), PE, TEXT | {"context_length": 32}, CUSTOM),
    "ViTamin": Family(("ViTamin-S", "datacomp1b"), VITAMIN, TEXT, CUSTOM),
    "EVA02": Family(("EVA02-B-16", "merged2b_s8b_b131k"), EVA, TEXT, CUSTOM),
    "DFN": Family(("ViT-H-14-378", "dfn5b"), VIT, TEXT),
    "SigLIP": Family(
        ("ViT-B-16-SigLIP", "webli"),
        SIGLIP,
        SIGLIP_TEXT | {"vocab_size": 64, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP"},
        SIGMOID,
        t5,
    ),
    "SigLIP2": Family(
        ("ViT-B-16-SigLIP2", "webli"),
        SIGLIP,
        SIGLIP_TEXT
        | {"vocab_size": 64, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2", "act_kwargs": {"approximate": "tanh"}},
        SIGMOID,
        gemma,
    ),
    "MetaCLIP2": Family(
        ("ViT-H-14-worldwide", "metaclip2_worldwide"),
        VIT,
        TEXT | {"vocab_size": 64, "hf_tokenizer_name": "facebook/xlm-v-base", "pool_type": "eos", "eos_id": 2},
        {},
        xlm,
    ),
}


def register(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The family as a model of open_clip, `small-<name>`, with one tag of its elder, which alone says quick_gelu."""
    family = FAMILIES[name]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, f"small-{name}", family.config())
    monkeypatch.setitem(tags._PRETRAINED, f"small-{name}", {family.like[1]: family.tag()})
    return f"small-{name}"


def write_family(name: str, folder: Path) -> Path:
    """A folder as the hub has it: configuration, weights (random, the same each time), tokenizer if it has its own."""
    family = FAMILIES[name]
    images = {key: family.tag()[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    folder.mkdir(parents=True)
    config = family.config() | {"quick_gelu": bool(family.tag().get("quick_gelu"))}
    content = {"model_cfg": config, "preprocess_cfg": images}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    if family.tokenizer:
        family.tokenizer(folder)
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # heads of timm begin at 1e-6: what comes out would say nothing
            parameter.data = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder
