"""Random streams: every random draw is a function of one seed and of what the draw is for.

No random state is carried from one step, image or worker to the next. A job that was killed and resumed, or
split among processes, therefore draws what an undisturbed one draws.

A stream is named by the numbers after the seed. The tables below hold all of them, by command, so that no
two places share a stream unknowingly: a new stream takes a row, and a number that its table does not have.
Changing a number changes what every earlier run, data set and prompt list was made of.
"""

from __future__ import annotations

import random

import numpy as np

# train, the data of a segmenter: (PURPOSE, number)
IMAGE_ORDER = 1  # round: the order of a labelled data set
AUGMENTATION = 2  # position in the training: what is done to the image there
LABELLED_ORDER, GENERATED_ORDER = 3, 4  # round: the same orders in joint training
RARE_CLASS = 6  # number of the labelled image: its class and itself, with rare-class sampling

# train, the steps of a segmenter: (step, PURPOSE)
MODEL = 1  # 0: initial weights; step + 1, part of the batch where it is not the first: stochastic depth
LOSS_POINTS = 2  # step: the points that matching and loss compare masks at

# train, a SAM: (PURPOSE, number), and (step, SAM_STEP)
SCENE_DOMAIN = 5  # number of the street: its domain
SAM_SAMPLE = 7  # position in the training: crop, masks and colours
SAM_PROMPTS = 11  # step: which kind of step it is, how many points and corrections
SAM_STEP = 31  # 0: initial weights; step + 1: the places of the points

# tune-diffusion: (number, PURPOSE)
SHOT_ORDER = 1  # round: the order of the images
SHOT_CROP = 2  # number of the sample: crop and mirror image
NOISE = 3  # step: noise and times

# Without a purpose of their own, as the commands' seeds are theirs alone:
# generate: (image, attempt); refine: (image,); streets: (scene, code of the domain), two streams of each;
# clips: (clip, code, 1), two streams; (clip, code, 2, frame): noise; (clip, code, 3, frame): rain, snow


def derive(seed: int, *purpose: int, bits: int = 63) -> int:
    """Returns the seed of one stream, for a generator that takes a single number.

    Args:
        seed: The seed of the run or command; not negative.
        purpose: What names the stream; not negative. See the tables of this module.
        bits: Size of the result. PyTorch's generators take at most 63 bits.
    """
    state = np.random.SeedSequence((seed, *purpose)).generate_state(1, np.uint64)
    return int(state[0]) >> (64 - bits)


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """Returns NumPy's generator of one stream; arguments as for `derive`."""
    return np.random.default_rng((seed, *purpose))


def generators(count: int, seed: int, *purpose: int) -> list[np.random.Generator]:
    """Returns several independent generators of one stream; arguments as for `derive`."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence((seed, *purpose)).spawn(count)]


def chooser(*words: int | str) -> random.Random:
    """Returns Python's generator of a stream that words name, for choosing among objects."""
    return random.Random(" ".join(map(str, words)))
