"""All forms of deformable attention are one function, also outside the map."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds_deploy.config.model import MaskDecoderConfig, PixelDecoderConfig
from clouds_deploy.models.clouds.deformable_attention import SAMPLERS, DeformableAttention, best_form
from clouds_deploy.models.clouds.mask_decoder import MaskDecoder
from clouds_deploy.models.clouds.pixel_decoder import PixelDecoder
from clouds_deploy.models.clouds.positions import cell_centers
from clouds_deploy.models.clouds.sparse_sampling import sum_rows

OTHERS = sorted(set(SAMPLERS) - {"grid_sample"})


def by_hand(
    value: torch.Tensor, shapes: list[tuple[int, int]], locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The definition, one sample at a time, in float64."""
    batch, queries, heads, levels, points, _ = locations.shape
    depth = value.shape[-1]
    out = torch.zeros(batch, queries, heads, depth, dtype=torch.float64)
    for index in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads, levels, points))).tolist():
        b, q, h, level, p = index
        height, width = shapes[level]
        start = sum(a * c for a, c in shapes[:level])
        x = float(locations[b, q, h, level, p, 0]) * width - 0.5
        y = float(locations[b, q, h, level, p, 1]) * height - 0.5
        left, top = int(torch.tensor(x).floor()), int(torch.tensor(y).floor())
        for row in (top, top + 1):
            for column in (left, left + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(x - column)) * (1 - abs(y - row))
                    pixel = value[b, start + row * width + column, h].double()
                    out[b, q, h] += float(weights[b, q, h, level, p]) * share * pixel
    return out.flatten(2)


