"""Weight files that use only what readers admit, and what that could do: all are refused, quickly."""

from __future__ import annotations

import collections
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clouds_deploy.errors import CloudsError
from clouds_deploy.models.weights import read_weight_file


class Call:
    """Pickles as a call of a function, and perhaps a state."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def tangled(levels: int) -> Any:
    """A tuple of tuples, each twice, which takes 2 to the power of `levels` steps to hash."""
    found: Any = ("a",)
    for _ in range(levels):
        found = (found, found)
    return found


def tangled_key(levels: int) -> bytes:
    """Pickle of a dictionary whose key is such a tuple; Python itself would never finish making it."""
    return b"\x80\x02}K\x01\x85" + b"2\x86" * levels + b"K\x01s."


def laughs() -> Any:
    found: Any = ["x"] * 10
    for _ in range(9):
        found = [found] * 10
    return found


def looped(kind: type) -> Any:
    found = kind()
    found["model"] = found
    return found


def nested(levels: int) -> Any:
    found: Any = {"w": torch.ones(1)}
    for _ in range(levels):
        found = {"model": found}
    return found


OBJECT, BYTE = np.dtype("O"), np.dtype("u1")
_frombuffer: Any = np._core.numeric._frombuffer  # type: ignore[attr-defined]
_scalar: Any = np._core.multiarray.scalar  # type: ignore[attr-defined]
POINTERS = b"\x41" * 64
PICKLES: dict[str, tuple[Any, str]] = {
    "array of forged pointers": (Call(np.ndarray, ((8,), OBJECT, POINTERS)), "constructor of arrays"),
    "in a list": (Call(list, (Call(np.ndarray, ((1,), OBJECT, POINTERS)),)), "constructor of arrays"),
    "array of 60 GiB": (Call(np.ndarray, ((60 << 30,), BYTE)), "constructor of arrays"),
    "buffer of pointers": (Call(_frombuffer, (POINTERS, OBJECT, (8,), "C")), "no dense tensor"),
    "scalar of a pointer": (Call(_scalar, (OBJECT, POINTERS[:8])), "no dense tensor"),
    "buffer too short": (Call(_frombuffer, (b"abcd", BYTE, (1 << 40,), "C")), "another size than it says"),
    "negative shape": (Call(_frombuffer, (b"abcd", BYTE, (-4,), "C")), "no known form"),
    "scalar too short": (Call(_scalar, (np.dtype("f8"), b"a")), "another size than it says"),
    "20 GiB of bytes": (Call(bytearray, (20 << 30,)), "encodes what is no text"),
    "a tangled key": (None, "elements"),
    "a shorter tangled key": (None, "many parts"),
    "a tangled set": (Call(set, ([tangled(5)],)), "many parts"),
    "a billion laughs": (laughs(), "elements"),
    "a changed function": (None, "changes a function"),
    "deep lists": (None, "nested over 100 deep"),
    "leaping memo": (None, "in leaps"),
    "a far string": (None, "readable"),
    "extension": (None, "instruction EXT1"),
}
RAW = {
    "a changed function": b"\x80\x02cbuiltins\nbytearray\n}U\x01aK\x01sb.",
    "a tangled key": tangled_key(60),
    "a shorter tangled key": tangled_key(10),
    "deep lists": b"\x80\x02" + b"]" * 20000 + b"a" * 19999 + b".",
    "leaping memo": b"\x80\x02}r\xff\xff\xff\xff.",
    "a far string": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"abc.",
    "extension": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("case", PICKLES)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_of_admitted_names_only(case: str, protocol: int, tmp_path: Path) -> None:
    content, message = PICKLES[case]
    data = RAW.get(case) or pickle.dumps({"model": {"w": content}}, protocol=protocol)
    (tmp_path / "x.pkl").write_bytes(data)
    start = time.monotonic()
    with pytest.raises(CloudsError, match=message):
        read_weight_file(tmp_path / "x.pkl")
    assert time.monotonic() - start < 5


def test_a_dtype_changed_after_its_use_changes_nothing(tmp_path: Path) -> None:
    """numpy's own state of a dtype would turn an array of bytes into pointers."""
    dtype = np.dtype("u1")
    state = (3, "|", None, None, None, -1, -1, 63)
    content = {"model": {"w": np.arange(8, dtype=np.uint8), "x": Call(np.dtype, ("u1",), state), "d": dtype}}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CloudsError, match="`x` is no dense tensor"):
        read_weight_file(tmp_path / "x.pkl")


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_a_checkpoint_that_contains_itself(kind: type, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(looped(kind)))
    torch.save(looped(kind), tmp_path / "x.pth")
    torch.save(looped(kind), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("x.pkl", "x.pth", "old.pth"):
        with pytest.raises(CloudsError, match="contains itself"):
            read_weight_file(tmp_path / name)


def test_wrappers_have_an_end(tmp_path: Path) -> None:
    for levels in (3, 20):
        torch.save(nested(levels), tmp_path / f"{levels}.pth")
    assert list(read_weight_file(tmp_path / "3.pth")) == ["w"]
    with pytest.raises(CloudsError, match="over 8 wrappers"):
        read_weight_file(tmp_path / "20.pth")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tangled_key(60), "elements"),
        (tangled_key(10), "many parts"),
        (pickle.dumps(laughs(), protocol=2), "elements"),
    ],
)
def test_tangles_in_pytorch_files_new_and_old(data: bytes, message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "new.pth", "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    headers = (
        torch.serialization.MAGIC_NUMBER,
        torch.serialization.PROTOCOL_VERSION,
        {"little_endian": True},
    )
    before = b"".join(pickle.dumps(header, protocol=2) for header in headers)
    (tmp_path / "old.pth").write_bytes(before + data + pickle.dumps([], protocol=2))
    for name in ("new.pth", "old.pth"):
        with pytest.raises(CloudsError, match=message):
            read_weight_file(tmp_path / name)


def test_a_scalar_in_a_pytorch_file_is_a_number_or_nothing(tmp_path: Path) -> None:
    torch.save({"model": {"w": Call(_scalar, (OBJECT, POINTERS[:8]))}}, tmp_path / "x.pth")
    with pytest.raises(CloudsError, match="`w` is no dense tensor"):
        read_weight_file(tmp_path / "x.pth")
    torch.save({"step": np.float64(3), "model": {"w": torch.ones(2)}}, tmp_path / "y.pth")
    assert list(read_weight_file(tmp_path / "y.pth")) == ["w"]


def test_torchscript_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "x.pt"))  # type: ignore[no-untyped-call]
    with pytest.raises(CloudsError, match="TorchScript program") as caught:
        read_weight_file(tmp_path / "x.pt")
    assert "weights_only" not in str(caught.value)


def repacked(source: Path, to: Path, compression: int, twice: bool = False) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(to, "w", compression) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
        if twice:
            new.writestr("archive/other/data.pkl", b"\x80\x02]" + b"]" * 500 + b"a" * 500 + b".")


def test_a_compressed_or_doubled_pytorch_file(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "x.pth")
    repacked(tmp_path / "x.pth", tmp_path / "small.pth", zipfile.ZIP_DEFLATED)
    with pytest.raises(CloudsError, match="compressed"):
        read_weight_file(tmp_path / "small.pth")
    repacked(tmp_path / "x.pth", tmp_path / "more.pth", zipfile.ZIP_STORED, twice=True)
    with pytest.raises(CloudsError, match="nested over 100 deep"):
        read_weight_file(tmp_path / "more.pth")
