"""Self-training: the teacher, what is not known, and runs that are killed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clouds_deploy
from clouds_deploy.artifacts import read_manifest, sha256
from clouds_deploy.config.joint import SelfTrainingConfig
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.data.images import read_label_ids
from clouds_deploy.data.joint import generated_share
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import IGNORE
from clouds_deploy.models.checkpoints import CHECKPOINTS
from clouds_deploy.models.clouds.mask_decoder import Prediction
from clouds_deploy.models.clouds.segmenter import build_segmenter
from clouds_deploy.models.clouds.store import TRAINED, read_tensors
from clouds_deploy.training.segmenter import loop
from clouds_deploy.training.segmenter.criterion import criterion
from clouds_deploy.training.segmenter.learner import TEACHER
from clouds_deploy.training.segmenter.loop import train
from clouds_deploy.training.segmenter.points import uniform_draw
from clouds_deploy.training.segmenter.pseudo_labels import FOLDER, Labeler, leave_out
from clouds_deploy.training.segmenter.teacher import Teacher, decay_at
from tests.training.small import small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

ROBUST = (
    "joint.generated_images=4", "joint.generated_share=0.5", "joint.ema_every=2", "joint.ema_decay=0.9",
    "joint.sam=sam_tiny", "train.eval_every=0",
)  # fmt: skip
PLAIN = (*ROBUST, "joint.refine=null")


def drop_half(
    images: Sequence[Any], labels: Sequence[Any], trust: Sequence[Any], keys: Sequence[int]
) -> list[Any]:
    """A refiner that leaves the left half without labels, and marks its key in the corner."""
    out = []
    for image, own, sure, key in zip(images, labels, trust, keys, strict=True):
        assert image.shape == (*own.shape, 3)
        assert (image.dtype, own.dtype, sure.dtype) == (np.uint8, np.uint8, np.float32)
        assert set(np.unique(own)) <= {*range(19), IGNORE}
        assert 0 <= sure.min() <= sure.max() <= 1
        new = own.copy()
        new[:, : own.shape[1] // 2] = IGNORE
        new[-1, -1] = key % 19
        out.append(new)
    return out


def test_the_teacher_follows_the_head_and_shares_what_stands_still() -> None:
    student = build_segmenter(small_recipe().model)
    config = SelfTrainingConfig(ema_decay=0.75, ema_every=2)
    teacher = Teacher(student, config)
    frozen = {n for n, p in student.named_parameters() if not p.requires_grad}
    mine = dict(teacher.model.named_parameters())
    assert frozen
    for name, parameter in student.named_parameters():
        assert (mine[name] is parameter) == (name in frozen)
        assert not mine[name].requires_grad
    before = {n: p.detach().clone() for n, p in student.named_parameters() if n not in frozen}
    with torch.no_grad():
        for name in before:
            dict(student.named_parameters())[name].add_(1.0)
    teacher.update(1)
    assert all(torch.equal(mine[n], before[n]) for n in before)
    teacher.update(2)
    assert all(torch.allclose(mine[n], before[n] + 0.25, atol=1e-6) for n in before)
    teacher.update(0)
    assert all(torch.equal(mine[n], before[n] + 1.0) for n in before)
    assert teacher.state().keys() == before.keys()
    with pytest.raises(CloudsError, match="another teacher"):
        teacher.restore({}, "here")


def test_schedules_of_the_teacher() -> None:
    published = SelfTrainingConfig()
    assert [decay_at(n, published) for n in range(3)] == [0.0, 0.999, 0.999]
    modern = SelfTrainingConfig(ema_decay=0.99, ema_warmup=True)
    assert [decay_at(n, modern) for n in (0, 1, 90, 10_000)] == [0.0, 2 / 11, 0.91, 0.99]


@pytest.mark.parametrize(
    ("labelled", "repeat", "share"), [(24_904, 2.0, 28.7), (9_400, 0.7, 27.1), (2_975, 0.2, 25.2)]
)
def test_the_published_shares(labelled: int, repeat: float, share: float) -> None:
    config = SelfTrainingConfig(generated_repeat=repeat)
    assert 100 * generated_share(labelled, 5000, config) == pytest.approx(share, abs=0.05)


def test_what_is_not_known_counts_for_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 16, 16), generator=generator, dtype=torch.uint8)
    ignored = torch.zeros(2, 16, 16, dtype=torch.bool)
    ignored[:, :, 8:] = True
    labels[ignored] = IGNORE

    def losses(masks: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
        logits = torch.randn(2, 5, 20, generator=torch.Generator().manual_seed(1))
        draw = uniform_draw(torch.Generator().manual_seed(2))
        config = small_recipe("train.loss.points=256").train.loss
        return criterion([Prediction(logits, masks)], labels, config, draw, known).parts(config)

    masks = torch.randn(2, 5, 16, 16, generator=generator)
    other = masks.clone()
    other[..., 9:] = 3 * torch.randn(
        2, 5, 16, 7, generator=generator
    )  # bilinear points reach over the border
    near = losses(masks, ignored)
    assert torch.allclose(near, losses(other, ignored), rtol=0.02)
    assert not torch.allclose(losses(masks, None), losses(other, None), rtol=0.02)
    nothing = torch.zeros_like(ignored)
    assert torch.allclose(losses(masks, nothing), losses(masks, None), rtol=1e-5)
    leaf = masks.clone().requires_grad_()
    losses(leaf, ignored).sum().backward()
    assert leaf.grad is not None
    assert float(leaf.grad[..., 9:].abs().max()) == 0
    assert float(leaf.grad[..., :8].abs().max()) > 0


def test_where_something_is_unknown_no_query_is_told_that_it_is_nothing() -> None:
    labels = torch.zeros(2, 16, 16, dtype=torch.uint8)
    ignored = torch.zeros(2, 16, 16, dtype=torch.bool)
    ignored[0, :, 8:] = True
    labels[ignored] = IGNORE
    masks = torch.full((2, 3, 16, 16), -20.0)
    masks[:, 0, :, :8] = 20  # the road; the two other queries answer for nothing
    logits = torch.zeros(2, 3, 20, requires_grad=True)
    config = small_recipe("train.loss.points=256").train.loss

    def strength(known: torch.Tensor | None) -> torch.Tensor:
        draw = uniform_draw(torch.Generator().manual_seed(2))
        losses = criterion([Prediction(logits, masks)], labels, config, draw, known)
        (gradient,) = torch.autograd.grad(losses.class_loss.sum(), logits)
        return gradient.abs().sum(2)

    told, silent = strength(None), strength(ignored)
    assert bool((told > 1e-3).all())
    assert torch.equal(silent[0, 1:], torch.zeros(2))
    assert torch.allclose(silent[1], told[1])  # all of the second image is known
    assert torch.allclose(silent[:, 0], told[:, 0])  # a segment that was found counts as before


def test_classes_of_little_confidence_are_left_out() -> None:
    labels = np.array([[0, 0, 1, 1], [0, 0, 2, IGNORE]], np.uint8)
    sure = np.array([[0.9, 0.9, 0.2, 0.6], [0.9, 0.9, 0.5, 0.0]], np.float32)
    assert leave_out(labels, sure, 0.5).tolist() == [[0, 0, IGNORE, IGNORE], [0, 0, 2, IGNORE]]
    assert leave_out(labels, sure, 0.0).tolist() == labels.tolist()
    assert (leave_out(labels, sure, 1.0) == IGNORE).all()


def test_a_teacher_of_several_views() -> None:
    student = build_segmenter(small_recipe().model)
    clean = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    views = SelfTrainingConfig(teacher_scales=(1.0, 1.5), teacher_flip=True)
    teacher = Teacher(student, views)
    labels, sure = teacher.label(clean)
    mirrored, sure_too = teacher.label(clean.flip(-1))
    assert (mirrored.flip(-1) == labels).float().mean() > 0.999  # each view of the one is a view of the other
    assert torch.allclose(sure_too.flip(-1), sure, atol=1e-4)
    with torch.no_grad():
        pictures = clean.float()
        larger = F.interpolate(pictures, size=(96, 96), mode="bilinear", antialias=True)
        seen = [student.scores(pictures), student.scores(pictures.flip(-1)).flip(-1)]
        both = torch.cat([student.scores(larger), student.scores(larger.flip(-1)).flip(-1)])
        seen += F.interpolate(both, size=(64, 64), mode="bilinear").chunk(2)
        mean = torch.stack([s / s.sum(1, keepdim=True) for s in seen]).mean(0)
    assert (mean.argmax(1) == labels).float().mean() > 0.999
    assert torch.allclose(mean.max(1).values, sure, atol=1e-4)


def test_confidence_and_official_negatives_exclude_each_other() -> None:
    with pytest.raises(CloudsError, match="counts pixels without a label as negatives"):
        small_recipe(*ROBUST, "joint.refine.mode=official", "joint.min_confidence=0.5")


def test_the_labeler_labels_as_the_teacher_does() -> None:
    torch.manual_seed(0)
    student = build_segmenter(small_recipe().model)
    teacher = Teacher(student, SelfTrainingConfig())
    clean = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    plain = Labeler(teacher, None, torch.device("cpu"))
    labels = plain(clean, [0, 1, 2])
    with torch.no_grad():
        assert torch.equal(labels.long(), student.eval().scores(clean.float()).argmax(1))
    mended = Labeler(teacher, drop_half, torch.device("cpu"))(clean, [5, 6, 7])
    assert (mended[:, :, :32] == IGNORE).all()
    assert mended[:, -1, -1].tolist() == [5, 6, 7]
    assert torch.equal(mended[:, :-1, 32:], labels[:, :-1, 32:])
    assert plain(clean[:0], []).shape == (0, 64, 64)
    sure = teacher.label(clean)[1].numpy()
    segments = [
        own[one == c].mean() for one, own in zip(labels.numpy(), sure, strict=True) for c in np.unique(one)
    ]
    least = float(min(segments) + max(segments)) / 2  # leaves out some of them, and not all
    teacher.config = SelfTrainingConfig(min_confidence=least)
    chosen = Labeler(teacher, drop_half, torch.device("cpu"))(clean, [5, 6, 7]).numpy()
    wanted = [leave_out(one, own, least) for one, own in zip(labels.numpy(), sure, strict=True)]
    assert (chosen[:, :-1, 32:] == np.stack(wanted)[:, :-1, 32:]).all()
    assert (chosen[:, :-1, 32:] == IGNORE).any()
    assert (chosen[:, :-1, 32:] != IGNORE).any()


def run(recipe: Recipe, out: Path, **given: Any) -> dict[str, torch.Tensor]:
    refine = drop_half if recipe.joint and recipe.joint.refine else None
    train(recipe, out, refine=refine, **given)
    return read_tensors(out / TRAINED)


@pytest.mark.parametrize(
    "overrides",
    [
        ROBUST,
        (*ROBUST, "joint.pseudo_labels=cached"),
        (*ROBUST, "joint.pseudo_labels=cached", "joint.refresh_every=4"),
        (*ROBUST, "joint.refine.mode=official", "joint.ema_every=1", "joint.ema_warmup=true"),
        (*PLAIN, "joint.min_confidence=0.1", "joint.teacher_scales=[1.0,0.5]", "joint.teacher_flip=true"),
    ],
    ids=["online", "cached", "refreshed", "official", "teacher"],
)
def test_a_killed_run_ends_with_the_same_bytes(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(*overrides, "train.steps=9", "train.checkpoint_every=2")
    run(recipe, tmp_path / "undisturbed")
    real = loop._Run._step

    def killed(self: Any, step: int, batch: Any) -> None:
        if step == 7:  # the teacher is half-way between two updates, the last checkpoint a step behind
            raise KeyboardInterrupt
        real(self, step, batch)

    monkeypatch.setattr(loop._Run, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "killed")
    newest = max((tmp_path / "killed" / CHECKPOINTS).iterdir())
    assert newest.name == "step_00000006"
    assert (newest / TEACHER).is_file()
    monkeypatch.setattr(loop._Run, "_step", real)
    run(recipe, tmp_path / "killed", resume=True)
    for name in (TRAINED, "evaluation.json", "recipe.yaml"):
        assert sha256(tmp_path / "killed" / name) == sha256(tmp_path / "undisturbed" / name), name
    assert read_manifest(tmp_path / "killed", "run")["steps"] == 9


def test_cached_labels_are_on_disk_and_must_be_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(*ROBUST, "joint.pseudo_labels=cached", "train.steps=4", "train.checkpoint_every=1")
    monkeypatch.setattr(loop.RunFolder, "finish", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(recipe, tmp_path / "run")
    folder = tmp_path / "run" / FOLDER / "step_00000000"
    maps = [read_label_ids(path) for path in sorted(folder.glob("*.png"))]
    assert len(maps) == 4
    assert all((m[:, :64] == IGNORE).all() and (m[:, 64:] < 19).all() for m in maps)
    (folder / "whole.json").unlink()
    shutil.rmtree(tmp_path / "run" / CHECKPOINTS / "step_00000004")
    with pytest.raises(CloudsError, match="are incomplete"):
        run(recipe, tmp_path / "run", resume=True)


def test_off_is_training_on_labelled_images_alone(tmp_path: Path) -> None:
    joint = small_recipe(*PLAIN, "joint.pseudo_labels=off", "train.steps=3")
    plain = small_recipe("train.steps=3", "train.eval_every=0")
    a, b = run(joint, tmp_path / "joint"), run(plain, tmp_path / "plain")
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_pseudo_labels_change_what_is_learnt(tmp_path: Path) -> None:
    base = small_recipe(*PLAIN, "train.steps=3")
    a = run(base, tmp_path / "teacher")
    b = run(small_recipe(*ROBUST, "train.steps=3"), tmp_path / "robust")
    c = run(small_recipe(*ROBUST, "joint.refine.mode=official", "train.steps=3"), tmp_path / "official")
    for one, other in ((a, b), (b, c)):
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = small_recipe(*PLAIN, "joint.generated_root=/nowhere")
    with pytest.raises(CloudsError, match="no folder /nowhere"):
        train(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="a refiner belongs"):
        train(small_recipe(*ROBUST), tmp_path / "run")
    recipe = small_recipe(*ROBUST, "joint.refine.mode=official", "joint.refine.remove_intersections=false")
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    with pytest.raises(CloudsError, match="two classes"):
        clouds_deploy.train(path, out=tmp_path / "run")
    with pytest.raises(CloudsError, match="there is no device `gpu`"):
        clouds_deploy.train("tiny", out=tmp_path / "run", device="gpu")
    with pytest.raises(CloudsError, match=r"no option `resum`(?s:.*)`resume`"):
        clouds_deploy.train("tiny", out=tmp_path / "run", resum=True)


def test_the_refiner_may_be_a_bundle_on_an_engine(sam_bundle: Path, tmp_path: Path) -> None:
    """The labels are those of PyTorch, and a whole training runs on it."""
    from clouds_deploy.refinement.refiner import online_refiner
    from clouds_deploy.streets import render

    scene = render("photo", 3, 0, 64, 128)
    trust = np.full(scene.labels.shape, 0.9, np.float32)
    given = [scene.image], [scene.labels], [trust], [0]
    own = f"joint.sam={sam_bundle}"
    recipes = [
        small_recipe(*ROBUST, *more)
        for more in (("joint.sam=sam_tiny@256",), (own,), (own, "joint.sam_backend=openvino"))
    ]
    torch_labels, *others = (online_refiner(made, None)(*given)[0] for made in recipes)
    for labels in others:
        assert (labels == torch_labels).mean() > 0.999
    with pytest.raises(CloudsError, match="it has its weights"):
        online_refiner(small_recipe(*ROBUST, own, "joint.sam_weights=x.pth"), None)
    refine = online_refiner(recipes[1], None)
    train(small_recipe(*ROBUST, own, "train.steps=2"), tmp_path / "run", refine=refine)
    assert read_manifest(tmp_path / "run", "run")["steps"] == 2
