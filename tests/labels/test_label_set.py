"""Label sets: files, defaults, faults, and the sets that ship."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import (
    CITYSCAPES,
    IGNORE,
    SHIPPED,
    UNKNOWN_ID,
    chosen_label_set,
    label_set,
    load_label_set,
    named_set,
    shipped_set,
)
from clouds_deploy.labels.colors import _lab, distinct_colors

FILE = """\
ignore: 255
format: ids            # or colors, instances
classes:
- {name: sky, color: [10, 20, 30]}
- {name: crane, ids: [7, 8], color: [200, 10, 10], thing: true, synonyms: [tower crane], group: machine}
- {name: mast, small: true}
"""


def written(folder: Path, text: str, name: str = "own.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_file_of_the_guide(tmp_path: Path) -> None:
    found = load_label_set(written(tmp_path, FILE))
    assert (found.name, found.names, found.count) == ("own", ("sky", "crane", "mast"), 3)
    assert [c.ids for c in found.classes] == [(0,), (7, 8), (2,)]
    assert [c.train_id for c in found.classes] == [0, 1, 2]
    assert found.synonyms == (("sky",), ("tower crane",), ("mast",))
    assert (found.classes[1].thing, found.classes[1].group, found.classes[2].small) == (True, "machine", True)
    table = found.file_ids()
    assert [int(table[i]) for i in (0, 7, 8, 2, 255)] == [0, 1, 1, 2, IGNORE]
    assert table[1] == table[3] == table[65535] == UNKNOWN_ID
    assert found.palette()[1].tolist() == [200, 10, 10]


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    tree = load_label_set(written(tmp_path, FILE)).to_tree()
    again = load_label_set(written(tmp_path, json.dumps(tree), "own.json"))
    assert again == load_label_set(tmp_path / "own.yaml")
    assert pickle.loads(pickle.dumps(again)) == again
    assert hash(again) == hash(pickle.loads(pickle.dumps(again)))
    assert chosen_label_set(again.to_value()) == again  # what a recipe holds


@pytest.mark.parametrize(
    ("ignore", "ids", "ignored"),
    [
        (255, [0, 1, 2], [255]),
        (254, [0, 1, 2], [254]),
        (0, [1, 2, 3], [0]),
        (1, [0, 2, 3], [1]),
        (-1, [0, 1, 2], [255, 65535]),
        ("void", [0, 1, 2], [3, 99, 255, 65535]),
    ],
)
def test_ids_in_order_pass_over_the_ignored_one(ignore: object, ids: list[int], ignored: list[int]) -> None:
    found = label_set({"ignore": ignore, "classes": ["a", "b", "c"]}, "x")
    assert [c.ids[0] for c in found.classes] == ids
    assert all(found.file_ids()[i] == IGNORE for i in ignored)


def test_names_alone_are_enough() -> None:
    found = named_set("mine", [f"class {i}" for i in range(255)])
    assert found.count == 255
    assert len({c.color for c in found.classes}) == 255
    assert int(found.file_ids()[254]) == 254


def test_default_colours_differ_to_the_eye() -> None:
    taken = [(128, 64, 128), (70, 70, 70)]
    made = np.array([*taken, *distinct_colors(20, taken)])
    far = np.linalg.norm(_lab(made)[:, None] - _lab(made)[None], axis=-1)
    assert far[~np.eye(len(made), dtype=bool)].min() > 20  # 2.3 is just noticeable
    assert distinct_colors(20, taken) == distinct_colors(20, taken)


FAULTS = {
    "unknown key `colour`": "classes:\n- name: a\n- {name: b, colour: [1, 2, 3]}\n",
    "has name `a`, as class 0": "classes: [a, b, a]\n",
    "has id `1`, as class 1": "classes:\n- a\n- b\n- {name: c, ids: [1]}\n",
    "has id `7`, as class 0": "classes:\n- {name: a, ids: [7, 8]}\n- {name: b, ids: 7}\n",
    "has colour `[1, 2, 3]`, as class 0": (
        "format: colors\nclasses:\n- {name: a, color: [1, 2, 3]}\n- {name: b, color: [1, 2, 3]}\n"
    ),
    "has no colour": "format: colors\nclasses:\n- {name: a, color: [1, 2, 3]}\n- b\n",
    "has the ignored colour": (
        "format: colors\nclasses:\n- {name: a, color: [0, 0, 0]}\n- {name: b, color: [1, 2, 3]}\n"
    ),
    "has id 255, which is the ignored one": "classes:\n- a\n- {name: b, ids: [255]}\n",
    "`name` cannot be `False`": "classes:\n- a\n- name: off\n",
    "`color` cannot be `[1, 2]`": "classes:\n- a\n- {name: b, color: [1, 2]}\n",
    "`color` cannot be `[1, 2, 256]`": "classes:\n- a\n- {name: b, color: [1, 2, 256]}\n",
    "`ids` cannot be `[-3]`": "classes:\n- a\n- {name: b, ids: [-3]}\n",
    "`ignore` cannot be `none`": "ignore: none\nclasses: [a, b]\n",
    "`format` cannot be `masks`": "format: masks\nclasses: [a, b]\n",
    "has 1 classes, not 2 to 255": "classes: [a]\n",
    "has 256 classes, not 2 to 255": f"classes: [{', '.join(f'c{i}' for i in range(256))}]\n",
    "has no `classes`": "ignore: 255\n",
    "no mapping of keys": "- a\n- b\n",
    "not valid YAML": "classes: [a, b\n",
    "no name that can be printed": 'classes: [a, " "]\n',
    "its files hold ids": "ignore: [1, 2, 3]\nclasses: [a, b]\n",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_file_class_and_line(tmp_path: Path, fault: str) -> None:
    path = written(tmp_path, FAULTS[fault])
    with pytest.raises(CloudsError) as caught:
        load_label_set(path)
    assert fault in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_the_line_of_a_class_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "# mine\nclasses:\n- name: a\n  ids: [1]\n- name: b\n  ids: [1]\n")
    with pytest.raises(CloudsError, match=r"class 1, line 5 \(`b`\) has id `1`"):
        load_label_set(path)


def test_unknown_names_are_suggested(tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="no label set `cityscape19`") as caught:
        load_label_set("cityscape19")
    assert "cityscapes19" in caught.value.hint
    with pytest.raises(CloudsError, match="no label set file"):
        load_label_set(tmp_path / "none.yaml")


COUNTS = {
    "cityscapes19": 19,
    "cityscapes34": 34,
    "mapillary_v1_2": 65,
    "mapillary_v2": 123,
    "bdd100k": 19,
    "synthia16": 16,
    "camvid11": 11,
    "ade150": 150,
    "voc21": 21,
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sets(name: str) -> None:
    found = load_label_set(name)
    assert found.count == COUNTS[name]
    assert found.to_value() == name
    assert label_set(found.to_tree(), name) == found


def test_facts_of_shipped_sets() -> None:
    voc, ade, city = (shipped_set(n) for n in ("voc21", "ade150", "cityscapes34"))
    for index, one in enumerate(
        voc.classes
    ):  # the palette's rule: bits of the id, from the highest of each channel
        bits = [[(index >> (3 * k + c)) & 1 for k in range(8)] for c in range(3)]
        assert one.color == tuple(sum(b << (7 - k) for k, b in enumerate(channel)) for channel in bits)
    assert (ade.classes[0].ids, ade.classes[149].ids, ade.ignore) == ((1,), (150,), 0)
    assert sum(c.thing for c in ade.classes) == 100  # as in its panoptic benchmark
    assert [city.classes[i].name for i in (7, 26, 33)] == ["road", "car", "bicycle"]
    own = {c.name: c for c in city.classes}
    assert all(own[c.name].color == c.color for c in CITYSCAPES.classes)
    assert shipped_set("mapillary_v1_2").index("car") == 55
    assert {c.name: c.ids[0] for c in shipped_set("synthia16").classes}["wall"] == 21


def test_equal_colours_are_remarked_upon_where_ids_tell_classes_apart() -> None:
    tree = {"classes": [{"name": "a", "color": [1, 2, 3]}, {"name": "b", "color": [1, 2, 3]}]}
    assert label_set(tree, "x").remarks() == ["classes `a` and `b` have the same colour, [1, 2, 3]"]
    assert CITYSCAPES.remarks() == []
