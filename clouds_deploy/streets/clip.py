"""Video of a synthetic street with exact truth: a function of domain, seed, clip and frame.

The street of a clip is made like that of a still image, recorded as plane faces in metres, and drawn for each
frame into one image of face numbers, four times as fine as the frame. Label, instance, depth and flow follow
from the face under a pixel's centre, its plane, and the known movement of camera and things: nothing is
estimated. Texture is a function of the place on a surface, so it moves with it. See docs/guides/video.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clouds_deploy import seeds
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.streets import appearance, ground, layout, nature, traffic, weather
from clouds_deploy.streets.buildings import Plot
from clouds_deploy.streets.canvas import Canvas
from clouds_deploy.streets.dice import Color, Dice
from clouds_deploy.streets.domains import TABLE
from clouds_deploy.streets.furniture import Post
from clouds_deploy.streets.geometry import Camera
from clouds_deploy.streets.motion import Mover, Pose, Traffic, drift
from clouds_deploy.streets.people import Cycle, Person
from clouds_deploy.streets.recording import (
    CLOUDS,
    SKYLINE,
    Face,
    Lamp,
    RecordingCamera,
    RecordingCanvas,
    pack,
)
from clouds_deploy.streets.surface import Texture
from clouds_deploy.streets.vehicles import Vehicle

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

_FINE = 4
"""Face numbers per pixel and direction."""
_NEAREST = 0.25
"""Metres; what is nearer to the camera is cut off."""
_ROWS = 512
"""Height of the picture that surfaces are recorded for: decides what is too small to be there at all."""
_SMALL = 0.4
"""Pixels; a detail that is smaller in both directions is left out."""
_TOLERANCE = 0.02
"""Relative difference of distances at which a point counts as hidden."""
_STREET, _CHANGES, _FALLING = 1, 2, 3


@dataclass(frozen=True)
class View:
    """The camera of one frame: no distortion, no pitch, no roll.

    A place (x, y, z) in metres (right, up, ahead of where the clip began) is seen at
    `column = center + focal * a / c` and `row = horizon + focal * (height - y) / c`, where
    `a = (x - pose.x) cos(h) - (z - pose.z) sin(h)`, `c = (x - pose.x) sin(h) + (z - pose.z) cos(h)` and
    `h` is `pose.heading`. The middle of the top left pixel has column and row 0.5.

    Attributes:
        focal: Focal length in pixels.
        center: Column of the principal point.
        horizon: Row of the principal point.
        height: Above the ground, in metres.
        pose: Place on the ground and direction.
    """

    focal: float
    center: float
    horizon: float
    height: float
    pose: Pose


@dataclass(frozen=True)
class Frame:
    """One frame of a clip with its truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        surface: (H, W, 3) uint8 RGB of the surfaces alone, with their texture, light and haze, under a
            low-pass filter so that it can be resampled: without cast shadows, wet reflections, rain, snow,
            halos, style, lens and sensor noise, which do not move with what they lie on.
        labels: (H, W) uint8 train ids 0..18.
        instances: (H, W) int32; 0 where there is no instance, otherwise a number that a person, rider or
            vehicle keeps through the clip.
        depth: (H, W) float32 metres along the camera's axis; infinite in the sky.
        flow: (H, W, 2) float32 pixels to the right and down, to the next frame.
        occluded: (H, W) bool: the surface at the pixel isn't seen in the next frame: hidden, out of view,
            or within a pixel of the border to something that moves differently, where no flow is right.
        view: The camera.
    """

    image: Pixels
    surface: Pixels
    labels: Pixels
    instances: Integers
    depth: Floats
    flow: Floats
    occluded: npt.NDArray[np.bool_]
    view: View


@dataclass(frozen=True)
class _Object:
    """Something that moves as one: the faces that it was recorded as, or a vehicle that is painted anew.

    Attributes:
        depth: Distance in metres by which it is sorted in frame 0.
        mover: How it moves; None stands still.
        faces: First and last + 1 of its recorded faces; None is painted anew in each frame.
        dice: What it is painted with.
        instance: The instance id before its first.
    """

    depth: float
    mover: Mover | None
    faces: tuple[int, int] | None
    dice: Dice
    instance: int


class _Table:
    """Facts of faces, each an array with one row per face."""

    def __init__(self, faces: list[Face], owner: npt.NDArray[np.int32]) -> None:
        self.places, self.starts = pack(faces)
        self.color = np.array([face.color for face in faces], np.float32).reshape(-1, 3)
        self.glow = np.array([face.glow for face in faces], np.bool_)
        self.code = np.array([face.code for face in faces], np.int32)
        self.air = np.array([face.air for face in faces], np.float32)
        self.detail = np.array([face.detail for face in faces], np.bool_)
        self.owner = owner

    def joined(self, other: _Table) -> _Table:
        """This table with the rows of another after its own."""
        made = object.__new__(_Table)
        for name, own in vars(self).items():
            more = getattr(other, name)
            if name == "starts":
                own, more = own[:-1], more + own[-1]
            setattr(made, name, np.concatenate([own, more]))
        return made


@dataclass(frozen=True)
class _Geometry:
    """A frame before it is shaded: see `Frame`; `objects` (H, W) int32, `inverse` 1 / depth, `ahead` the
    depth of the same points in the next frame, `ids` the numbers of faces, finer.
    """

    number: int
    view: View
    table: _Table
    normals: Floats
    ids: Integers
    faces: Integers
    objects: Integers
    codes: Integers
    inverse: Floats
    points: Floats
    flow: Floats
    ahead: Floats
    border: npt.NDArray[np.bool_]
    lamps: list[Lamp]


class Clip:
    """A clip of a synthetic street; frames can be had in any order, and there is no last one.

    Args:
        domain: One of `DOMAINS`.
        seed: Of the data set; not negative.
        index: Of the clip in it; not negative.
        height: Rows.
        width: Columns; best twice the rows.

    Raises:
        CloudsError: The domain is unknown.
    """

    def __init__(self, domain: str, seed: int, index: int, height: int = 128, width: int = 256) -> None:
        if domain not in TABLE:
            raise CloudsError(f"unknown street domain `{domain}`", nearest(domain, tuple(TABLE)))
        self.domain, self.seed, self.index = domain, seed, index
        self.height, self.width = height, width
        self._settings = settings = TABLE[domain]
        chance, grain = seeds.generators(2, seed, index, settings.code, _STREET)
        dice = Dice.seeded(chance)
        self._texture = Texture(grain)
        self._weather = weather.sample(dice.weighted(settings.weathers), dice, vivid=domain == "game")
        tram = dice.chance(settings.vehicles["train"])
        self._street = layout.sample(dice.weighted(settings.layouts), dice.fork(), tram=tram)
        self._camera = Camera(
            focal=height * dice.between(1.1, 1.35),
            center=width * dice.between(0.44, 0.56),
            horizon=height * dice.between(0.4, 0.48),
            height=dice.between(*settings.camera_height),
            bend=0.0,
        )
        self._phase = dice.roll()
        self._strength = dice.between(*settings.texture)
        self._look = dice.fork()
        self._objects: list[_Object] = []
        self._lamps: list[tuple[Lamp, int]] = []
        self._table = self._record(dice, tram=tram)
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) + np.float32(0.5)
        camera = self._camera
        self._rays = np.stack(
            [
                (columns - camera.center) / camera.focal,
                (camera.horizon - rows) / camera.focal,
                np.ones_like(rows),
            ],
            -1,
        ).astype(np.float32)
        self._known: dict[int, _Geometry] = {}

    def view(self, number: int) -> View:
        """The camera of a frame."""
        camera = self._camera
        pose = self._traffic.camera(number)
        return View(camera.focal, camera.center, camera.horizon, camera.height, pose)

    def frames(self, count: int, start: int = 0) -> Iterator[Frame]:
        """Renders frames one after the other, each once.

        Args:
            count: How many.
            start: Number of the first.
        """
        for number in range(start, start + count):
            yield self.frame(number)

    def frame(self, number: int) -> Frame:
        """Renders a frame; the same number gives the same bytes, whatever was rendered before.

        Args:
            number: 0 and up, 17 for a second.
        """
        now, then = self._geometry(number), self._geometry(number + 1)
        self._known = {number: now, number + 1: then}
        codes = now.codes
        labels = (codes & 31).astype(np.uint8)
        air = drift(self._weather, number, self._phase)
        canvas = Canvas(self.height, self.width, self._camera, air)
        surface, shadowed = self._shade(now, canvas, labels)
        canvas.codes = Image.fromarray(codes)
        canvas.lamps = self._visible_lamps(now) if air.night > 0.0 else []
        noise, falling = (
            seeds.generator(self.seed, self.index, self._settings.code, purpose, number)
            for purpose in (_CHANGES, _FALLING)
        )
        image = appearance.photograph(
            shadowed,
            labels,
            canvas,
            self._settings,
            self._look.copy(),
            noise,
            Dice.seeded(falling) if air.name in ("rain", "snow") else None,
        )
        with np.errstate(divide="ignore"):
            depth = np.where(now.inverse > 0.0, 1.0 / now.inverse, np.inf).astype(np.float32)
        shown = np.clip(np.rint(surface), 0.0, 255.0).astype(np.uint8)
        return Frame(image, shown, labels, codes >> 5, depth, now.flow, _occluded(now, then), now.view)

    # What is in the street

    def _recording(self, *, columns: float = 1e6, center: float | None = None, backdrop: float | None = None,
                   bend: float = 0.0, instance: int = 0) -> RecordingCanvas:  # fmt: skip
        scale = _ROWS / self.height
        camera = self._camera
        seen = RecordingCamera(
            camera.focal * scale,
            columns / 2 if center is None else center,
            camera.horizon * scale,
            camera.height,
            bend,
        )
        return RecordingCanvas(_ROWS, int(columns), seen, self._weather, instance, backdrop)

    def _record(self, dice: Dice, *, tram: bool) -> _Table:
        """Records everything that does not change its shape; fills `_objects` and `_lamps`."""
        street, settings, bend = self._street, self._settings, self._street.bend
        palette, faces, owner = settings.palette, list[Face](), list[int]()

        def keep(canvas: RecordingCanvas) -> tuple[int, int]:
            first = len(faces)
            faces.extend(canvas.faces)
            number = len(self._objects)
            owner.extend([number] * len(canvas.faces))
            self._lamps.extend((lamp, number) for lamp in canvas.lights)
            return first, len(faces)

        clouds, skyline, soil = dice.fork(), dice.fork(), dice.fork()
        wide = self.width * _ROWS / self.height
        self._sky = Face((), (0.0, 0.0, 0.0), False, 10, 0.0, False)
        faces.append(self._sky)
        owner.append(0)
        for part in (-1, 0, 1):  # the camera turns in a bend
            middle = self._camera.center * _ROWS / self.height - part * wide
            sky = self._recording(columns=wide, center=middle, backdrop=CLOUDS)
            ground.draw_clouds(sky, clouds)
            far = self._recording(columns=wide, center=middle, backdrop=SKYLINE)
            nature.draw_backdrop(far, palette, skyline.copy(), country=street.country)
            keep(sky)
            keep(far)
        land = self._recording(bend=bend)
        ground.paint_ground(land, street, palette, soil, settings.clutter)
        first, last = keep(land)
        self._base = (1, last)
        self._land = (first, last)
        self._objects.append(_Object(math.inf, None, (1, last), dice, 0))
        things = traffic.populate(street, settings, dice.fork(), tram=tram)
        self._traffic = Traffic(street, things, dice.fork())
        plots = traffic.plots(street, settings, dice.fork(), self._weather.sun)
        inside, instances = dice.fork(), 0
        for thing in [*things, *plots]:
            own = inside.fork()
            mover = None if isinstance(thing, (Plot, Post)) else self._traffic.mover(thing, own)
            mover = mover if isinstance(thing, (Vehicle, Cycle, Person)) else None
            canvas = self._recording(bend=bend, instance=instances)
            span = None
            if not isinstance(thing, Vehicle):
                thing.draw(canvas, palette, own.copy())
                span = keep(canvas)
            self._objects.append(_Object(thing.depth, mover, span, own, instances))
            instances += 2
        self._things = things
        return _Table(faces, np.array(owner, np.int32))

    # Where it is in a frame

    def _geometry(self, number: int) -> _Geometry:
        if number in self._known:
            return self._known[number]
        view = self.view(number)
        pose = view.pose
        sine, cosine = math.sin(pose.heading), math.cos(pose.heading)
        moved = np.zeros((len(self._objects), 2), np.float32)
        for index, one in enumerate(self._objects):
            if one.mover is not None and one.faces is not None:
                now, before = one.mover.pose(number), one.mover.pose(0)
                moved[index] = now.x - before.x, now.z - before.z
        table = self._table
        lengths = np.diff(table.starts)
        shift = np.repeat(moved[table.owner], lengths, 0) - np.array([pose.x, pose.z], np.float32)
        x, z = table.places[:, 0] + shift[:, 0], table.places[:, 2] + shift[:, 1]
        seen = np.stack([x * cosine - z * sine, table.places[:, 1], x * sine + z * cosine], -1)
        whole, spans, lamps = self._with_vehicles(number, view, table, seen.astype(np.float32))
        order = self._order(number, spans)
        camera_places = whole.places.copy()
        camera_places[:, 1] -= view.height
        ids = self._rasterise(whole, camera_places, order)
        normals, offsets = _planes(camera_places, whole.starts)
        half = _FINE // 2
        faces = np.ascontiguousarray(ids[half::_FINE, half::_FINE])
        towards = np.einsum("hwi,hwi->hw", normals[faces], self._rays)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = towards / offsets[faces]
        middle = _middles(camera_places, whole.starts)
        bad = ~(inverse > 1e-5) | (inverse > 1.0 / _NEAREST)
        inverse = np.where(bad, 1.0 / middle[faces], inverse).astype(np.float32)
        inverse[faces == 0] = 0.0
        points = (self._rays / np.maximum(inverse, 1e-6)[..., None]).astype(np.float32)
        objects, codes = whole.owner[faces], whole.code[faces]
        flow, ahead = self._flow(number, view, points, objects)
        fine = whole.owner[ids[_FINE // 4 :: _FINE // 2, _FINE // 4 :: _FINE // 2]].reshape(
            self.height, 2, self.width, 2
        )
        mixed = fine.max((1, 3)) != fine.min((1, 3))
        border = _spread(mixed) & (_range(flow) > 0.25)
        return _Geometry(
            number,
            view,
            whole,
            normals,
            ids,
            faces,
            objects,
            codes,
            inverse,
            points,
            flow,
            ahead,
            border,
            lamps,
        )

    def _with_vehicles(
        self, number: int, view: View, table: _Table, seen: Floats
    ) -> tuple[_Table, dict[int, tuple[int, int]], list[Lamp]]:
        """The recorded faces as the camera sees them, and those of vehicles, painted for it."""
        faces: list[Face] = []
        owner: list[int] = []
        spans: dict[int, tuple[int, int]] = {}
        lamps: list[Lamp] = []
        first = len(table.code)
        scale = _ROWS / self.height
        for index, one in enumerate(self._objects):
            if one.faces is not None or one.mover is None or not isinstance(one.mover.thing, Vehicle):
                continue
            own, pose = _seen_from(view.pose, one.mover.pose(number)), one.mover.thing
            if own.z < -pose.length or own.z > 130.0:
                continue
            canvas = self._recording(
                columns=self.width * scale, center=self._camera.center * scale, instance=one.instance
            )
            car = replace(pose, x=own.x, z=own.z, heading=own.heading)
            car.draw(canvas, self._settings.palette, one.dice.copy())
            start = first + len(faces)
            faces.extend(canvas.faces)
            owner.extend([index] * len(canvas.faces))
            lamps.extend(canvas.lights)
            spans[index] = (start, first + len(faces))
        whole = table.joined(_Table(faces, np.array(owner, np.int32))) if faces else table.joined(table)
        if not faces:
            whole = object.__new__(_Table)
            whole.__dict__.update(vars(table))
            whole.places = seen
        else:
            whole.places[: len(seen)] = seen
        return whole, spans, lamps

    def _order(self, number: int, spans: dict[int, tuple[int, int]]) -> list[tuple[int, int]]:
        """Runs of faces, far ones first."""
        keyed = []
        for index, one in enumerate(self._objects[1:], 1):
            span = one.faces or spans.get(index)
            if span is None:
                continue
            depth = one.depth
            if one.mover is not None:
                depth += one.mover.pose(number).z - one.mover.pose(0).z
            keyed.append((-depth, index, span))
        return [self._base, *(span for _, _, span in sorted(keyed))]

    def _rasterise(self, table: _Table, places: Floats, order: list[tuple[int, int]]) -> Integers:
        """Draws the numbers of faces, (4 H, 4 W) int32."""
        camera, starts = self._camera, table.starts[:-1]
        depth = np.maximum(places[:, 2], _NEAREST)
        scale = _FINE * camera.focal / depth
        columns = _FINE * camera.center + places[:, 0] * scale - 0.5
        rows = _FINE * camera.horizon - places[:, 1] * scale - 0.5
        first = starts[1:]  # face 0, the sky, has no corners
        left, right = np.minimum.reduceat(columns, first), np.maximum.reduceat(columns, first)
        top, low = np.minimum.reduceat(rows, first), np.maximum.reduceat(rows, first)
        near, far = np.minimum.reduceat(places[:, 2], first), np.maximum.reduceat(places[:, 2], first)
        drawn = (far > _NEAREST) & (right >= 0.0) & (left < _FINE * self.width)
        drawn &= (low >= 0.0) & (top < _FINE * self.height)
        small = np.maximum(right - left, low - top) < _SMALL * _FINE
        thin = np.minimum(right - left, low - top) < 0.15 * _FINE
        drawn &= ~(table.detail[1:] & (small | thin)) & ~((right - left < 1.0) & (low - top < 1.0))
        cut = near < _NEAREST
        flat = np.rint(np.stack([columns, rows], -1)).astype(np.int64).ravel().tolist()
        bounds = (2 * table.starts).tolist()
        image = Image.new("I", (_FINE * self.width, _FINE * self.height))
        polygon = ImageDraw.Draw(image).polygon
        drawn_list, cut_list = drawn.tolist(), cut.tolist()
        for begin, end in order:
            for face in range(begin, end):
                if not drawn_list[face - 1]:
                    continue
                if not cut_list[face - 1]:
                    polygon(flat[bounds[face] : bounds[face + 1]], face)
                    continue
                kept = _clipped(places[table.starts[face] : table.starts[face + 1]])
                if len(kept) > 2:
                    across = _FINE * (camera.center + camera.focal * kept[:, 0] / kept[:, 2]) - 0.5
                    down = _FINE * (camera.horizon - camera.focal * kept[:, 1] / kept[:, 2]) - 0.5
                    polygon(np.rint(np.stack([across, down], -1)).astype(np.int64).ravel().tolist(), face)
        return np.asarray(image, np.int32)

    def _flow(self, number: int, view: View, points: Floats, objects: Integers) -> tuple[Floats, Floats]:
        """How far points move until the next frame, (H, W, 2) pixels, and their depth there, (H, W)."""
        after = self.view(number + 1)
        table = np.empty((len(self._objects), 4), np.float64)
        for index, one in enumerate(self._objects):
            begin = end = None
            if one.mover is not None:
                begin, end = one.mover.pose(number), one.mover.pose(number + 1)
            table[index] = _step(view.pose, after.pose, begin, end)
        cosine, sine, x, z = np.moveaxis(table.astype(np.float32)[objects], -1, 0)
        across = points[..., 0] * cosine - points[..., 2] * sine + x
        ahead = points[..., 0] * sine + points[..., 2] * cosine + z
        ahead = np.maximum(ahead, 0.05)
        camera = self._camera
        columns = camera.focal * (across / ahead - self._rays[..., 0])
        rows = camera.focal * (self._rays[..., 1] - points[..., 1] / ahead)
        return np.stack([columns, rows], -1).astype(np.float32), ahead.astype(np.float32)

    # What it looks like

    def _shade(self, now: _Geometry, canvas: Canvas, labels: Pixels) -> tuple[Floats, Floats]:
        """Colours under light and haze, (H, W, 3) grey levels: see `Frame.surface`, and with shadows."""
        air, table = canvas.weather, now.table
        lit = table.color * np.where(table.glow[:, None], np.float32(1.0), np.asarray(air.light, np.float32))
        paint = np.zeros((len(lit), 4), np.uint8)
        paint[:, :3] = np.clip(lit, 0.0, 255.0)
        paint[0, 3] = 255
        inks: npt.NDArray[np.uint32] = paint.view(np.uint32).ravel()[now.ids]
        fine = Image.frombuffer("RGBX", (inks.shape[1], inks.shape[0]), inks.tobytes(), "raw", "RGBX", 0, 1)
        mean = np.asarray(fine.reduce(_FINE), np.float32)
        if self._strength > 0.5:
            rough = appearance.roughness(self._strength)[labels]
            mean = mean + (rough * self._grain(now))[..., None] * np.array([1, 1, 1, 0], np.float32)
        distance = table.air[now.faces]
        own = np.isnan(distance)
        distance[own] = 1.0 / np.maximum(now.inverse[own], 1e-4)
        clear = np.exp(-np.float32(air.haze) * distance)[..., None]
        fog = np.asarray(air.haze_color, np.float32) * (1.0 - clear)
        sky = ground.sky_gradient(canvas).astype(np.float32) / np.float32(255.0)

        def seen(color: Floats, light: Floats | float = 1.0) -> Floats:
            found = (color[..., :3] * light + color[..., 3:] * sky) * clear + fog
            return np.asarray(found, np.float32)

        on_ground = (now.faces >= self._land[0]) & (now.faces < self._land[1])
        light = np.where(on_ground, self._shadow(now), np.float32(1.0))[..., None]
        return seen(_soft(_soft(mean).transpose(1, 0, 2)).transpose(1, 0, 2)), seen(mean, light)

    def _grain(self, now: _Geometry) -> Floats:
        """The texture's value -1..1 at the pixels' places on their surfaces."""
        view = now.view
        turn = np.zeros((len(self._objects), 4), np.float64)
        for index, one in enumerate(self._objects):
            turn[index] = _to_own(view.pose, one, now.number)
        cosine, sine, x, z = np.moveaxis(turn.astype(np.float32)[now.objects], -1, 0)
        points = now.points
        own = np.stack(
            [
                points[..., 0] * cosine - points[..., 2] * sine + x,
                points[..., 1] + np.float32(view.height),
                points[..., 0] * sine + points[..., 2] * cosine + z,
            ],
            -1,
        )
        face_turn = turn.astype(np.float32)[now.table.owner]
        normals = now.normals
        across = normals[:, 0] * face_turn[:, 0] - normals[:, 2] * face_turn[:, 1]
        ahead = normals[:, 0] * face_turn[:, 1] + normals[:, 2] * face_turn[:, 0]
        axes = np.abs(np.stack([across, normals[:, 1], ahead], -1)).argmax(-1)
        slant = np.abs(np.einsum("hwi,hwi->hw", normals[now.faces], self._rays))
        slant /= np.linalg.norm(self._rays, axis=-1)
        size = 1.0 / (np.maximum(now.inverse, 1e-4) * self._camera.focal * np.maximum(slant, 0.03))
        values = self._texture(own, axes[now.faces], size * np.float32(self.height / 128.0))
        values[now.inverse < 1.0 / 400.0] = 0.0
        return values

    def _shadow(self, now: _Geometry) -> Floats:
        """Light that reaches the ground, 0..1."""
        air, camera = self._weather, self._camera
        factor = 2
        mask = Image.new("L", (factor * self.width, factor * self.height), 255)
        draw = ImageDraw.Draw(mask)
        under, beside = int(255 * 0.45), int(255 * (1.0 - air.shadow))
        pose = now.view.pose
        sine, cosine = math.sin(pose.heading), math.cos(pose.heading)
        bend = self._street.bend

        def quad(left: float, right: float, near: float, far: float) -> list[tuple[float, float]]:
            spots = []
            for x, z in ((left, near), (right, near), (right, far), (left, far)):
                dx, dz = x + bend * z * z - pose.x, z - pose.z
                point = camera.point(dx * cosine - dz * sine, 0.0, max(dx * sine + dz * cosine, 1.0))
                spots.append((factor * point[0], factor * point[1]))
            return spots

        feet = []
        for one, thing in zip(self._objects[1:], self._things, strict=False):
            if isinstance(thing, (Post, Plot)):
                continue
            left, right, near, far, high = thing.footprint
            if one.mover is not None:
                dx, dz = one.mover.across(now.number), one.mover.ahead(now.number)
                left, right, near, far = left + dx, right + dx, near + dz, far + dz
            if far - pose.z < 2.0:
                continue
            if air.sun and air.shadow > 0.25:
                reach = air.sun * high
                a, b = (left + reach, right) if reach < 0.0 else (left, right + reach)
                draw.polygon(quad(a, b, near, far), beside)
            if one.mover is not None:
                feet.append(quad(left, right, near, far))
        for foot in feet:
            draw.polygon(foot, under)
        return np.asarray(np.asarray(mask.reduce(factor)) / 255.0, np.float32)

    def _visible_lamps(self, now: _Geometry) -> list[tuple[float, float, float, Color, int]]:
        """The lamps in a frame: column, row, radius, colour and code, as a canvas keeps them."""
        pose, found = now.view.pose, []
        for lamp, index in self._lamps:
            x, y, z = lamp.place
            mover = self._objects[index].mover
            if mover is not None:
                here, begin = mover.pose(now.number), mover.pose(0)
                x, z = x + here.x - begin.x, z + here.z - begin.z
            own = _seen_from(pose, Pose(x, z, 0.0))
            found.append((own.x, y, own.z, lamp))
        found += [(*lamp.place, lamp) for lamp in now.lamps]
        camera = self._camera
        return [
            (*camera.point(x, y, z), lamp.radius * camera.scale(z), lamp.color, lamp.code)
            for x, y, z, lamp in found
            if z > 1.0
        ]


def _seen_from(eye: Pose, thing: Pose) -> Pose:
    """A pose in the coordinates of another."""
    sine, cosine = math.sin(eye.heading), math.cos(eye.heading)
    x, z = thing.x - eye.x, thing.z - eye.z
    return Pose(x * cosine - z * sine, x * sine + z * cosine, thing.heading - eye.heading)


def _step(eye: Pose, after: Pose, begin: Pose | None, end: Pose | None) -> tuple[float, float, float, float]:
    """Cosine, sine and shift that take a point from the camera now to the camera in the next frame.

    Args:
        eye: The camera's pose.
        after: Its pose in the next frame.
        begin: The thing's pose; None stands still.
        end: Its pose in the next frame.
    """
    turn = 0.0 if begin is None or end is None else end.heading - begin.heading
    angle = eye.heading + turn - after.heading
    x, z = eye.x, eye.z
    if begin is not None and end is not None:
        x, z = _rotated(x - begin.x, z - begin.z, -turn)
        x, z = x + end.x, z + end.z
    x, z = _rotated(x - after.x, z - after.z, after.heading)
    return math.cos(-angle), math.sin(-angle), x, z


def _rotated(x: float, z: float, angle: float) -> tuple[float, float]:
    sine, cosine = math.sin(angle), math.cos(angle)
    return x * cosine - z * sine, x * sine + z * cosine


def _to_own(eye: Pose, one: _Object, number: int) -> tuple[float, float, float, float]:
    """Cosine, sine and shift that take a point from the camera to the coordinates of an object."""
    if one.mover is None:
        return math.cos(-eye.heading), math.sin(-eye.heading), eye.x, eye.z
    pose = one.mover.pose(number)
    if one.faces is not None:
        return math.cos(-eye.heading), math.sin(-eye.heading), eye.x - pose.x, eye.z - pose.z
    angle = pose.heading - eye.heading
    x, z = _rotated(eye.x - pose.x, eye.z - pose.z, pose.heading)
    return math.cos(angle), math.sin(angle), x, z


def _soft(pixels: Floats) -> Floats:
    """A low-pass filter down the columns: weights 1, 2, 1."""
    kept = 2.0 * pixels
    kept[1:] += pixels[:-1]
    kept[:-1] += pixels[1:]
    kept[0] += pixels[0]
    kept[-1] += pixels[-1]
    return np.asarray(kept * np.float32(0.25), np.float32)


def _planes(places: Floats, starts: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Planes of polygons: unit normals (F, 3) and the offsets n x = d; the first face, the sky, has none."""
    following = np.arange(1, len(places) + 1)
    following[starts[2:] - 1] = starts[1:-1]
    first = starts[1:-1]
    lengths = np.diff(starts)[1:, None]
    middles = np.add.reduceat(places, first, 0) / lengths
    local = places - np.repeat(middles, lengths[:, 0], 0)
    crosses = np.cross(local, local[following])
    normals = np.zeros((len(starts) - 1, 3), np.float32)
    normals[1:] = np.add.reduceat(crosses, first, 0)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    offsets = np.zeros(len(normals), np.float32)
    offsets[1:] = (normals[1:] * middles).sum(1)
    return normals, offsets


