"""Sizes, names and formulas of the model; what the numbers are is in test_parity.py."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from models import clip
from models.clip.description import WithoutInitialWeights, build_empty, describe, infer
from models.clip.model import CLIP, convert_weights
from tests.helpers.architectures import ARCHITECTURES, Architecture
from tests.helpers.shared_data import PARITY
from tests.helpers.tiny_clip import TINY, TINY_RESNET, tiny_model

PARAMETERS = {
    "RN50": 102_007_137,
    "RN101": 119_688_033,
    "RN50x4": 178_300_601,
    "RN50x16": 290_979_217,
    "RN50x64": 623_258_305,
    "ViT-B/32": 151_277_313,
    "ViT-B/16": 149_620_737,
    "ViT-L/14": 427_616_513,
    "ViT-L/14@336px": 427_944_193,
}
BLOCK = {
    f"{layer}.{kind}"
    for layer in ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    for kind in ("weight", "bias")
} | {"attn.in_proj_weight", "attn.in_proj_bias"}
NORM = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
TEXT = {"positional_embedding", "text_projection", "logit_scale", "token_embedding.weight"}
TEXT |= {"ln_final.weight", "ln_final.bias", *(f"transformer.resblocks.0.{key}" for key in BLOCK)}
VIT = {f"visual.{key}" for key in ("class_embedding", "positional_embedding", "proj", "conv1.weight")}
VIT |= {f"visual.{norm}.{kind}" for norm in ("ln_pre", "ln_post") for kind in ("weight", "bias")}
VIT |= {f"visual.transformer.resblocks.0.{key}" for key in BLOCK}
RESNET = {f"visual.attnpool.{name}_proj.{kind}" for name in "qkvc" for kind in ("weight", "bias")}
RESNET |= {"visual.attnpool.positional_embedding"}
for place in ("", *(f"layer{stage}.0." for stage in (1, 2, 3, 4))):
    RESNET |= {f"visual.{place}conv{i}.weight" for i in (1, 2, 3)}
    RESNET |= {f"visual.{place}bn{i}.{kind}" for i in (1, 2, 3) for kind in NORM}
    if place:
        RESNET |= {f"visual.{place}downsample.0.weight", *(f"visual.{place}downsample.1.{kind}" for kind in NORM)}

both_kinds = pytest.mark.parametrize("architecture", [TINY, TINY_RESNET], ids=["vit", "resnet"])


def on_meta(architecture: Architecture) -> CLIP:
    with torch.device("meta"), WithoutInitialWeights():
        return architecture.build()


def test_the_nine_models_have_as_many_parameters_as_openais() -> None:
    counts = {name: sum(p.numel() for p in on_meta(a).parameters()) for name, a in ARCHITECTURES.items()}
    assert counts == PARAMETERS


@pytest.mark.parametrize("architecture", [*ARCHITECTURES.values(), TINY, TINY_RESNET], ids=[*ARCHITECTURES, "t", "r"])
def test_sizes_are_read_back_from_the_shapes(architecture: Architecture) -> None:
    model = on_meta(architecture)
    assert infer(model.state_dict()) == describe(model)


def test_sizes_that_differ_from_openais_are_read_back_too() -> None:
    architecture = replace(TINY, context_length=20, vocab_size=300, text_layers=2, text_width=128)
    model = on_meta(architecture)
    assert infer(model.state_dict()) == describe(model)


@pytest.mark.parametrize(("architecture", "names"), [(TINY, TEXT | VIT), (TINY_RESNET, TEXT | RESNET)])
def test_state_dict_has_openais_names(architecture: Architecture, names: set[str]) -> None:
    assert set(on_meta(architecture).state_dict()) == names


@pytest.mark.shared
@pytest.mark.parametrize("name", ["tiny_vit.pt", "tiny_rn.pt"])
def test_state_dict_has_the_names_and_shapes_of_a_model_of_openais_code(name: str) -> None:
    theirs = torch.load(PARITY / name, weights_only=True)
    ours = build_empty(infer(theirs)).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@both_kinds
def test_a_checkpoint_of_a_model_is_that_model(architecture: Architecture, tmp_path: Path) -> None:
    model = tiny_model(architecture=architecture)
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    loaded, _ = clip.load(str(tmp_path / "tiny.pt"), device="cpu")
    state = loaded.state_dict()
    assert all(torch.equal(state.pop(key), value) for key, value in model.state_dict().items())
    assert not state
    images, tokens = torch.randn(2, 3, architecture.resolution, architecture.resolution), clip.tokenize(["a", "a b"])
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(images), model.encode_image(images))
        assert torch.equal(loaded.encode_text(tokens), model.encode_text(tokens))


@both_kinds
def test_only_convolutions_linears_and_projections_go_to_half_precision(architecture: Architecture) -> None:
    model = tiny_model(architecture=architecture)
    convert_weights(model, torch.float16)
    state = model.state_dict()
    half = {key for key, value in state.items() if value.dtype == torch.float16}
    expected = {
        key
        for key in state
        if "bn" not in key
        and "ln_" not in key
        and ".downsample.1" not in key
        and "embedding" not in key
        and key != "logit_scale"
    }
    assert half == expected
    assert {value.dtype for key, value in state.items() if key not in half} <= {torch.float32, torch.int64}


@both_kinds
def test_logits_are_scaled_cosines(architecture: Architecture) -> None:
    model = tiny_model(architecture=architecture).double()
    images = torch.randn(3, 3, architecture.resolution, architecture.resolution).double()
    tokens = torch.randint(1, 49408, (2, 77))
    with torch.no_grad():
        image, text = model.encode_image(images), model.encode_text(tokens)
        per_image, per_text = model(images, tokens)
        cosines = (image @ text.T) / (image.norm(dim=1)[:, None] * text.norm(dim=1))
    torch.testing.assert_close(per_image, model.logit_scale.exp() * cosines)
    assert torch.equal(per_text, per_image.T)


@both_kinds
def test_features_do_not_depend_on_what_else_is_in_the_batch(architecture: Architecture) -> None:
    model = tiny_model(architecture=architecture)
    images = torch.randn(5, 3, architecture.resolution, architecture.resolution)
    tokens = torch.randint(1, 49408, (5, 77))
    with torch.no_grad():
        for encode, batch in ((model.encode_image, images), (model.encode_text, tokens)):
            singly = torch.cat([encode(one) for one in batch.split(1)])
            torch.testing.assert_close(encode(batch), singly, atol=1e-5, rtol=1e-4)


def test_text_is_read_at_its_end_token_and_nothing_behind_it_counts() -> None:
    model = tiny_model()
    tokens = torch.zeros(1, 77, dtype=torch.int)
    tokens[0, :4] = torch.tensor([49406, 320, 1125, 49407])
    longer = tokens.clone()
    longer[0, 4:] = 5
    with torch.no_grad():
        assert torch.equal(model.encode_text(tokens), model.encode_text(longer))


def test_shapes_are_checked_here() -> None:
    """That is, the hook in tests/conftest.py works."""
    with pytest.raises(TypeCheckError):
        tiny_model().encode_image(torch.zeros(3, 32, 32))


def test_initial_weights_have_the_originals_spread() -> None:
    architecture = replace(TINY, text_layers=3, text_width=128)
    model = architecture.build()
    model.initialize()
    spreads = {
        "token_embedding.weight": 0.02,
        "positional_embedding": 0.01,
        "text_projection": 128**-0.5,
        "transformer.resblocks.2.attn.in_proj_weight": 128**-0.5,
        "transformer.resblocks.2.attn.out_proj.weight": 128**-0.5 * 6**-0.5,
        "transformer.resblocks.2.mlp.c_fc.weight": 256**-0.5,
        "transformer.resblocks.2.mlp.c_proj.weight": 128**-0.5 * 6**-0.5,
        "visual.proj": 64**-0.5,
        "visual.positional_embedding": 64**-0.5,
    }
    state = model.state_dict()
    assert {key: float(state[key].std()) for key in spreads} == pytest.approx(spreads, rel=0.1)
    assert float(state["logit_scale"].exp()) == pytest.approx(1 / 0.07)


def test_blocks_of_a_new_resnet_start_as_the_identity() -> None:
    state = tiny_model(architecture=TINY_RESNET).state_dict()
    assert all(not state[f"visual.layer{stage}.0.bn3.weight"].any() for stage in (1, 2, 3, 4))
    assert float(state["visual.attnpool.q_proj.weight"].std()) == pytest.approx(256**-0.5, rel=0.1)
