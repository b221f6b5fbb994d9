"""The parameters of the three domains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clouds_deploy.streets.dice import Tint

Range = tuple[float, float]


@dataclass(frozen=True)
class Palette:
    """Colours of things; every entry is a choice of ranges of hue, saturation and value."""

    facade: tuple[Tint, ...]
    roof: tuple[Tint, ...]
    wall: tuple[Tint, ...]
    metal: tuple[Tint, ...]
    vehicle: tuple[Tint, ...]
    cloth: tuple[Tint, ...]
    leaf: tuple[Tint, ...]
    grass: tuple[Tint, ...]
    road: tuple[Tint, ...]
    pavement: tuple[Tint, ...]


@dataclass(frozen=True)
class Domain:
    """Parameters of one domain: contents of its streets and appearance of its pictures.

    Attributes:
        code: Part of the seed, so that domains never share a scene.
        layouts: Weight of every street layout.
        weathers: Weight of every kind of weather.
        styles: Weight of every finishing style.
        vehicles: Chance that a scene holds at least one of a rarer vehicle class.
        traffic: Share of the free places in the lanes that are taken by cars, from/to.
        people: Number of people, from/to.
        plots: Weight of each kind of plot in a town (building, wall, fence, park).
        texture: Strength of surface texture in grey levels, from/to.
        noise: Standard deviation of sensor noise in grey levels, from/to.
        blur: Blur radius in pixels of a picture 128 high, from/to.
        vignette: Darkening of the corners, from/to (0..1).
        exposure: Gamma, from/to.
        cast: Strength of the colour cast, from/to (0..1).
        saturation: Multiplies the saturation of the finished picture, from/to.
        contrast: Multiplies its contrast, from/to.
        clutter: Chance of small dirt on surfaces (patches, stains, posters), 0..1.
        camera_height: Metres, from/to.
        palette: The colours of things.
    """

    code: int
    layouts: Mapping[str, float]
    weathers: Mapping[str, float]
    styles: Mapping[str, float]
    vehicles: Mapping[str, float]
    traffic: Range
    people: tuple[int, int]
    plots: Mapping[str, float]
    texture: Range
    noise: Range
    blur: Range
    vignette: Range
    exposure: Range
    cast: Range
    saturation: Range
    contrast: Range
    clutter: float
    camera_height: Range
    palette: Palette


_VIVID = Palette(
    facade=(
        (0.02, 0.13, 0.35, 0.6, 0.65, 0.9),
        (0.5, 0.65, 0.15, 0.35, 0.6, 0.85),
        (0.0, 1.0, 0.0, 0.1, 0.55, 0.9),
    ),
    roof=((0.0, 0.05, 0.5, 0.7, 0.4, 0.65), (0.55, 0.65, 0.1, 0.3, 0.3, 0.5)),
    wall=((0.03, 0.08, 0.4, 0.6, 0.45, 0.65), (0.1, 0.15, 0.1, 0.25, 0.55, 0.75)),
    metal=((0.55, 0.65, 0.0, 0.15, 0.25, 0.5),),
    vehicle=(
        (0.0, 1.0, 0.65, 0.95, 0.6, 0.95),
        (0.0, 1.0, 0.65, 0.95, 0.6, 0.95),
        (0.0, 1.0, 0.0, 0.08, 0.8, 0.97),
        (0.0, 1.0, 0.0, 0.1, 0.12, 0.3),
    ),
    cloth=((0.0, 1.0, 0.5, 0.9, 0.4, 0.95), (0.0, 1.0, 0.0, 0.2, 0.1, 0.95)),
    leaf=((0.24, 0.36, 0.55, 0.8, 0.35, 0.6),),
    grass=((0.2, 0.3, 0.5, 0.7, 0.5, 0.75),),
    road=((0.6, 0.7, 0.0, 0.06, 0.3, 0.42),),
    pavement=((0.06, 0.12, 0.03, 0.12, 0.6, 0.75),),
)

_ANY = Palette(
    facade=(
        (0.0, 1.0, 0.0, 0.25, 0.25, 0.95),
        (0.0, 0.15, 0.15, 0.7, 0.3, 0.9),
        (0.4, 0.7, 0.1, 0.5, 0.3, 0.9),
    ),
    roof=((0.0, 0.1, 0.2, 0.7, 0.2, 0.65), (0.0, 1.0, 0.0, 0.4, 0.15, 0.6)),
    wall=((0.0, 0.12, 0.1, 0.6, 0.25, 0.75), (0.0, 1.0, 0.0, 0.3, 0.3, 0.85)),
    metal=((0.0, 1.0, 0.0, 0.3, 0.12, 0.65),),
    vehicle=(
        (0.0, 1.0, 0.4, 0.95, 0.3, 0.95),
        (0.0, 1.0, 0.0, 0.15, 0.6, 0.97),
        (0.0, 1.0, 0.0, 0.3, 0.08, 0.4),
    ),
    cloth=((0.0, 1.0, 0.2, 0.9, 0.2, 0.95), (0.0, 1.0, 0.0, 0.25, 0.05, 0.95)),
    leaf=(
        (0.2, 0.4, 0.25, 0.8, 0.18, 0.6),
        (0.05, 0.16, 0.4, 0.8, 0.35, 0.75),
        (0.9, 1.03, 0.3, 0.6, 0.4, 0.8),
    ),
    grass=((0.14, 0.34, 0.25, 0.7, 0.25, 0.75), (0.08, 0.14, 0.2, 0.55, 0.35, 0.7)),
    road=((0.0, 1.0, 0.0, 0.15, 0.18, 0.6), (0.05, 0.1, 0.05, 0.25, 0.3, 0.5)),
    pavement=((0.0, 0.15, 0.0, 0.3, 0.35, 0.8), (0.5, 0.7, 0.0, 0.2, 0.3, 0.7)),
)

_MUTED = Palette(
    facade=(
        (0.05, 0.12, 0.08, 0.32, 0.3, 0.75),
        (0.0, 1.0, 0.0, 0.12, 0.22, 0.8),
        (0.0, 0.05, 0.2, 0.42, 0.28, 0.5),
    ),
    roof=((0.0, 0.06, 0.15, 0.4, 0.2, 0.42), (0.55, 0.65, 0.0, 0.12, 0.18, 0.4)),
    wall=((0.04, 0.12, 0.05, 0.3, 0.25, 0.62), (0.25, 0.4, 0.05, 0.2, 0.25, 0.5)),
    metal=((0.0, 1.0, 0.0, 0.15, 0.15, 0.5), (0.3, 0.45, 0.2, 0.4, 0.15, 0.35)),
    vehicle=(
        (0.0, 1.0, 0.0, 0.08, 0.08, 0.3),
        (0.0, 1.0, 0.0, 0.06, 0.4, 0.85),
        (0.55, 0.68, 0.2, 0.55, 0.2, 0.5),
        (0.97, 1.06, 0.3, 0.7, 0.25, 0.55),
    ),
    cloth=((0.0, 1.0, 0.0, 0.3, 0.06, 0.5), (0.0, 1.0, 0.1, 0.5, 0.2, 0.7)),
    leaf=((0.17, 0.33, 0.15, 0.5, 0.14, 0.42), (0.08, 0.14, 0.25, 0.5, 0.25, 0.5)),
    grass=((0.13, 0.28, 0.15, 0.45, 0.25, 0.5), (0.08, 0.12, 0.15, 0.35, 0.3, 0.5)),
    road=((0.05, 0.12, 0.0, 0.1, 0.25, 0.52), (0.55, 0.65, 0.0, 0.1, 0.22, 0.48)),
    pavement=((0.03, 0.12, 0.02, 0.2, 0.32, 0.62), (0.55, 0.65, 0.0, 0.08, 0.32, 0.6)),
)

TABLE: Mapping[str, Domain] = {
    "game": Domain(
        code=1,
        layouts={"avenue": 4.0, "narrow": 2.0, "junction": 3.0},
        weathers={"clear": 1.0},
        styles={"plain": 1.0},
        vehicles={"truck": 0.5, "bus": 0.45, "train": 0.36, "motorcycle": 0.5, "bicycle": 0.6},
        traffic=(0.15, 0.4),
        people=(2, 6),
        plots={"building": 5.0, "wall": 1.3, "fence": 1.3, "park": 1.0},
        texture=(0.0, 4.0),
        noise=(0.0, 0.0),
        blur=(0.0, 0.0),
        vignette=(0.0, 0.0),
        exposure=(0.85, 1.15),
        cast=(0.0, 0.0),
        saturation=(0.85, 1.2),
        contrast=(0.92, 1.08),
        clutter=0.1,
        camera_height=(1.6, 1.9),
        palette=_VIVID,
    ),
    "imagined": Domain(
        code=2,
        layouts={"avenue": 2.0, "narrow": 2.0, "junction": 2.0, "curve": 2.0, "country": 1.2, "square": 1.2},
        weathers={
            "clear": 3.0,
            "overcast": 1.5,
            "rain": 1.3,
            "fog": 1.2,
            "snow": 1.0,
            "dusk": 1.3,
            "night": 1.3,
        },
        styles={
            "plain": 3.0,
            "painterly": 1.5,
            "contrasty": 1.0,
            "desaturated": 1.5,
            "shifted": 1.5,
            "inked": 0.7,
        },
        vehicles={"truck": 0.5, "bus": 0.45, "train": 0.38, "motorcycle": 0.55, "bicycle": 0.65},
        traffic=(0.1, 0.7),
        people=(2, 10),
        plots={"building": 4.0, "wall": 1.5, "fence": 1.5, "park": 1.5},
        texture=(0.0, 16.0),
        noise=(0.0, 5.0),
        blur=(0.0, 0.8),
        vignette=(0.0, 0.3),
        exposure=(0.75, 1.3),
        cast=(0.0, 0.18),
        saturation=(0.6, 1.3),
        contrast=(0.8, 1.25),
        clutter=0.5,
        camera_height=(1.4, 2.3),
        palette=_ANY,
    ),
    "photo": Domain(
        code=3,
        layouts={"avenue": 2.5, "narrow": 2.0, "junction": 2.0, "curve": 1.5, "country": 0.6, "square": 0.8},
        weathers={"clear": 3.0, "overcast": 2.5, "rain": 1.3, "fog": 1.2, "dusk": 0.8, "night": 0.9},
        styles={"plain": 1.0},
        vehicles={"truck": 0.55, "bus": 0.5, "train": 0.4, "motorcycle": 0.6, "bicycle": 0.7},
        traffic=(0.35, 0.85),
        people=(4, 12),
        plots={"building": 5.0, "wall": 1.2, "fence": 1.2, "park": 1.3},
        texture=(7.0, 16.0),
        noise=(2.0, 5.5),
        blur=(0.35, 0.8),
        vignette=(0.1, 0.4),
        exposure=(0.6, 1.15),
        cast=(0.02, 0.12),
        saturation=(0.6, 0.95),
        contrast=(0.85, 1.15),
        clutter=0.8,
        camera_height=(1.3, 2.1),
        palette=_MUTED,
    ),
}
"""The three domains by name."""
