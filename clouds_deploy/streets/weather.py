"""Light, haze and wetness of one scene."""

from __future__ import annotations

from dataclasses import dataclass

from clouds_deploy.streets.dice import Color, Dice, mix


@dataclass(frozen=True)
class Weather:
    """Effects of air and sun on colours.

    Attributes:
        name: Its kind.
        light: Factors on red, green and blue of everything that does not glow.
        sky: Colours at the zenith and at the horizon.
        haze: Optical density per metre.
        haze_color: Colour that distant things fade to.
        clouds: Share of the sky, 0..1.
        night: Brightness of lamps and windows, 0..1.
        wet: Strength of the ground's reflections, 0..1.
        snow: Cover of the ground and of roofs, 0..1.
        shadow: Darkness of cast shadows, 0..1.
        sun: Metres of shadow, to the right, per metre of height.
    """

    name: str
    light: Color
    sky: tuple[Color, Color]
    haze: float
    haze_color: Color
    clouds: float
    night: float
    wet: float
    snow: float
    shadow: float
    sun: float


def sample(name: str, dice: Dice, *, vivid: bool) -> Weather:
    """Random weather of a kind.

    Args:
        name: clear, overcast, rain, fog, snow, dusk or night.
        dice: Random numbers.
        vivid: Whether the sky is deep blue and shadows are missing (a game's flat daylight).

    Returns:
        The weather.
    """
    sun = dice.between(0.3, 1.4) * (1.0 if dice.chance(0.5) else -1.0)
    level = dice.roll()
    clouds = dice.roll()
    if name == "clear" and vivid:
        milky = 0.75 * max(0.0, 2.0 * clouds - 1.0)
        azure = (70.0 + 30.0 * level, 145.0 + 20.0 * level, 235.0)
        sky = (
            mix(azure, (205.0, 214.0, 222.0), milky),
            mix((165.0, 210.0, 245.0), (222.0, 226.0, 228.0), milky),
        )
        return Weather(name, (1.0, 1.0, 1.0), sky, 0.0012, sky[1], 0.25 * clouds, 0.0, 0.0, 0.0, 0.35, 0.0)
    if name == "clear":
        sky = ((75.0 + 60.0 * level, 125.0 + 50.0 * level, 190.0 + 30.0 * level), (190.0, 205.0, 218.0))
        warm = dice.between(0.88, 1.0)
        return Weather(
            name,
            (1.05, 1.0, warm),
            sky,
            0.003 + 0.004 * level,
            sky[1],
            0.5 * clouds,
            0.0,
            0.0,
            0.0,
            0.55,
            sun,
        )
    grey = 150.0 + 85.0 * level
    pale = (grey, grey * 1.01, grey * 1.04)
    if name == "overcast":
        light = 0.72 + 0.2 * level
        top = mix(pale, (120.0, 130.0, 145.0), 0.4)
        return Weather(
            name, (light, light, light * 1.03), (top, pale), 0.006, pale, clouds, 0.0, 0.0, 0.0, 0.2, 0.0
        )
    if name == "rain":
        light = 0.55 + 0.2 * level
        dim = mix(pale, (110.0, 118.0, 128.0), 0.45)
        top = mix(dim, (75.0, 82.0, 95.0), 0.5)
        wet = dice.between(0.5, 1.0)
        return Weather(
            name,
            (light * 0.96, light, light * 1.06),
            (top, dim),
            0.012,
            dim,
            clouds,
            0.15,
            wet,
            0.0,
            0.2,
            0.0,
        )
    if name == "fog":
        haze = dice.between(0.02, 0.05)
        return Weather(name, (0.85, 0.87, 0.88), (pale, pale), haze, pale, 0.0, 0.1, 0.2, 0.0, 0.12, 0.0)
    if name == "snow":
        white = mix(pale, (215.0, 220.0, 230.0), 0.6)
        cover = dice.between(0.45, 0.9)
        return Weather(
            name, (0.86, 0.9, 0.95), (white, white), 0.014, white, 0.0, 0.05, 0.1, cover, 0.15, 0.0
        )
    if name == "dusk":
        low = mix((240.0, 160.0, 100.0), (215.0, 120.0, 135.0), level)
        top = (75.0 + 30.0 * clouds, 85.0, 130.0)
        return Weather(
            name, (0.78, 0.6, 0.55), (top, low), 0.007, low, 0.6 * clouds, 0.45, 0.0, 0.0, 0.35, sun
        )
    dark = 0.36 + 0.2 * level
    blue = (22.0 + 20.0 * level, 27.0 + 22.0 * level, 50.0 + 30.0 * level)
    glow = mix(blue, (90.0, 75.0, 62.0), 0.25 + 0.3 * clouds)
    wet = dice.between(0.0, 0.6)
    return Weather(
        "night", (dark * 1.05, dark, dark * 1.1), (blue, glow), 0.006, glow, 0.0, 1.0, wet, 0.0, 0.2, 0.0
    )
