"""The architecture of a model as plain data, and back: what training saves beside the weights.

`{"visual": {"tower": "TimmTower", "arguments": {...}}, "text": {...}}`: class names and constructor arguments, the
vocabulary of a text tower that has its own included. Only the towers listed here are built: a checkpoint from
somewhere can neither import nor download anything.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.clip.hub_towers import DistilBertTower, TimmTower
from models.clip.mixer import TextMixer, VisionMixer
from models.clip.model import CLIP, CLIPImageTower, CLIPTextTower, Trainable
from models.clip.text import TextTransformer
from models.clip.vision import REDUCTION, ModifiedResNet, VisionTransformer
from store.files import plain
from utils.errors import UserError

HUB_TOWERS = (TimmTower.__name__, DistilBertTower.__name__)
VISION_TOWERS: dict[str, Callable[..., CLIPImageTower]] = {
    tower.__name__: tower for tower in (VisionTransformer, ModifiedResNet, VisionMixer, TimmTower)
}
TEXT_TOWERS: dict[str, Callable[..., CLIPTextTower]] = {
    tower.__name__: tower for tower in (TextTransformer, TextMixer, DistilBertTower)
}
MIXER_ANCHOR = "mixer.resblocks.0.token_mlp.c_fc.weight"
HEAD_WIDTH, ACTIVATION = 64, "quick_gelu"  # OpenAI's


Tower = TypeVar("Tower")


def describe(model: CLIP) -> dict[str, Any]:
    """Plain JSON from which `build` makes the same model, apart from its weights."""
    towers: dict[str, Trainable] = {"visual": model.visual, "text": model.text}
    return {
        name: {"tower": type(tower).__name__, "arguments": plain(tower.arguments)} for name, tower in towers.items()
    }


def told_by_shapes(model: CLIP) -> bool:
    """Whether the weights alone, in OpenAI's layout, give this model back, as other tools will read them."""
    try:
        return describe(build_empty(infer(model.state_dict()))) == describe(model)
    except (KeyError, ValueError, UserError):
        return False


def build(description: Mapping[str, Any], *, activation: str | None = None) -> CLIP:
    """The model that `describe` described, with initial weights; UserError if it names anything but our towers.

    `activation` replaces that of all towers that have the choice.
    """
    visual = _build(description, "visual", VISION_TOWERS, activation)
    return CLIP(visual, _build(description, "text", TEXT_TOWERS, activation))


def _build(
    description: Mapping[str, Any], name: str, towers: Mapping[str, Callable[..., Tower]], activation: str | None
) -> Tower:
    try:
        kind, arguments = description[name]["tower"], dict(description[name]["arguments"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"architecture: expected {name}.tower and {name}.arguments, found {description!r:.99}"
        ) from error
    if kind not in towers:
        raise UserError(f"architecture: {name}.tower={kind} is none of this project's: {', '.join(towers)}")
    if kind in HUB_TOWERS and arguments.get("pretrained"):
        raise UserError(f"architecture: {name}.arguments.pretrained={arguments['pretrained']}: expected none")
    if activation and "activation" in arguments:
        arguments["activation"] = activation
    try:
        return towers[kind](**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"architecture: {name}.arguments do not fit {kind} ({error})") from error


def build_empty(description: Mapping[str, Any], *, activation: str | None = None) -> CLIP:
    """The same, for weights that are to be assigned: without memory where that is possible.

    Towers of other libraries compute tables as they are built, which are in no state dict: these are built in full.
    """
    in_full = any(isinstance(tower, Mapping) and tower.get("tower") in HUB_TOWERS for tower in description.values())
    if in_full:
        return build(description, activation=activation)
    with torch.device("meta"), WithoutInitialWeights():
        return build(description, activation=activation)


class WithoutInitialWeights(TorchFunctionMode):
    """They would be thrown away; and making them on the meta device imports PyTorch's compiler, which takes seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return function(*args, **(kwargs or {}))


def infer(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The description of one of OpenAI's kinds of models, or of two Mixers, read off the shapes under OpenAI's keys.

    KeyError names the tensor that is missing. What shapes cannot tell (`activation`; `pad_mask` and `pool` of a Mixer)
    is left at its default. A Mixer beside another kind of tower needs the description that training saves.
    """
    mixers = f"visual.{MIXER_ANCHOR}" in state or MIXER_ANCHOR in state
    stack = "mixer" if mixers else "transformer"
    width = state["ln_final.weight"].shape[0]
    text = {
        "context_length": state[MIXER_ANCHOR].shape[1] if mixers else len(state["positional_embedding"]),
        "vocab_size": state["token_embedding.weight"].shape[0],
        "width": width,
        "layers": _count(f"{stack}.resblocks.", state),
        "embed_dim": state["text_projection"].shape[1],
        "activation": ACTIVATION,
    }
    if mixers:
        visual = _patches(state, state[f"visual.{MIXER_ANCHOR}"].shape[1], stack)
        return _pair("VisionMixer", visual, "TextMixer", text)
    text["heads"] = _heads(width)
    if "visual.proj" not in state:
        return _pair("ModifiedResNet", _resnet(state), "TextTransformer", text)
    visual = _patches(state, len(state["visual.positional_embedding"]), stack)
    visual["heads"] = _heads(visual["width"])
    return _pair("VisionTransformer", visual, "TextTransformer", text)


def _pair(visual_tower: str, visual: dict[str, Any], text_tower: str, text: dict[str, Any]) -> dict[str, Any]:
    return {
        "visual": {"tower": visual_tower, "arguments": visual},
        "text": {"tower": text_tower, "arguments": text},
    }


def _patches(state: Mapping[str, Tensor], tokens: int, stack: str) -> dict[str, Any]:
    width, _, patch_size, _ = state["visual.conv1.weight"].shape
    return {
        "resolution": math.isqrt(tokens - 1) * patch_size,
        "patch_size": patch_size,
        "width": width,
        "layers": _count(f"visual.{stack}.resblocks.", state),
        "embed_dim": state["visual.proj"].shape[1],
        "activation": ACTIVATION,
    }


def _resnet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width = state["visual.layer1.0.conv1.weight"].shape[0]
    return {
        "resolution": REDUCTION * math.isqrt(len(state["visual.attnpool.positional_embedding"]) - 1),
        "layers": [_count(f"visual.layer{stage}.", state) for stage in (1, 2, 3, 4)],
        "width": width,
        "heads": _heads(REDUCTION * width),
        "embed_dim": state["text_projection"].shape[1],
    }


def _heads(width: int) -> int:
    return max(1, width // HEAD_WIDTH)


def _count(prefix: str, state: Mapping[str, Tensor]) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})
