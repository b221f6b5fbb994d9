"""Label sets: the classes of a model or a dataset, as data.

A label map in memory holds *train ids*, the positions of the classes in their set, and `IGNORE` (255),
whatever its file looks like. So a set has at most 255 classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.labels.colors import Color, distinct_colors

IGNORE = 255
"""The train id of pixels that loss and metrics ignore."""
UNKNOWN_ID = -1
"""Entry of a table of train ids for an id that the encoding does not define."""
LARGEST = 255
"""Most classes of a set: 0 to 254, and 255 for none."""
VOID = "void"
"""Value of `ignore`: every id or colour that no class has."""
INSTANCES = 1000
"""With format `instances` a pixel is id * 1000 + instance; values below 1000 are ids."""

Format = Literal["ids", "colors", "instances"]
_Byte = Annotated[StrictInt, Field(ge=0, le=255)]
_Rgb = tuple[_Byte, _Byte, _Byte]
_Id = Annotated[StrictInt, Field(ge=0, le=65535)]


class LabelClass(BaseModel):
    """One class of a label set, complete.

    Attributes:
        name: Its name, unique in the set.
        ids: Its values in label files of format `ids` and `instances`, 0..65535.
        color: Its RGB colour, each 0..255: in overlays, and in label files of format `colors`.
        thing: True where instances can be counted (cars, people), False for stuff (road, sky).
        synonyms: Its names for the text head, at least one.
        group: Classes of one group have similar outlines and are confused within one object, such as car,
            truck and bus; refinement takes them for one.
        small: Whether its regions are small by nature, such as poles; refinement does not take them for
            noise.
        train_id: Its position in the set, the value in label maps; not part of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    ids: tuple[int, ...]
    color: Color
    thing: bool = False
    synonyms: tuple[str, ...]
    group: str | None = None
    small: bool = False
    train_id: int = Field(exclude=True)

    @property
    def cityscapes_id(self) -> int:
        """Id of the Cityscapes class of this name in `labelIds` files (and GTA5's)."""
        from clouds_deploy.labels.shipped import shipped_set

        return shipped_set("cityscapes34").index(self.name)


class LabelSet(BaseModel):
    """The classes of a model or a dataset, and how its label files are written.

    Attributes:
        name: A shipped set's name, or a file's.
        ignore: What marks a pixel without a class in the files: an id (-1 is the highest that a file can
            hold), `void` for every id or colour that no class has, or a colour.
        format: What the files hold: `ids`; `colors`, RGB; or `instances`, id * 1000 + instance.
        classes: The classes, in the order of their train ids.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    ignore: int | Literal["void"] | Color = 255
    format: Format = "ids"
    classes: tuple[LabelClass, ...]

    @property
    def count(self) -> int:
        """Number of classes, 2..255."""
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, by train id."""
        return tuple(c.name for c in self.classes)

    @property
    def synonyms(self) -> tuple[tuple[str, ...], ...]:
        """Names of each class for the text head, by train id."""
        return tuple(c.synonyms for c in self.classes)

    def index(self, name: str) -> int:
        """Train id of a class.

        Raises:
            CloudsError: There is no class of that name.
        """
        for one in self.classes:
            if one.name == name:
                return one.train_id
        raise CloudsError(f"label set `{self.name}` has no class `{name}`", nearest(name, self.names))

    def palette(self) -> npt.NDArray[np.uint8]:
        """The classes' colours.

        Returns:
            (256, 3) uint8 RGB; row i is the colour of train id i, black for other ids.
        """
        table = np.zeros((256, 3), np.uint8)
        table[: self.count] = [c.color for c in self.classes]
        return table

    def train_ids(self) -> npt.NDArray[np.int16]:
        """Table from train ids to themselves, which marks all other ids as unknown.

        Returns:
            (256,) int16: 0..count-1 and 255 unchanged, `UNKNOWN_ID` for everything else.
        """
        table = np.full(256, UNKNOWN_ID, np.int16)
        table[: self.count] = np.arange(self.count)
        table[IGNORE] = IGNORE
        return table

    def file_ids(self) -> npt.NDArray[np.int16]:
        """Table from the ids in label files (`ids` and `instances`) to train ids.

        Returns:
            (65536,) int16: train ids, `IGNORE` for the ignored ids, `UNKNOWN_ID` for all others.
        """
        table = np.full(65536, IGNORE if self.ignore == VOID else UNKNOWN_ID, np.int16)
        if self.ignore == -1:
            table[[255, 65535]] = IGNORE
        elif isinstance(self.ignore, int):
            table[self.ignore] = IGNORE
        for one in self.classes:
            table[list(one.ids)] = one.train_id
        return table

    def ignored_color(self) -> Color | None:
        """Colour of pixels without a class in files of format `colors`; None with `ignore: void`.

        A number stands for the grey of that value.
        """
        if isinstance(self.ignore, tuple):
            return self.ignore
        if isinstance(self.ignore, int):
            grey = self.ignore % 256
            return grey, grey, grey
        return None

    def meaning(self) -> str:
        """What values of label files stand for, in words."""
        if self.format == "colors":
            shown = [f"{list(c.color)} = {c.name}" for c in (self.classes[0], self.classes[-1])]
        else:
            shown = [f"{'/'.join(map(str, c.ids))} = {c.name}" for c in (self.classes[0], self.classes[-1])]
        ignored = "all others" if self.ignore == VOID else self.ignored_color() or self.ignore
        if self.format != "colors" and self.ignore != VOID:
            ignored = self.ignore
        return (
            f"{shown[0]} ... {shown[1]}, {list(ignored) if isinstance(ignored, tuple) else ignored} = ignore"
        )

    def reads_by_outline(self) -> bool:
        """Whether the set tells refinement more than areas: a group, a small class or a thing."""
        return any(c.group or c.small or c.thing for c in self.classes)

    def remarks(self) -> list[str]:
        """What is odd about the set but no fault, such as two classes of one colour."""
        found: dict[Color, str] = {}
        remarks = []
        for one in self.classes:
            other = found.setdefault(one.color, one.name)
            if other != one.name:
                remarks.append(f"classes `{other}` and `{one.name}` have the same colour, {list(one.color)}")
        return remarks

    def to_tree(self) -> dict[str, Any]:
        """The set as JSON values, complete, in the form of a label set file."""
        return self.model_dump(mode="json")

    def to_value(self) -> str | dict[str, Any]:
        """What a recipe says about it: its name if it is a shipped set as it is, else all of it."""
        from clouds_deploy.labels.shipped import SHIPPED, shipped_set

        return self.name if self.name in SHIPPED and shipped_set(self.name) == self else self.to_tree()


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, (int, str)) else value


