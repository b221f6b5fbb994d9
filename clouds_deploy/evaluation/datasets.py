"""The datasets of an evaluation: `--data LAYOUT@SPLIT:ROOT`, once for each domain."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clouds_deploy.config.evaluate import EvaluateOptions
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.jobs.units import Unit, find_units, is_spread
from clouds_deploy.labels import LabelSet

if TYPE_CHECKING:
    from clouds_deploy.config.recipe import Recipe
    from clouds_deploy.data.layouts import Reading
    from clouds_deploy.data.sources import Source

_SPEC = re.compile(r"(?P<layout>[A-Za-z][\w.-]+)(?:@(?P<split>[\w.-]+))?:(?P<root>.+)", re.DOTALL)


@dataclass(frozen=True)
class Domain:
    """A split of a dataset on disk, to evaluate on.

    Attributes:
        layout: Its layout's name.
        root: Its folder.
        split: Its split.
    """

    layout: str
    root: Path
    split: str

    def __str__(self) -> str:
        return f"{self.root} ({self.layout}, {self.split})"

    def source(self, images: int | None = None, reading: Reading | None = None) -> Source:
        """Opens it.

        Args:
            images: This many, evenly spaced; None is all.
            reading: How label files become classes; None means Cityscapes' 19.

        Raises:
            CloudsError: See `Layout.scan`.
        """
        from clouds_deploy.data.sources import LayoutSource, select

        whole = LayoutSource(self.layout, self.root, self.split, reading)
        return whole if images is None else select(whole, images)


def parse_domain(
    text: str | Path, *, layout: str | None = None, split: str = "val", usual: str | None = None
) -> Domain:
    """Parses a value of `--data`.

    Args:
        text: `LAYOUT:ROOT`, `LAYOUT@SPLIT:ROOT`, or a folder.
        layout: A folder's layout; None means what it looks like, and `usual` where it looks like several.
        split: Its split, where the text names none.
        usual: The layout that the model's recipe evaluates on.

    Raises:
        CloudsError: The layout is unknown, or not recognised.
    """
    from clouds_deploy.data.layouts import LAYOUTS, claimants, detect, get_layout

    found = _SPEC.fullmatch(str(text))
    if found and not Path(text).exists():
        if found["layout"] not in LAYOUTS:
            hint = nearest(found["layout"], LAYOUTS)
            raise CloudsError(
                f"--data {text}: there is no layout `{found['layout']}`, nor such a folder", hint
            )
        return Domain(found["layout"], Path(found["root"]), found["split"] or split)
    root = Path(text)
    if layout is not None:
        return Domain(get_layout(layout).name, root, split)
    if usual in LAYOUTS and root.is_dir() and usual in [one.name for one in claimants(root)]:
        return Domain(usual, root, split)
    return Domain(detect(root).name, root, split)


def name_domains(domains: Sequence[Domain]) -> dict[str, Domain]:
    """Names each domain by the shortest unique one of layout, layout@split, and both with its folder.

    Raises:
        CloudsError: One was given twice.
    """
    named = {}
    layouts = Counter(domain.layout for domain in domains)
    splits = Counter((domain.layout, domain.split) for domain in domains)
    for domain in domains:
        name = domain.layout
        if layouts[domain.layout] > 1:
            name = f"{domain.layout}@{domain.split}"
            if splits[domain.layout, domain.split] > 1:
                name = f"{name}:{domain.root}"
        if name in named:
            raise CloudsError(f"--data {domain} is given twice", "name each dataset once")
        named[name] = domain
    return named


def chosen_data(recipe: Recipe, options: EvaluateOptions) -> dict[str, Source | list[Unit]]:
    """Opens everything to evaluate on, datasets and shards, by its name in the results.

    Args:
        recipe: The model's.
        options: `data`, `layout`, `split`, `domain` and `images`.

    Raises:
        CloudsError: Something is not available.
    """
    given, images = options.given(), options.images
    tars = [one for one in given if is_spread([one], "")]
    if len(given) < 2 and not tars:
        source, what = chosen_source(recipe, options)
        return {what: source}
    if tars and images is not None:
        raise CloudsError("--images chooses from a dataset, not from shards", f"leave it out for {tars[0]}")
    domains = name_domains([_parsed(one, recipe, options) for one in given if one not in tars])
    found: dict[str, Source | list[Unit]] = {
        name: domain.source(images, comparison(recipe, options, domain.layout).reading)
        for name, domain in domains.items()
    }
    return found | {str(one): _shards(one) for one in tars}


def _parsed(text: str | Path, recipe: Recipe, options: EvaluateOptions) -> Domain:
    usual = recipe.data.val_layout or recipe.data.layout
    return parse_domain(text, layout=options.layout, split=options.split, usual=usual)


@dataclass(frozen=True)
class Comparison:
    """The label set that predictions and labels are compared in, and how both come into it.

    Attributes:
        classes: The label set.
        reading: How label files come into it.
        table: (256,) uint8 from the model's train ids to the set's; a class of the model that has no
            counterpart becomes the set's number of classes, which is right nowhere. None where the set is the
            model's.
        unmatched: Names of these classes.
    """

    classes: LabelSet
    reading: Reading
    table: npt.NDArray[np.uint8] | None = None
    unmatched: tuple[str, ...] = ()


def comparison(recipe: Recipe, options: EvaluateOptions, layout: str | None = None) -> Comparison:
    """How a model is compared with the labels of a dataset.

    Args:
        recipe: The model's.
        options: `classes`, `read_as` and `map`.
        layout: The dataset's layout; None means that of the recipe's validation data.

    Raises:
        CloudsError: The map names a class that the label set to compare in does not have.
    """
    from clouds_deploy.data.layouts import Reading
    from clouds_deploy.data.layouts.folder import FOLDER

    data = recipe.data
    own, usual = data.classes, data.val_layout or data.layout
    classes = options.classes or own
    mapping = {**(data.map if classes == own else {}), **options.map}
    for name, target in mapping.items():
        if target is not None and target not in classes.names:
            raise CloudsError(
                f"--map takes `{name}` to `{target}`, which label set `{classes.name}` lacks",
                nearest(target, classes.names),
            )
    read_as = options.read_as
    if read_as is None and layout in (None, usual):
        read_as = data.val_read_as or data.read_as
        if read_as is None and usual == FOLDER.name and not options.given():
            read_as = own  # the run's own files
    reading = Reading(classes, read_as, mapping)
    if classes == own:
        return Comparison(classes, reading)
    counterpart = Reading(classes, mapping=mapping)
    unmatched = counterpart.ignored(own.names)
    table = counterpart.table(own.names)
    table[[own.index(name) for name in unmatched]] = classes.count
    return Comparison(classes, reading, table, unmatched)


def _shards(path: str | Path) -> list[Unit]:
    units = find_units([path], 1)
    if not all(unit.shard for unit in units):
        raise CloudsError(f"{path} holds no shards", "pack images and labels as key.jpg and key.labels.png")
    return units


def chosen_source(recipe: Recipe, options: EvaluateOptions) -> tuple[Source, str]:
    """Opens one dataset to evaluate on: the recipe's validation images, where nothing else is asked for.

    Args:
        recipe: The model's.
        options: See `chosen_data`; at most one `data`.

    Returns:
        The images, and their name in the results.

    Raises:
        CloudsError: They are not available.
    """
    from clouds_deploy.data.sources import STREETS, val_source

    section, layout, domain, images = recipe.data, options.layout, options.domain, options.images
    for data in options.given():
        if layout == STREETS or (domain is not None and layout is None):
            raise CloudsError(f"`streets` are synthetic, they have no folder {data}", "leave --data out")
        given = _parsed(data, recipe, options)
        return given.source(images, comparison(recipe, options, given.layout).reading), str(given)
    usual = section.val_layout or section.layout
    name = STREETS if domain is not None and layout is None else layout or usual
    root = None if name == STREETS else section.val_root or section.root
    reading = comparison(recipe, options, name).reading
    changes = {
        "classes": reading.classes,
        "val_read_as": reading.files,
        "read_as": None,
        "map": reading.mapping,
        "val_layout": name,
        "val_root": root,
        "val_split": options.split,
        "domain": domain or section.domain,
        "val_images": images or (section.val_images if layout is None else None),
    }
    chosen = recipe.model_copy(update={"data": section.model_copy(update=changes)})
    what = f"streets/{chosen.data.domain}" if name == STREETS else f"{root} ({name}, {options.split})"
    return val_source(chosen), what


def labelled_source(run: Path, data: str | Path | None, layout: str | None) -> Source:
    """Opens the labelled images that an export of a run is measured on; see `EvaluateOptions`."""
    from clouds_deploy.config.shipped import load_recipe
    from clouds_deploy.models.clouds.store import RECIPE

    options = EvaluateOptions(data=data, layout=layout)
    return chosen_source(load_recipe(str(run / RECIPE)), options)[0]
