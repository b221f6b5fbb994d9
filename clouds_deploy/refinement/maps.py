"""Label maps, or confidences, of a unit's images: out of shards or a folder, here or at an address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from clouds_deploy.errors import CloudsError
from clouds_deploy.jobs.shards import split_member
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import TAR, Unit, open_shard, split_address


class Maps:
    """Where maps are.

    Args:
        address: A folder of PNGs, of shards with the names that the images' shards have, what `predict` made,
            or one shard.
        folder: The folder in it where `predict` puts such maps.
        kinds: What may follow their key in a shard: `labels.png`, or `png` where a shard holds nothing else.
        endings: What may follow an image's name in a folder.

    Raises:
        CloudsError: There is no such folder.
    """

    def __init__(
        self, address: str | Path, folder: str, kinds: Sequence[str], endings: Sequence[str]
    ) -> None:
        self.kinds, self.endings = frozenset(kinds), tuple(endings)
        self.shards: Mapping[str, str]
        self.given = Place(address)
        if str(address).endswith(TAR):
            head, name = split_address(address)
            self.place, names = Place(head), [name]
        else:
            self.place = self.given
            names = self.place.files()
        self.shards = {n.removesuffix(TAR): n for n in names if n.endswith(TAR)}
        self.prefix = f"{folder}/" if any(n.startswith(f"{folder}/") for n in names) else ""
        self.files = frozenset(n for n in names if n.startswith(self.prefix))

    def of(self, unit: Unit) -> str | None:
        """Give the shard with a unit's maps, or None where they are files.

        Raises:
            CloudsError: There are shards, but none for this unit.
        """
        if not self.shards:
            return None
        if unit.name not in self.shards:
            raise CloudsError(
                f"{self.place} has no shard {unit.name}{TAR} for {unit.told()}",
                "shards of labels are called like their images' shards; `predict` writes them so",
            )
        return self.shards[unit.name]

    def file(self, name: str) -> str | None:
        """Give the file that holds an image's map, if there is one."""
        found = (f"{self.prefix}{name}{ending}" for ending in self.endings)
        return next((file for file in found if file in self.files), None)

    def identity(self, unit: Unit, names: Sequence[str]) -> dict[str, str]:
        """Give what changes when one of the maps does."""
        shard = self.of(unit)
        files = [shard] if shard else [file for name in names if (file := self.file(name))]
        return {self.place.told(file): self.place.identity(file) for file in files}

    def stage(self, unit: Unit, names: Sequence[str], folder: Path) -> dict[str, Path]:
        """Bring the maps of images onto this machine.

        Args:
            unit: The images' unit.
            names: The images' names.
            folder: Where to.

        Returns:
            The maps that there are, by their image's name.

        Raises:
            CloudsError: The unit's shard is missing or damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        shard = self.of(unit)
        if shard is None:
            for name in names:
                if (file := self.file(name)) is not None:
                    self.place.fetch(file, folder / f"{name}.png")
        else:
            own = unit.shard and unit.told() == self.place.told(shard)
            kinds = self.kinds - {"png"} if own else self.kinds  # a PNG beside an image is an image
            wanted = set(names)

            def choose(member: str) -> str | None:
                key, kind = split_member(member)
                return f"{key}.png" if kind in kinds and key in wanted else None

            open_shard(self.place, shard, folder, choose)
        return {name: path for name in names if (path := folder / f"{name}.png").is_file()}
