"""Public datasets as their archives unpack: paths of images and labels, and the meaning of ids.

A layout is one entry of `LAYOUTS`: functions that list splits, samples and label maps, and tables that turn
raw ids into train ids. Nothing is converted or moved.
"""

from __future__ import annotations

from pathlib import Path

from clouds_deploy.data.layouts.acdc import ACDC
from clouds_deploy.data.layouts.bdd100k import BDD100K
from clouds_deploy.data.layouts.cityscapes import CITYSCAPES
from clouds_deploy.data.layouts.folder import FOLDER
from clouds_deploy.data.layouts.gta5 import GTA5
from clouds_deploy.data.layouts.layout import Layout, Sample, require_folder, same_size
from clouds_deploy.data.layouts.mapillary import MAPILLARY, MAPILLARY_V2
from clouds_deploy.data.layouts.reading import Reading
from clouds_deploy.data.layouts.synthia import SYNTHIA
from clouds_deploy.data.layouts.tree import label_stem
from clouds_deploy.errors import CloudsError, nearest

__all__ = [
    "LAYOUTS",
    "Layout",
    "Reading",
    "Sample",
    "claimants",
    "detect",
    "get_layout",
    "label_stem",
    "same_size",
]

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (CITYSCAPES, GTA5, SYNTHIA, BDD100K, MAPILLARY, MAPILLARY_V2, ACDC, FOLDER)
}


def get_layout(name: str) -> Layout:
    """Layout of a given name.

    Raises:
        CloudsError: There is none of that name.
    """
    if name not in LAYOUTS:
        raise CloudsError(f"there is no layout `{name}`", nearest(name, [*LAYOUTS, "streets"]))
    return LAYOUTS[name]


def claimants(root: Path) -> list[Layout]:
    """Layouts that a folder matches; `folder`, which matches almost anything, only if no other does."""
    named = [layout for layout in LAYOUTS.values() if layout is not FOLDER and layout.claims(root)]
    return named or [FOLDER] * FOLDER.claims(root)


def detect(root: Path) -> Layout:
    """Detects the layout of a folder.

    Args:
        root: The dataset's folder.

    Returns:
        The one layout that it matches.

    Raises:
        CloudsError: There is no such folder, or it is empty, or matches no layout, or several.
    """
    looked_for = "looked for " + "; ".join(f"{x.name}: {x.expects}" for x in LAYOUTS.values())
    require_folder(root, looked_for)
    found = claimants(root)
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(f"`{layout.name}`" for layout in found)
        trees = "; ".join(f"--layout {layout.name} ({layout.expects})" for layout in found)
        raise CloudsError(f"{root} can be read as {names}", f"say which: {trees}")
    around = [p for p in (*sorted(root.iterdir()), root.absolute().parent) if p.is_dir()]
    near = next((p for p in around if claimants(p) not in ([], [FOLDER])), None)
    if near is not None:
        raise CloudsError(f"{root} has no known layout", f"give {near} instead; {looked_for}")
    raise CloudsError(f"{root} has no known layout", looked_for)
