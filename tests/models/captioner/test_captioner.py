"""The network: its size, what may influence what, and steps with kept keys that equal passes over the whole caption."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.captioner.layers import DecoderBlock, UnbiasedLayerNorm, sinusoids
from models.captioner.model import Captioner
from models.clip.description import WithoutInitialWeights
from tests.helpers.tiny_captioner import grids, tiny_captioner
from utils.errors import UserError

NORMS = pytest.mark.parametrize("layer_norm", ["standard", "unbiased"])


def test_as_many_parameters_as_the_original():
    with torch.device("meta"), WithoutInitialWeights():
        model = Captioner(vocab_size=9_487)
    assert sum(parameter.numel() for parameter in model.parameters()) == 54_914_832
    assert not [name for name, _ in model.named_buffers() if name in model.state_dict()]


def test_arguments_are_kept():
    assert set(tiny_captioner().arguments) == set(inspect.signature(Captioner).parameters)


def mask_of(name: str) -> torch.Tensor | None:
    return {
        "whole": None,
        "all true": torch.ones(3, 5, dtype=torch.bool),
        "padded": torch.arange(5) < torch.tensor([[5], [2], [4]]),
    }[name]


@NORMS
@pytest.mark.parametrize("mask", ["whole", "all true", "padded"])
def test_steps_equal_a_pass_over_the_whole_caption(layer_norm, mask):
    model, grid, grid_mask = tiny_captioner(layer_norm=layer_norm), grids(), mask_of(mask)
    tokens = torch.randint(1, 8, (3, 2, 8), generator=torch.Generator().manual_seed(1))
    tokens[..., 0] = 0
    whole = model(grid, tokens, grid_mask)
    state = model.start(model.encode(grid, grid_mask), grid_mask)
    for position in range(8):
        assert state.length == position
        logits, state = model.step(state, tokens[..., position].flatten())
        torch.testing.assert_close(logits.view(3, 2, -1), whole[:, :, position], atol=1e-5, rtol=1e-5)


@NORMS
def test_a_token_changes_nothing_before_it(layer_norm):
    model, grid = tiny_captioner(layer_norm=layer_norm), grids(1)
    tokens = torch.tensor([[[0, 3, 4, 5, 6, 2]]])
    before = model(grid, tokens)
    for position in range(1, 6):
        changed = tokens.clone()
        changed[..., position] = 7
        after = model(grid, changed)
        torch.testing.assert_close(after[:, :, :position], before[:, :, :position], atol=1e-6, rtol=0)
        assert not torch.allclose(after[:, :, position], before[:, :, position])


def test_padding_is_seen_by_no_position():
    """Otherwise the last positions, where padding is all there is behind the words, would see it."""
    model, grid = tiny_captioner(), grids(1)
    once, often = torch.tensor([[[0, 3, 4, 0]]]), torch.tensor([[[0, 3, 4, 0, 0, 0]]])
    torch.testing.assert_close(model(grid, often)[:, :, :4], model(grid, once), atol=1e-6, rtol=0)
    captured = []
    block = model.decoder[0]
    assert isinstance(block, DecoderBlock)
    block.register_forward_pre_hook(lambda _, arguments: captured.append(arguments[3]))
    model(grid, once)
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    assert captured[0][0, 0].int().tolist() == expected


@NORMS
def test_padding_of_grids_has_no_effect(layer_norm):
    model, tokens = tiny_captioner(layer_norm=layer_norm), torch.tensor([[[0, 3, 4]], [[0, 5, 6]]])
    grid = grids(2)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    expected = torch.cat([model(grid[:1], tokens[:1]), model(grid[1:, :3], tokens[1:])])
    for filling in (0.0, 100.0):
        padded = grid.masked_fill(~mask.unsqueeze(-1), filling)
        torch.testing.assert_close(model(padded, tokens, mask), expected, atol=1e-5, rtol=1e-5)


def test_cells_have_no_order():
    model, grid, tokens = tiny_captioner(), grids(2), torch.tensor([[[0, 3, 4]], [[0, 5, 6]]])
    torch.testing.assert_close(model(grid.flip(1), tokens), model(grid, tokens), atol=1e-5, rtol=1e-5)


def test_captions_of_an_image_do_not_mix():
    model, grid = tiny_captioner(), grids(2)
    tokens = torch.randint(1, 8, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    together = model(grid, tokens)
    for image in range(2):
        for caption in range(3):
            alone = model(grid[image : image + 1], tokens[image : image + 1, caption : caption + 1])
            torch.testing.assert_close(together[image, caption], alone[0, 0], atol=1e-5, rtol=1e-5)


def test_an_image_is_encoded_once_and_its_keys_are_not_copied():
    model, grid = tiny_captioner(), grids(2)
    state = model.start(model.encode(grid))
    _, after = model.step(state, torch.zeros(10, dtype=torch.long))
    assert after.image is state.image
    assert [layer.keys.shape for layer in state.image] == [(2, 2, 5, 8)] * 2
    assert [layer.keys.shape for layer in after.past] == [(10, 2, 1, 8)] * 2


def test_states_can_be_continued_from_other_rows():
    model, grid = tiny_captioner(), grids(1)
    state = model.start(model.encode(grid))
    for tokens in ([0, 0, 0], [1, 2, 3]):
        _, state = model.step(state, torch.tensor(tokens))
    logits, _ = model.step(state.select(torch.tensor([2, 2, 0])), torch.tensor([5, 6, 7]))
    whole = model(grid, torch.tensor([[[0, 3, 5], [0, 3, 6], [0, 1, 7]]]))
    torch.testing.assert_close(logits, whole[0, :, -1], atol=1e-5, rtol=1e-5)


def test_unbiased_norm_is_the_formula_of_the_original():
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    norm = UnbiasedLayerNorm(4)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 0.5, 0.0, 0.0])
    std = math.sqrt((4 + 1 + 0 + 9) / 3)
    expected = [[-2 / (std + 1e-6), -2 / (std + 1e-6) + 0.5, 0.0, 12 / (std + 1e-6)]]
    torch.testing.assert_close(norm(x), torch.tensor(expected))
    assert not torch.allclose(UnbiasedLayerNorm(4)(x), F.layer_norm(x, [4]), atol=1e-2)


def test_unbiased_norm_of_equal_values_has_a_gradient():
    """An embedding of which dropout left nothing."""
    x = torch.zeros(1, 4, requires_grad=True)
    UnbiasedLayerNorm(4)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_positions():
    table = sinusoids(21, 512)
    assert table.shape == (21, 512)
    for position, channel in ((0, 0), (0, 1), (3, 0), (7, 10), (20, 511)):
        angle = position / 10_000 ** ((channel - channel % 2) / 512)
        expected = math.cos(angle) if channel % 2 else math.sin(angle)
        assert table[position, channel].item() == pytest.approx(expected, abs=1e-5)


def test_words_are_scaled_before_positions_are_added():
    model = tiny_captioner()
    captured = []
    model.word_dropout.register_forward_pre_hook(lambda _, arguments: captured.append(arguments[0]))
    model(grids(1), torch.tensor([[[0, 3]]]))
    expected = model.word_embedding.weight[3] * 4 + sinusoids(2, 16)[1]  # sqrt(16)
    torch.testing.assert_close(captured[0][0, 1], expected)


def test_initial_weights():
    torch.manual_seed(0)
    model = Captioner(vocab_size=50, grid_width=64, width=32, layers=1, heads=2, hidden=64)
    grid_before = model.grid_embedding[0].weight.clone()  # pyright: ignore[reportIndexIssue, reportCallIssue]
    model.initialize()
    assert torch.equal(model.grid_embedding[0].weight, grid_before)  # pyright: ignore[reportArgumentType]
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.startswith("grid_embedding"):
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.9 * bound < parameter.abs().max() <= bound, name


def test_dropout_is_where_the_original_has_it():
    model = Captioner(vocab_size=5, dropout=0.125, grid_dropout=0.25, width=16, heads=2, layers=1)
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert rates == {
        "grid_embedding.2": 0.25,
        "word_dropout": 0.125,
        **{f"{part}.0.{name}": 0.125 for part in ("encoder", "decoder") for name in ("dropout", "mlp.2")},
    }
    model = model.train()
    for name in ("encoder.0.attention", "decoder.0.self_attention", "decoder.0.cross_attention"):
        assert model.get_submodule(name).dropout == 0.125


@pytest.mark.parametrize("training", [True, False])
def test_attention_has_dropout_in_training_only(training):
    model, tokens = tiny_captioner().train(training), torch.tensor([[[0, 3, 4]]])
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch.manual_seed(0)
    assert torch.equal(model(grids(1), tokens), model(grids(1), tokens)) != training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_stays_near(dtype):
    model, grid, tokens = tiny_captioner(), grids(2).to(dtype), torch.tensor([[[0, 3, 4]], [[0, 5, 6]]])
    exact = model(grid.float(), tokens).log_softmax(-1)
    with torch.autocast("cpu", dtype=dtype):
        mixed = model(grid, tokens).float().log_softmax(-1)
        state = model.start(model.encode(grid))
        for position in range(3):
            logits, state = model.step(state, tokens[:, 0, position])
    torch.testing.assert_close(mixed, exact, atol=0.2, rtol=0.02)
    torch.testing.assert_close(logits.float().log_softmax(-1), exact[:, 0, -1], atol=0.2, rtol=0.02)


def test_gradients_reach_every_parameter():
    model = tiny_captioner().train()
    model(grids(2), torch.tensor([[[0, 3, 4]], [[0, 5, 6]]])).logsumexp(-1).sum().backward()
    keys = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not keys


def test_mistakes_are_told():
    model = tiny_captioner(max_words=4)
    with pytest.raises(UserError, match="grid features are 7 wide, this captioner was made for 12"):
        model.encode(torch.zeros(1, 3, 7))
    model(grids(1), torch.zeros(1, 1, 5, dtype=torch.long))
    with pytest.raises(UserError, match=r"a caption of 5 words: this captioner takes 4 \(max_words\)"):
        model(grids(1), torch.zeros(1, 1, 6, dtype=torch.long))
    with pytest.raises(UserError, match="layer_norm=batch: Expected one of standard, unbiased"):
        tiny_captioner(layer_norm="batch")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"layers": 0}, "layers=0: expected a whole number, 1 or more"),
        ({"width": 16, "heads": 3}, "width=16: expected a multiple of heads=3"),
        ({"dropout": 2.0}, "dropout=2.0: expected a number, 0 at least, 1 at most"),
        ({"grid_dropout": -0.1}, "grid_dropout=-0.1: expected a number"),
    ],
)
def test_sizes_that_no_captioner_can_have(sizes, message):
    with pytest.raises(UserError, match=message):
        Captioner(**{"vocab_size": 5, "width": 8, "heads": 2, **sizes})


@pytest.mark.parametrize("wrong", ["grid", "tokens", "mask"])
def test_shapes_are_checked(wrong):
    good = {"grid": grids(2), "tokens": torch.zeros(2, 1, 3, dtype=torch.long), "mask": torch.ones(2, 5).bool()}
    bad = {"grid": grids(2)[0], "tokens": torch.zeros(2, 3, dtype=torch.long), "mask": torch.ones(2, 4).bool()}
    arguments = good | {wrong: bad[wrong]}
    tiny_captioner()(*good.values())
    with pytest.raises(Exception, match=r"(?i)type-check"):
        tiny_captioner()(*arguments.values())