def sample(
    form: str,
    value: torch.Tensor,
    shapes: list[tuple[int, int]],
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Sample at places given whole, with a centre of its own for every query."""
    centers = torch.linspace(0, 1, 2 * locations.shape[1]).view(-1, 2)
    sizes = torch.tensor([[w, h] for h, w in shapes]).view(1, 1, 1, -1, 1, 2)
    offsets = (locations - centers.view(1, -1, 1, 1, 1, 2)) * sizes
    return SAMPLERS[form](value, shapes, centers, (offsets[..., 0], offsets[..., 1]), weights)


def random_case(
    seed: int, shapes: list[tuple[int, int]], spread: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    total = sum(h * w for h, w in shapes)
    value = torch.randn(2, total, 2, 4, generator=generator)
    locations = 0.5 + spread * torch.randn(2, 5, 2, len(shapes), 3, 2, generator=generator)
    weights = torch.rand(2, 5, 2, len(shapes), 3, generator=generator)
    return value, locations, weights / weights.sum((-1, -2), keepdim=True)


@pytest.mark.parametrize("form", sorted(SAMPLERS))
def test_against_the_definition(form: str) -> None:
    shapes = [(2, 3), (4, 5)]
    value, locations, weights = random_case(0, shapes, 0.6)
    expected = by_hand(value, shapes, locations, weights)
    got = sample(form, value, shapes, locations, weights)
    assert (got - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("form", OTHERS)
@given(
    seed=st.integers(0, 10_000),
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    spread=st.sampled_from([0.0, 0.2, 1.0, 30.0]),
)
@settings(max_examples=60)
def test_forms_are_equal(form: str, seed: int, shapes: list[tuple[int, int]], spread: float) -> None:
    value, locations, weights = random_case(seed, shapes, spread)
    expected = sample("grid_sample", value, shapes, locations, weights)
    got = sample(form, value, shapes, locations, weights)
    assert (got - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("form", OTHERS)
def test_borders_and_far_outside(form: str) -> None:
    shapes = [(3, 4)]
    value = torch.arange(1.0, 13).view(1, 12, 1, 1)
    places = torch.tensor([0.0, 1.0, -0.125, 1.125, 0.125, -5.0, 1e9, -1e9, 0.5])
    locations = torch.cartesian_prod(places, places).view(1, -1, 1, 1, 1, 2)
    weights = torch.ones(locations.shape[:-1])
    expected = sample("grid_sample", value, shapes, locations, weights)
    got = sample(form, value, shapes, locations, weights)
    assert (got - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("form", OTHERS)
def test_gradients_are_equal(form: str) -> None:
    shapes = [(5, 7), (3, 4)]
    grads = []
    for name in ("grid_sample", form):
        inputs = [t.requires_grad_() for t in random_case(1, shapes, 0.4)]
        sample(name, inputs[0], shapes, inputs[1], inputs[2]).square().sum().backward()
        grads.append([t.grad for t in inputs])
    for expected, got in zip(*grads, strict=True):
        assert expected is not None
        assert got is not None
        assert (got - expected).abs().max() <= 1e-4 * float(expected.abs().max())


def test_starts_as_a_compass() -> None:
    attention = DeformableAttention(32, heads=8, levels=3, points=4)
    offsets = attention.sampling_offsets.bias.detach().view(8, 3, 4, 2)
    assert torch.allclose(offsets.abs().amax(-1), torch.arange(1.0, 5).expand(8, 3, 4))
    assert torch.allclose(offsets[0, 0, 0], torch.tensor([1.0, 0.0]))
    assert torch.allclose(offsets[2, 1, 3], torch.tensor([0.0, 4.0]), atol=1e-6)


def test_module_is_the_same_in_every_form() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(32, heads=4, levels=2, points=4)
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.5)
    torch.nn.init.normal_(attention.attention_weights.weight)
    shapes = [(4, 6), (2, 3)]
    tokens = torch.randn(2, 30, 32)
    centers = torch.cat([cell_centers(h, w, tokens.device) for h, w in shapes])
    outputs = []
    for form in SAMPLERS:
        attention.form = form  # type: ignore[assignment]
        outputs.append(attention(tokens, tokens, centers, shapes))
    for output in outputs[1:]:
        assert torch.allclose(output, outputs[0], atol=1e-5)


def test_sparse_sums_are_a_well_made_operator() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(11, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    index = torch.randint(0, 11, (6, 5), dtype=torch.int32, generator=generator)
    index[0] = 4  # one row several times in a sum, row 10 never asked for by it
    weight = torch.rand(6, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    expected = (rows[index.long()] * weight[..., None]).sum(1)
    assert torch.allclose(sum_rows(rows, index, weight), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda r, w: sum_rows(r, index, w), (rows, weight))
    torch.library.opcheck(sum_rows, (rows, index, weight))


def test_the_best_form_of_a_device() -> None:
    expected = "sparse" if torch.backends.mkl.is_available() else "grid_sample"
    assert best_form(torch.device("cpu")) == expected
    assert best_form(torch.device("cuda")) == "grid_sample"


@pytest.mark.parametrize("training", [True, False])
def test_the_head_compiles_without_graph_breaks(training: bool) -> None:
    torch.manual_seed(0)
    pixels = PixelDecoder([8, 16, 16, 16], 32, PixelDecoderConfig(layers=1, heads=4))
    masks = MaskDecoder(32, 19, MaskDecoderConfig(queries=6, layers=3, heads=4))
    pixels.train(training)
    masks.train(training)
    features = [
        torch.randn(1, c, 32 // s, 64 // s) for c, s in zip((8, 16, 16, 16), (1, 2, 4, 8), strict=True)
    ]

    def head(*maps: torch.Tensor) -> list[torch.Tensor]:
        made = masks(*pixels(maps), every_layer=training)
        return [t for p in made for t in (p.class_logits, p.mask_logits)]

    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(training):
        for expected, got in zip(head(*features), compiled(*features), strict=True):
            assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)
    if training:
        torch.stack([t.square().mean() for t in compiled(*features)]).sum().backward()
        gradient = pixels.layers[0].attention.sampling_offsets.weight.grad
        assert gradient is not None
        assert float(gradient.abs().max()) > 0


def test_autocast_leaves_the_sampling_in_single_precision() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(32, heads=4, levels=2, points=4)
    shapes = [(4, 6), (2, 3)]
    tokens = torch.randn(2, 30, 32, requires_grad=True)
    centers = torch.cat([cell_centers(h, w, tokens.device) for h, w in shapes])
    for form in SAMPLERS:
        attention.form = form  # type: ignore[assignment]
        with torch.autocast("cpu", torch.bfloat16):
            output = attention(tokens, tokens, centers, shapes)
            output.float().square().sum().backward()
        assert torch.allclose(output.float(), attention(tokens, tokens, centers, shapes), atol=0.02)
