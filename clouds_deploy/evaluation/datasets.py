"""The datasets of an evaluation: `--data LAYOUT@SPLIT:ROOT`, once for each domain."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clouds_deploy.config.evaluate import EvaluateOptions
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.jobs.units import Unit, find_units, is_spread

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
        name: domain.source(images, _reading(recipe)) for name, domain in domains.items()
    }
    return found | {str(one): _shards(one) for one in tars}


def _parsed(text: str | Path, recipe: Recipe, options: EvaluateOptions) -> Domain:
    usual = recipe.data.val_layout or recipe.data.layout
    return parse_domain(text, layout=options.layout, split=options.split, usual=usual)


def _reading(recipe: Recipe) -> Reading:
    """How the label files of a dataset that is named become a model's classes."""
    from clouds_deploy.data.layouts import Reading

    data = recipe.data
    return Reading(data.classes, data.val_read_as or data.read_as, data.map)


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
        return given.source(images, _reading(recipe)), str(given)
    usual = section.val_layout or section.layout
    name = STREETS if domain is not None and layout is None else layout or usual
    root = None if name == STREETS else section.val_root or section.root
    changes = {
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
