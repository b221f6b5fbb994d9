from __future__ import annotations

import numpy as np
from scipy import ndimage

from clouds_deploy.refinement.components import find_components, interior_points


def test_neighbours_touch_by_sides_not_by_corners() -> None:
    labels = np.full((6, 6), 255, np.uint8)
    labels[0, 0] = labels[1, 1] = 3
    labels[3:5, 3:5] = 3
    found = find_components(labels, 0)
    assert [(c.label, c.area) for c in found] == [(3, 1), (3, 1), (3, 4)]
    assert found[2].box == (slice(3, 5), slice(3, 5))
    assert found[2].corners() == ((3.0, 3.0), (5.0, 5.0))


def test_an_area_of_exactly_the_limit_is_too_small() -> None:
    labels = np.full((8, 8), 255, np.uint8)
    labels[0, :4], labels[2, :5] = 13, 13
    assert [c.area for c in find_components(labels, 4)] == [5]
    assert find_components(labels, 5) == []


def test_classes_are_apart_and_255_is_none() -> None:
    labels = np.zeros((4, 9), np.uint8)
    labels[:, 3:6], labels[:, 6:] = 18, 255
    assert [(c.label, c.area) for c in find_components(labels, 0)] == [(0, 12), (18, 12)]


def test_components_are_those_of_scipy_on_whole_masks() -> None:
    random = np.random.default_rng(0)
    labels = ndimage.zoom(random.integers(0, 19, (9, 13)), 5, order=0).astype(np.uint8)
    labels[random.random(labels.shape) < 0.2] = 255
    found = find_components(labels, 6)
    wanted = []
    for label in range(19):
        numbered, count = ndimage.label(labels == label)
        wanted += [(label, m) for i in range(1, count + 1) if (m := numbered == i).sum() > 6]
    assert len(found) == len(wanted)
    for component, (label, mask) in zip(found, wanted, strict=True):
        whole = np.zeros(labels.shape, bool)
        whole[component.box] = component.mask
        assert component.label == label
        assert component.area == mask.sum()
        assert np.array_equal(whole, mask)


def test_interior_points_are_deep_apart_and_inside() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 5:55] = True
    points = interior_points(mask, 3)
    x, y = points.T.astype(int)
    assert points.dtype == np.float32
    assert mask[y, x].all()
    assert ((y >= 13) & (y < 27)).all()
    distances = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    assert distances[~np.eye(3, dtype=bool)].min() > 12
    assert np.array_equal(points, interior_points(mask, 3))


def test_interior_points_go_where_the_teacher_is_sure() -> None:
    mask = np.ones((20, 60), bool)
    weight = np.full((20, 60), 0.2, np.float32)
    weight[:, 40:] = 1.0
    assert interior_points(mask, 1, weight)[0, 0] >= 40
    assert len(interior_points(mask, 4, np.zeros((20, 60), np.float32))) >= 1


def test_interior_points_of_tiny_and_huge_regions() -> None:
    assert interior_points(np.ones((1, 1), bool), 3).tolist() == [[0.0, 0.0]]
    assert len(interior_points(np.ones((1, 2), bool), 3)) == 2
    line = np.zeros((700, 900), bool)
    line[:, 449] = True  # falls between the rows and columns that are looked at
    points = interior_points(line, 3)
    assert len(points) == 3
    assert (points[:, 0] == 449).all()
    disc = np.hypot(*np.ogrid[-350:350, -350:350]) < 340
    x, y = interior_points(disc, 5).T.astype(int)
    assert disc[y, x].all()