class _ClassForm(BaseModel):
    """A class as it may stand in a file: all but its name may be left out."""

    model_config = ConfigDict(extra="forbid")

    name: str
    ids: Annotated[tuple[_Id, ...] | None, BeforeValidator(_one_or_more)] = None
    color: _Rgb | None = None
    thing: StrictBool = False
    synonyms: Annotated[tuple[str, ...] | None, BeforeValidator(_one_or_more)] = None
    group: str | None = None
    small: StrictBool = False


class _SetForm(BaseModel):
    """A label set as it may stand in a file."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    ignore: Annotated[StrictInt, Field(ge=-1, le=65535)] | Literal["void"] | _Rgb | None = None
    format: Format = "ids"
    classes: list[Any]


def label_set(tree: Any, where: str, name: str = "own", lines: Sequence[int] = ()) -> LabelSet:
    """Checks a label set and fills in what it leaves out.

    Ids default to the position in the list, counted past the ignored id; colours to ones that people can tell
    apart; synonyms to the name.

    Args:
        tree: The content of a label set file.
        where: What to call its source in errors.
        name: Its name, unless the tree has one.
        lines: Line of each class in its file, counted from 1.

    Raises:
        CloudsError: The message names the class, its line and the fault: a key that is unknown, a value of
            the wrong type, a name, id or colour that two classes have, a class without a name, fewer than 2
            classes or more than 255.
    """

    def at(number: int) -> str:
        line = f", line {lines[number]}" if number < len(lines) else ""
        return f"label set {where}: class {number}{line}"

    form = _parsed(_SetForm, tree, f"label set {where}", "write `classes:` and a list below it")
    count = len(form.classes)
    if not 2 <= count <= LARGEST:
        raise CloudsError(
            f"label set {where} has {count} classes, not 2 to {LARGEST}",
            "merge some: a class may have several ids" if count > LARGEST else "name two at least",
        )
    hint = "a class is like `- {name: crane, ids: [7, 8], color: [200, 10, 10]}`"
    forms = [
        _parsed(_ClassForm, {"name": one} if isinstance(one, str) else one, at(number), hint)
        for number, one in enumerate(form.classes)
    ]
    for number, one in enumerate(forms):
        if not one.name.strip() or not one.name.isprintable():
            raise CloudsError(f"{at(number)} has no name that can be printed", "give it a plain one")
        if one.synonyms is not None and not all(word.strip() for word in one.synonyms):
            raise CloudsError(f"{at(number)} (`{one.name}`) has an empty synonym", "remove it")
        if one.ids == ():
            raise CloudsError(
                f"{at(number)} (`{one.name}`) has an empty list of ids", "remove `ids`, or fill it"
            )
    ignore = _ignored(form, forms, where)
    skipped = ignore if form.format != "colors" and isinstance(ignore, int) and ignore >= 0 else None
    ids = [
        tuple(one.ids) if one.ids is not None else (n + (skipped is not None and n >= skipped),)
        for n, one in enumerate(forms)
    ]
    _unique([[one.name.strip()] for one in forms], forms, at, "name")
    _unique(ids, forms, at, "id")
    if form.format == "colors":
        _unique([[one.color] if one.color else [] for one in forms], forms, at, "colour")
        bare = [n for n, one in enumerate(forms) if one.color is None]
        if bare:
            raise CloudsError(
                f"{at(bare[0])} (`{forms[bare[0]].name}`) has no colour, and the files are colour-coded",
                "give it the colour that it has in the label files: `color: [r, g, b]`",
            )
    elif skipped is not None:
        taken = next((n for n, own in enumerate(ids) if skipped in own), None)
        if taken is not None:
            raise CloudsError(
                f"{at(taken)} (`{forms[taken].name}`) has id {skipped}, which is the ignored one",
                "give the class another id, or `ignore` another value (-1 and `void` go too)",
            )
    free = iter(distinct_colors(sum(one.color is None for one in forms), [c.color for c in forms if c.color]))
    classes = tuple(
        LabelClass(
            name=one.name.strip(),
            ids=own,
            color=one.color or next(free),
            thing=one.thing,
            synonyms=one.synonyms or (one.name.strip(),),
            group=one.group,
            small=one.small,
            train_id=number,
        )
        for number, (one, own) in enumerate(zip(forms, ids, strict=True))
    )
    return LabelSet(name=form.name or name, ignore=ignore, format=form.format, classes=classes)


def named_set(name: str, names: Iterable[str]) -> LabelSet:
    """A label set of names alone, such as a vocabulary's: ids by position, colours from the palette."""
    return label_set({"classes": [{"name": one} for one in names], "ignore": IGNORE}, name, name)


