from __future__ import annotations

import hashlib
import subprocess
import sys
import time

import numpy as np
import pytest

from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import CLASSES, NAMES, NUM_CLASSES
from clouds_deploy.streets import DOMAINS, Scene, render

SCENES = 60


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[Scene]]:
    return {domain: [render(domain, 7, index) for index in range(SCENES)] for domain in DOMAINS}


def digest(scene: Scene) -> str:
    return hashlib.sha256(
        scene.image.tobytes() + scene.labels.tobytes() + scene.instances.tobytes()
    ).hexdigest()


def test_the_same_arguments_give_the_same_bytes() -> None:
    for domain in DOMAINS:
        assert digest(render(domain, 3, 5)) == digest(render(domain, 3, 5))


def test_another_process_gives_the_same_bytes() -> None:
    code = (
        "import hashlib; from clouds_deploy.streets import DOMAINS, render\n"
        "for d in DOMAINS:\n"
        "  for i in range(4):\n"
        "    s = render(d, 11, i)\n"
        "    b = s.image.tobytes() + s.labels.tobytes() + s.instances.tobytes()\n"
        "    print(hashlib.sha256(b).hexdigest())\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == [digest(render(domain, 11, index)) for domain in DOMAINS for index in range(4)]


def test_domain_seed_and_index_each_change_the_scene() -> None:
    arguments = [("game", 0, 0), ("photo", 0, 0), ("imagined", 0, 0), ("game", 1, 0), ("game", 0, 1)]
    assert len({digest(render(*each)) for each in arguments}) == len(arguments)


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_class_is_seen_often_enough(domain: str, scenes: dict[str, list[Scene]]) -> None:
    counts = np.stack([np.bincount(s.labels.ravel(), minlength=NUM_CLASSES) for s in scenes[domain]])
    share = (counts > 40).mean(0)
    assert {name: part for name, part in zip(NAMES, share, strict=True) if part < 0.15} == {}


@pytest.mark.parametrize("domain", DOMAINS)
def test_labels_and_instances_agree(domain: str, scenes: dict[str, list[Scene]]) -> None:
    things = [c.train_id for c in CLASSES if c.thing]
    for scene in scenes[domain][:20]:
        assert scene.image.dtype == np.uint8
        assert scene.labels.dtype == np.uint8
        assert scene.instances.dtype == np.int32
        assert scene.labels.max() < NUM_CLASSES
        assert scene.instances.min() == 0
        assert np.array_equal(scene.instances > 0, np.isin(scene.labels, things))
        pairs = np.unique(np.stack([scene.instances.ravel(), scene.labels.ravel()]), axis=1)
        ids = pairs[0][pairs[0] > 0]
        assert len(ids) == len(set(ids.tolist())), "an instance carries two classes"


def test_riders_come_with_what_they_ride(scenes: dict[str, list[Scene]]) -> None:
    rider, cycles = NAMES.index("rider"), [NAMES.index("bicycle"), NAMES.index("motorcycle")]
    with_rider = [s for s in scenes["game"] if (s.labels == rider).sum() > 60]
    assert len(with_rider) > 10
    assert np.mean([np.isin(s.labels, cycles).any() for s in with_rider]) > 0.9


@pytest.mark.parametrize(("height", "width"), [(64, 128), (96, 160), (256, 512), (1024, 2048)])
def test_sizes(height: int, width: int) -> None:
    for domain in DOMAINS if height < 1024 else ("photo",):
        scene = render(domain, 0, 2, height, width)
        assert scene.image.shape == (height, width, 3)
        assert scene.labels.shape == scene.instances.shape == (height, width)


@pytest.mark.parametrize("domain", DOMAINS)
def test_another_size_shows_the_same_street(domain: str) -> None:
    agreement = []
    for index in range(8):
        small = render(domain, 0, index, 128, 256).labels
        large = render(domain, 0, index, 256, 512).labels[::2, ::2]
        agreement.append((small == large).mean())
    assert np.mean(agreement) > 0.9


def test_the_domains_look_different(scenes: dict[str, list[Scene]]) -> None:
    def statistics(domain: str) -> tuple[float, float, float]:
        images = np.stack([s.image for s in scenes[domain][:40]]).astype(np.float32)
        saturation = float((images.max(-1) - images.min(-1)).mean())
        spread = float(images.mean((1, 2, 3)).std())
        grain = float(np.abs(np.diff(images[:, :, : 256 // 2], axis=2)[:, 100:]).mean())
        return saturation, spread, grain

    game, imagined, photo = (statistics(domain) for domain in ("game", "imagined", "photo"))
    assert game[0] > 1.5 * photo[0], "the target is muted"
    assert imagined[1] > 2.0 * game[1], "imagined light varies"
    assert photo[2] > 1.2 * game[2], "the target is grainy"


def test_an_unknown_domain_is_told() -> None:
    with pytest.raises(CloudsError, match="did you mean `photo`"):
        render("foto", 0, 0)


def test_speed() -> None:
    for domain in DOMAINS:
        render(domain, 0, 0)
    best = 0.0
    for attempt in range(3):
        start = time.process_time()
        for index in range(12):
            render(DOMAINS[index % 3], 5 + attempt, index)
        best = max(best, 12 / (time.process_time() - start))
    assert best > 30.0, f"{best:.0f} scenes/s"
