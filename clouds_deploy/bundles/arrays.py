"""NumPy's files of arrays, read without pickle and without belief in the sizes that they state.

The limits are those of the C++ library (`engines/cpp/src/npz.hpp`).
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from clouds_deploy.artifacts.names import is_regular, shown
from clouds_deploy.artifacts.zips import BadZip, checked_zip
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.errors import CloudsError, first_line

LARGEST = 1 << 30
"""Bytes of a file, and of its arrays together."""
_ARRAYS = 64
_HEADER = 10_000
_DIMENSIONS = 32
_KEYS = {
    "descr": re.compile(r"'descr': *'([|<][iufb][1248])' *[,}]"),
    "fortran_order": re.compile(r"'fortran_order': *(False) *[,}]"),
    "shape": re.compile(r"'shape': *\(([0-9, ]*)\) *[,}]"),
}


def read_arrays(path: Path, wanted: Collection[str] = ()) -> dict[str, Array]:
    """Reads a `.npz` file.

    Args:
        path: The file.
        wanted: Names of the arrays to read; none reads all.

    Returns:
        Arrays of numbers by their names.

    Raises:
        CloudsError: It is no such file, damaged, too large, or has an array of anything but numbers.
    """
    again = "make the directory again, or copy it whole"
    if not is_regular(path):
        raise CloudsError(f"there is no file {path}", again)
    try:
        if path.stat().st_size > LARGEST:
            raise BadZip(f"it is larger than {LARGEST >> 20} MiB")
        found = {}
        with checked_zip(path, entries=_ARRAYS, total=LARGEST, deflated=True, dressed=False) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if not wanted or name in wanted:
                    data = archive.read(info)
                    if len(data) != info.file_size:
                        raise BadZip(f"{shown(name)} in it has two sizes")
                    found[name] = _array(data, name)
        return found
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, struct.error, NotImplementedError) as error:
        raise CloudsError(f"{path} is no array file: {first_line(error)}", again) from error


def _array(data: bytes, name: str) -> Array:
    """One array of the format that `numpy.save` writes."""
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        raise ValueError(f"{shown(name)} in it is no array")
    wide = data[6] != 1
    length = int(struct.unpack("<I" if wide else "<H", data[8 : 12 if wide else 10])[0])
    start = (12 if wide else 10) + length
    if length > _HEADER or start > len(data):
        raise ValueError(f"the header of {shown(name)} is too long")
    header = data[start - length : start].decode("latin1")
    said = {key: pattern.findall(header) for key, pattern in _KEYS.items()}
    if any(len(values) != 1 for values in said.values()):
        raise ValueError(f"{shown(name)} is no array of numbers in C's order")
    sizes = [int(side[:20]) for side in said["shape"][0].replace(" ", "").split(",") if side]
    dtype = np.dtype(said["descr"][0])
    count = 1
    for side in sizes:
        count *= side
    if len(sizes) > _DIMENSIONS or count * dtype.itemsize != len(data) - start:
        raise ValueError(f"{shown(name)} is not as large as its shape says")
    found: Array = np.frombuffer(data, dtype, offset=start).reshape(sizes).copy()
    return found
