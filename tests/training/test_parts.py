"""Schedule, optimiser groups, losses at the edges, weight files, evaluation, sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clouds_deploy.backends.torch_session import scorer
from clouds_deploy.config.recipe import LossConfig, TrainConfig
from clouds_deploy.data.sources import select, train_source, val_source
from clouds_deploy.errors import CloudsError
from clouds_deploy.evaluation.evaluate import evaluate
from clouds_deploy.models.clouds.mask_decoder import Prediction
from clouds_deploy.models.clouds.segmenter import Segmenter, build_segmenter
from clouds_deploy.models.clouds.store import split_state, write_tensors
from clouds_deploy.training.schedule import learning_rate
from clouds_deploy.training.segmenter.criterion import criterion
from clouds_deploy.training.segmenter.optimizer import (
    build_optimizer,
    decayed,
    optimizer_tensors,
    restore_optimizer,
)
from clouds_deploy.training.segmenter.points import class_shares, segment_shares, uniform_draw
from tests.data import trees
from tests.training.small import small_recipe


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(small_recipe().model)


@pytest.mark.parametrize(
    ("schedule", "warmup", "wanted"),
    [
        ("constant", 0, [1.0, 1.0, 1.0, 1.0]),
        ("constant", 2, [0.5, 1.0, 1.0, 1.0]),
        ("poly", 0, [1.0, 0.75**0.9, 0.5**0.9, 0.25**0.9]),
        ("poly", 4, [0.25, 0.5 * 0.75**0.9, 0.75 * 0.5**0.9, 0.25**0.9]),
        ("cosine", 0, [1.0, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5]),
    ],
)
def test_schedule(schedule: str, warmup: int, wanted: list[float]) -> None:
    config = TrainConfig.model_validate({"steps": 4, "lr": 2.0, "schedule": schedule, "warmup_steps": warmup})
    assert [learning_rate(step, config) for step in range(4)] == pytest.approx(
        [2 * value for value in wanted]
    )


def test_weight_decay_spares_norms_and_embeddings(segmenter: Segmenter) -> None:
    rule = decayed(segmenter)
    assert not any(name.startswith("backbone.") for name in rule)
    spared = {name for name, decays in rule.items() if not decays}
    assert {f"mask_decoder.{n}" for n in ("query_features", "query_embedding", "level_embedding")} <= spared
    assert "pixel_decoder.layers.0.attention_norm.weight" in spared
    assert "pixel_decoder.project.0.1.bias" in spared
    for name in ("pixel_decoder.level_embedding", "pixel_decoder.layers.0.expand.bias"):
        assert rule[name]
    optimizer = build_optimizer(segmenter, TrainConfig(weight_decay=0.07))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.07, 0.0]
    assert len(optimizer.param_groups[1]["params"]) == len(spared)


def test_optimizer_state_survives_by_name(segmenter: Segmenter) -> None:
    config = TrainConfig(lr=1e-9)
    first = build_optimizer(segmenter, config)
    for parameter in segmenter.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    first.step()
    tensors = optimizer_tensors(first, segmenter)
    second = build_optimizer(segmenter, config)
    restore_optimizer(second, segmenter, tensors, "here")
    again = optimizer_tensors(second, segmenter)
    assert tensors.keys() == again.keys()
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    with pytest.raises(CloudsError, match="nonsense:step"):
        restore_optimizer(second, segmenter, {"nonsense:step": torch.zeros(())}, "here")


def test_shares_are_bilinear_samples_of_binary_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (2, 8, 12), generator=generator, dtype=torch.uint8)
    labels[0, :3] = 255
    points = torch.rand(2, 50, 2, generator=generator)
    points[:, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])  # beyond the last centres
    masks = (labels[:, None] == torch.arange(4).view(1, 4, 1, 1)).float()
    grid = (2 * points - 1).unsqueeze(1)
    wanted = torch.nn.functional.grid_sample(masks, grid, align_corners=False).squeeze(2)
    torch.testing.assert_close(class_shares(labels, points, 4), wanted.transpose(1, 2))
    image, label = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 3])
    torch.testing.assert_close(segment_shares(labels, image, label, points[image]), wanted[image, label])


@pytest.mark.parametrize("empty", [[0], [0, 1]])
def test_images_without_any_label_still_train(empty: list[int]) -> None:
    labels = torch.full((2, 64, 64), 5, dtype=torch.uint8)
    labels[empty] = 255
    logits = torch.randn(2, 6, 20, requires_grad=True)
    masks = torch.randn(2, 6, 16, 16, requires_grad=True)
    config = LossConfig(points=32)
    losses = criterion(
        [Prediction(logits, masks)] * 2, labels, config, uniform_draw(torch.Generator().manual_seed(0))
    )
    total = losses.parts(config).sum()
    total.backward()
    assert torch.isfinite(total)
    assert masks.grad is not None
    assert bool(masks.grad.any()) == (len(empty) == 1)


def test_a_full_disk_under_safetensors_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch
    from safetensors import SafetensorError

    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(CloudsError, match="no space left"):
        write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)})
    assert not list(tmp_path.iterdir())


def test_tensors_are_split_by_what_training_moves(segmenter: Segmenter) -> None:
    trained, frozen = split_state(segmenter)
    assert trained.keys() | frozen.keys() == segmenter.state_dict().keys()
    assert all(name.startswith("backbone.") for name in frozen)
    assert not any(name.startswith("backbone.") for name in trained)
    moving = build_segmenter(small_recipe("model.backbone.trainable=true").model)
    trained, frozen = split_state(moving)
    assert any(name.endswith("running_mean") for name in trained)
    assert not frozen


class Made:
    """Images of two sizes whose labels are known."""

    def __init__(self, count: int, labelled: bool = True) -> None:
        self.count, self.labelled = count, labelled

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"made_{index}"

    def load(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
        height = 32 if index % 3 else 64
        labels = np.zeros((height, 64), np.uint8)
        labels[:, 32:] = 1 + index % 2
        image = np.repeat(labels[..., None], 3, axis=2)
        return image, labels if self.labelled else None


def test_evaluation_of_a_perfect_guess_at_every_size() -> None:
    for metric in ("native", "official"):
        perfect = evaluate(lambda images: images[..., 0], Made(10), metric).to_dict()  # type: ignore[arg-type]
        halved = evaluate(lambda images: images[:, ::2, ::2, 0], Made(10), metric).to_dict()  # type: ignore[arg-type]
        assert perfect["miou"] == halved["miou"] == 100.0
        assert perfect["images"] == 10
        assert perfect["per_class"]["road"] == 100.0
        assert perfect["per_class"]["car"] is None
        assert perfect["best_constant_class_miou"] == pytest.approx(50 / 3)


def test_scores_are_resized_before_the_argmax() -> None:
    def scores(images: npt.NDArray[np.uint8]) -> torch.Tensor:
        small = torch.from_numpy(images[:, ::2, ::2, 0]).long()
        return torch.nn.functional.one_hot(small, 19).permute(0, 3, 1, 2).float()

    assert evaluate(scores, Made(4)).to_dict()["miou"] == 100.0


def test_evaluation_refuses_what_it_cannot_count() -> None:
    with pytest.raises(CloudsError, match="made_0 has no labels"):
        evaluate(lambda images: images[..., 0], Made(1, labelled=False))
    with pytest.raises(CloudsError, match="no images"):
        evaluate(lambda images: images[..., 0], Made(0))


def test_the_predictor_sees_the_short_side_asked_for(segmenter: Segmenter) -> None:
    image = np.zeros((90, 161, 3), np.uint8)
    scores = scorer(segmenter, 64, "cpu")(image[None])
    assert tuple(scores.shape) == (1, 19, 64, 114)


def test_sources_do_not_overlap_and_need_a_root(tmp_path: Path) -> None:
    for seed in range(5):
        recipe = small_recipe(f"seed={seed}")
        train, val = train_source(recipe), val_source(recipe)
        assert len(train) == 12
        assert len(val) == 3
        assert not {train.name(i) for i in range(12)} & {val.name(i) for i in range(3)}
    with pytest.raises(CloudsError, match=r"`cityscapes` needs a folder") as told:
        train_source(small_recipe("data.layout=cityscapes"))
    assert "data.root=PATH" in told.value.hint
    with pytest.raises(CloudsError) as told:
        val_source(small_recipe("data.val_layout=acdc"))
    assert "data.val_root=PATH" in told.value.hint


def test_a_selection_is_spread_over_its_source() -> None:
    chosen = select(Made(10), 4)
    assert [chosen.name(i) for i in range(len(chosen))] == ["made_0", "made_3", "made_6", "made_9"]
    assert len(select(Made(3), 10)) == 3


def test_datasets_are_trained_on_together(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path / "city")
    more = f"data.more=[{{layout: cityscapes, root: {root}, repeat: 2}}]"
    alone, both = train_source(small_recipe()), train_source(small_recipe(more))
    each = (len(both) - len(alone)) // 2
    assert each > 0
    names = [both.name(i) for i in range(len(both))]
    assert names[:12] == [f"0/{alone.name(i)}" for i in range(12)]
    assert names[12 : 12 + each] == names[12 + each :]
    assert all(np.array_equal(both.load(3)[k], alone.load(3)[k]) for k in range(2))
    assert np.array_equal(both.load(12)[0], both.load(12 + each)[0])
    assert both.load(12)[1].shape == both.load(12)[0].shape[:2]
    with pytest.raises(CloudsError, match="missing"):
        train_source(small_recipe("data.more=[{layout: cityscapes, root: missing}]"))