def _middles(places: Floats, starts: npt.NDArray[np.int64]) -> Floats:
    """Mean distances of polygons, (F,) metres: for those that are seen from the edge."""
    depth = np.ones(len(starts) - 1, np.float32)
    depth[1:] = np.add.reduceat(np.maximum(places[:, 2], _NEAREST), starts[1:-1]) / np.diff(starts)[1:]
    return depth


def _clipped(places: Floats) -> Floats:
    """A polygon without what is behind the camera."""
    kept = []
    for a, b in zip(places, np.roll(places, -1, 0), strict=True):
        if a[2] >= _NEAREST:
            kept.append(a)
        if (a[2] >= _NEAREST) != (b[2] >= _NEAREST):
            kept.append(a + (b - a) * ((_NEAREST - a[2]) / (b[2] - a[2])))
    return np.array(kept, np.float32).reshape(-1, 3)


def _spread(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """A mask grown by a pixel to all sides."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    wide = grown.copy()
    wide[:, 1:] |= grown[:, :-1]
    wide[:, :-1] |= grown[:, 1:]
    return np.asarray(wide, np.bool_)


def _range(flow: Floats) -> Floats:
    """Largest minus smallest flow among a pixel and those around it, of the direction where it is more."""
    largest, smallest = flow.copy(), flow.copy()
    for axis in (0, 1):
        rows = largest.copy().swapaxes(0, axis), smallest.copy().swapaxes(0, axis)
        high, low = largest.swapaxes(0, axis), smallest.swapaxes(0, axis)
        for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:])):
            np.maximum(high[here], rows[0][there], out=high[here])
            np.minimum(low[here], rows[1][there], out=low[here])
    return np.asarray((largest - smallest).max(-1), np.float32)


def _occluded(now: _Geometry, then: _Geometry) -> npt.NDArray[np.bool_]:
    """See `Frame.occluded`."""
    height, width = now.objects.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    columns += now.flow[..., 0]
    rows += now.flow[..., 1]
    hidden = (columns < 0.0) | (rows < 0.0) | (columns > width - 1.0) | (rows > height - 1.0)
    left = np.clip(columns, 0.0, width - 1.001).astype(np.int32)
    top = np.clip(rows, 0.0, height - 1.001).astype(np.int32)
    right_part, low_part = np.clip(columns - left, 0.0, 1.0), np.clip(rows - top, 0.0, 1.0)
    found = np.zeros_like(rows)
    first = (top * width + left).ravel()
    for down in (0, 1):
        for right in (0, 1):
            spot = first + down * width + right
            weight = (low_part if down else 1.0 - low_part) * (right_part if right else 1.0 - right_part)
            found += then.inverse.ravel()[spot].reshape(height, width) * weight
            hidden |= then.border.ravel()[spot].reshape(height, width)
    closest = np.rint(np.clip(rows, 0, height - 1)).astype(np.int32) * width
    closest += np.rint(np.clip(columns, 0, width - 1)).astype(np.int32)
    hidden |= then.objects.ravel()[closest] != now.objects
    hidden |= then.codes.ravel()[closest] != now.codes
    expected = np.where(now.inverse > 0.0, 1.0 / now.ahead, np.float32(0.0))
    hidden |= np.abs(found - expected) > _TOLERANCE * expected + 2e-4
    return np.asarray(hidden | now.border, np.bool_)
