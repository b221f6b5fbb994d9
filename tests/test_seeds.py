"""The streams of seeds.py: numbers that every run, data set and prompt list made so far depends on."""

from __future__ import annotations

from itertools import islice

import numpy as np

from clouds_deploy import seeds
from clouds_deploy.data.dataset import TrainingKeys
from clouds_deploy.data.joint import JointKeys
from clouds_deploy.generation.scenes import deal_scenes


def test_streams_keep_their_numbers() -> None:
    assert seeds.derive(3, 0, seeds.MODEL) == 4854266099512449391
    assert seeds.derive(3, 7, bits=64) >> 1 == seeds.derive(3, 7)
    assert seeds.generator(3, seeds.SAM_PROMPTS, 5).integers(1 << 40) == 515762696566
    assert [int(g.integers(1 << 40)) for g in seeds.generators(2, 3, 1, 2)] == [365648442609, 1076985750792]
    assert seeds.chooser("scenes", 3).getrandbits(40) == 410195372705
    assert seeds.generator(9).random() == np.random.default_rng(9).random()


def test_the_order_of_a_training_stays() -> None:
    assert next(islice(TrainingKeys(5, 3, 0, 2), 3, 4)) == [
        (0, 9906082512934785299),
        (2, 3471923873504799845),
    ]
    assert next(islice(JointKeys(5, 4, 0.5, 3, 0, 2), 3, 4)) == [
        (2, 9906082512934785299),
        (6, 3471923873504799845),
    ]


def test_a_seed_deals_the_same_scenes() -> None:
    assert deal_scenes(9, 3)[4].values() == {
        "subject": "road signs",
        "place": "residential street",
        "weather": "light rain",
        "time": "morning",
        "region": "Thailand",
        "camera": "street level",
    }
