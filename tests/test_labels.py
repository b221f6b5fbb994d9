from __future__ import annotations

import pickle

from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.labels import (
    CLASSES,
    IGNORE,
    NAMES,
    UNKNOWN_ID,
    cityscapes_table,
    palette,
    train_id_table,
)


def test_nineteen_classes_in_order() -> None:
    assert [c.train_id for c in CLASSES] == list(range(19))
    assert (NAMES[0], NAMES[10], NAMES[18]) == ("road", "sky", "bicycle")
    assert [c.name for c in CLASSES if c.thing] == list(NAMES[11:])


def test_synonyms_are_sixty_as_published() -> None:
    counts = [len(c.synonyms) for c in CLASSES]
    assert counts == [2, 2, 6, 6, 2, 2, 2, 2, 5, 10, 2, 1, 1, 2, 2, 2, 5, 2, 4]
    assert sum(counts) == 60


def test_tables() -> None:
    table = cityscapes_table()
    assert [int(table[i]) for i in (7, 8, 11, 26, 33)] == [0, 1, 2, 13, 18]
    assert table[0] == table[29] == table[255] == IGNORE
    assert table[34] == table[77] == UNKNOWN_ID
    own = train_id_table()
    assert own[18] == 18
    assert own[255] == IGNORE
    assert own[19] == own[77] == UNKNOWN_ID


def test_palette_colours_are_distinct_and_ignore_is_black() -> None:
    assert len({c.color for c in CLASSES}) == 19
    assert palette()[IGNORE].tolist() == [0, 0, 0]
    assert palette()[0].tolist() == [128, 64, 128]


def test_errors_survive_pickling_and_suggest() -> None:
    error = pickle.loads(pickle.dumps(CloudsError("what", "fix", exit_code=1)))
    assert (error.message, error.hint, error.exit_code) == ("what", "fix", 1)
    assert nearest("trian", ["train", "bench"]) == "did you mean `train`?"
    assert nearest("zzz", ["train", "bench"]) == "known: `bench`, `train`"
