from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from clouds_deploy.refinement.components import distance_outside, find_components, interior_points
from clouds_deploy.refinement.rules_official import erode


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


@st.composite
def maps(draw: st.DrawFn) -> np.ndarray:
    """Label maps of blocks, with noise and pixels without a label."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    labels = random.integers(0, draw(st.integers(1, 19)), size).astype(np.uint8)
    labels = labels.repeat(draw(st.integers(1, 5)), 0).repeat(draw(st.integers(1, 5)), 1)
    labels[random.random(labels.shape) < draw(st.sampled_from((0.0, 0.2, 0.9)))] = 255
    return labels


@given(labels=maps(), above=st.integers(0, 6))
@settings(deadline=None, max_examples=300)
def test_components_are_those_of_scipy(labels: np.ndarray, above: int) -> None:
    found = find_components(labels, above)
    wanted = []
    for label in range(19):
        numbered, count = ndimage.label(labels == label)
        wanted += [(label, m) for i in range(1, count + 1) if (m := numbered == i).sum() > above]
    assert len(found) == len(wanted)
    for component, (label, mask) in zip(found, wanted, strict=True):
        assert (component.label, component.area) == (label, mask.sum())
        assert (component.box,) == tuple(ndimage.find_objects(mask.astype(np.uint8)))
        assert np.array_equal(component.mask, mask[component.box])


@given(labels=maps(), side=st.integers(1, 6))
@settings(deadline=None, max_examples=300)
def test_distances_and_erosion_are_those_of_scipy(labels: np.ndarray, side: int) -> None:
    mask = labels == labels.flat[0]
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    assert np.array_equal(distance_outside(mask, closed=True), inside)
    if not mask.all():
        assert np.array_equal(distance_outside(mask), ndimage.distance_transform_edt(mask))
    assert np.array_equal(erode(mask, side), ndimage.binary_erosion(mask, np.ones((side, side))))


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