def _ignored(form: _SetForm, forms: Sequence[_ClassForm], where: str) -> Any:
    """The ignored value, where it is left out too: 255, or with colours black."""
    if form.format != "colors":
        if isinstance(form.ignore, tuple):
            raise CloudsError(
                f"label set {where} ignores a colour, {list(form.ignore)}, but its files hold ids",
                "write `format: colors`, or `ignore` an id",
            )
        return IGNORE if form.ignore is None else form.ignore
    used = {one.color: one.name for one in forms}
    ignored: Any = (0, 0, 0) if form.ignore is None else form.ignore
    if isinstance(ignored, int):
        ignored = (ignored % 256,) * 3
    if ignored in used:
        raise CloudsError(
            f"label set {where}: class `{used[ignored]}` has the ignored colour, {list(ignored)}",
            "write `ignore: [r, g, b]` with the colour of pixels without a class, or `ignore: void`",
        )
    return ignored


def _unique(values: Sequence[Iterable[Any]], forms: Sequence[_ClassForm], at: Any, what: str) -> None:
    """Raises an error for a value that two classes have, or one class twice."""
    first: dict[Any, int] = {}
    for number, own in enumerate(values):
        for value in own:
            if value in first:
                other = first[value]
                shown = list(value) if isinstance(value, tuple) else value
                raise CloudsError(
                    f"{at(number)} (`{forms[number].name}`) has {what} `{shown}`, as class {other} "
                    f"(`{forms[other].name}`) does",
                    f"give every class a {what} of its own; leaving `ids` out numbers them in order"
                    if what == "id"
                    else f"give every class a {what} of its own",
                )
            first[value] = number


def _parsed(kind: Any, tree: Any, where: str, hint: str) -> Any:
    """Checks keys and types of one part of a file."""
    if not isinstance(tree, Mapping):
        raise CloudsError(f"{where} is `{tree}`, no mapping of keys to values", hint)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            raise CloudsError(f"{where}: unknown key `{key}`", nearest(key, kind.model_fields)) from error
        if first["type"] == "missing" and len(first["loc"]) == 1:
            raise CloudsError(f"{where} has no `{key}`", hint) from error
        value = tree.get(key)
        quoted = isinstance(value, (bool, int, float)) and key in ("name", "group", "synonyms")
        fix = f'put it in quotes: {key}: "{value}"' if quoted else hint
        raise CloudsError(f"{where}: `{key}` cannot be `{value}`: {first['msg']}", fix) from error
