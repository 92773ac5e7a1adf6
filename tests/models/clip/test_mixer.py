"""Mixer towers: the block against its formula, sizes, what they refuse, the options of the text tower."""

import numpy as np
import pytest
import torch

from models.clip.mixer import MixerBlock, TextMixer, VisionMixer
from models.clip.model import CLIP
from tests.helpers.architectures import Architecture
from tests.helpers.tiny_clip import tiny_model
from utils.errors import UserError

SMALL = {"context_length": 12, "vocab_size": 50, "width": 16, "layers": 2, "embed_dim": 8}


def small_text(**options) -> TextMixer:
    torch.manual_seed(0)
    tower = TextMixer(**SMALL, **options)
    tower.initialize()
    return tower.eval()


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def block_in_numpy(block: MixerBlock, x: np.ndarray) -> np.ndarray:
    """The formulas of the paper, index by index, in float64."""
    p = {name: value.detach().double().numpy() for name, value in block.named_parameters()}

    def norm(x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * p[f"{name}.weight"]
            + p[f"{name}.bias"]
        )

    def gelu(x):
        return x / (1 + np.exp(-1.702 * x))

    y = norm(x, "ln_1")
    hidden = gelu(np.einsum("hn,bnd->bhd", p["token_mlp.c_fc.weight"], y) + p["token_mlp.c_fc.bias"][:, None])
    x = x + np.einsum("nh,bhd->bnd", p["token_mlp.c_proj.weight"], hidden) + p["token_mlp.c_proj.bias"][:, None]
    y = norm(x, "ln_2")
    hidden = gelu(np.einsum("hd,bnd->bnh", p["mlp.c_fc.weight"], y) + p["mlp.c_fc.bias"])
    return x + np.einsum("dh,bnh->bnd", p["mlp.c_proj.weight"], hidden) + p["mlp.c_proj.bias"]


def test_block_is_the_formula():
    torch.manual_seed(0)
    block = MixerBlock(tokens=5, width=6)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, 5, 6)
    np.testing.assert_allclose(block(x).detach().numpy(), block_in_numpy(block, x.double().numpy()), atol=2e-5)


def test_parameter_counts_of_the_b32_form():
    with torch.device("meta"):
        model = CLIP(VisionMixer(), TextMixer())
        transformer = Architecture(512, 224, 12, 768, 32, 512).build()
    assert parameters(model.visual) == 59_705_400
    assert parameters(model.text) == 51_354_988
    assert parameters(model) == 111_060_389
    assert parameters(transformer) == 151_277_313
    assert not any("positional" in key for key in model.state_dict())


def test_initial_weights():
    torch.manual_seed(0)
    tower = TextMixer(context_length=64, vocab_size=300, width=128, layers=3, embed_dim=64)
    tower.initialize()
    residual = 128**-0.5 * 6**-0.5
    expected = {"token_embedding.weight": 0.02, "text_projection": 128**-0.5}
    for mlp in ("token_mlp", "mlp"):
        expected[f"mixer.resblocks.1.{mlp}.c_fc.weight"] = 256**-0.5
        expected[f"mixer.resblocks.1.{mlp}.c_proj.weight"] = residual
    for name, std in expected.items():
        assert tower.get_parameter(name).std().item() == pytest.approx(std, rel=0.05), name


def test_other_sizes_are_refused():
    visual = VisionMixer(resolution=32, patch_size=16, width=16, layers=1, embed_dim=8)
    assert visual(torch.zeros(2, 3, 32, 32)).shape == (2, 8)
    with pytest.raises(UserError, match="32 x 32 pixels only, found 48 x 64"):
        visual(torch.zeros(2, 3, 64, 48))
    with pytest.raises(UserError, match="12 tokens only, found 11"):
        small_text()(torch.zeros(1, 11, dtype=torch.int))


def test_pad_mask_hides_what_follows_the_end():
    tokens = torch.tensor([[48, 3, 4, 49, 0, 0, 0, 0, 0, 0, 0, 0]])
    other_padding = torch.where(tokens == 0, 7, tokens)
    plain, masked = small_text(), small_text(pad_mask=True)
    assert not torch.allclose(plain(tokens), plain(other_padding), atol=1e-4)  # as the original: the padding counts
    assert torch.equal(masked(tokens), masked(other_padding))
    mean = small_text(pad_mask=True, pool="mean")
    assert torch.equal(mean(tokens), mean(other_padding))
    full = torch.randint(1, 48, (2, 12))
    full[:, -1] = 49
    assert torch.equal(plain(full), masked(full))


def test_pool_mean_is_the_mean_of_the_tokens():
    tokens = torch.tensor([[48, 3, 4, 49, 0, 0, 0, 0, 0, 0, 0, 0]])
    tower = small_text(pool="mean")
    hidden = tower.ln_final(tower.mixer(tower.token_embedding(tokens)))
    torch.testing.assert_close(tower(tokens), hidden.mean(dim=1) @ tower.text_projection)
    tower = small_text(pool="mean", pad_mask=True)
    hidden = tower.ln_final(tower.mixer(tower.token_embedding(tokens), torch.arange(12).unsqueeze(0) <= 3))
    torch.testing.assert_close(tower(tokens), hidden[:, :4].mean(dim=1) @ tower.text_projection)
    with pytest.raises(UserError, match="pool=max"):
        small_text(pool="max")


def test_towers_must_meet():
    with pytest.raises(UserError, match="same embed_dim"):
        CLIP(tiny_model().visual, small_text())
