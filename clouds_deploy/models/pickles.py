"""Pickled weight files, held to what weights need before a single instruction of them is carried out.

A pickle is a program. `check_pickle` reads it as data, instruction by instruction, and refuses one that is
larger, deeper or more tangled than any weight file. What is left is run by an unpickler whose every call goes
to a function of this module: they make numbers, arrays of numbers and plain containers, after checking that
the bytes are there. numpy's own constructors are never called, as they trust what a pickle says of memory.
"""

from __future__ import annotations

import collections
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from clouds_deploy.errors import CloudsError

_INSTRUCTIONS = 1_000_000
_DEEPEST = 100
_LARGEST = 10_000_000
"""Elements of an object, where one that is referred to many times counts as often."""
_WORK = 100_000_000
_LONGEST_KEY = 64
_NUMBERS = "biufc"  # numpy's kinds: bool, int, unsigned, float, complex
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


class Refused(ValueError):
    """What is in a pickle that no weight file needs."""


class _Node:
    """What is known of an object that a pickle makes.

    Attributes:
        kind: `atom`, `tuple`, or `box` for what can still be filled.
        size: Its elements, and theirs.
        depth: Of what is nested in it.
        used: Whether something holds it, so that it may no longer be filled.
    """

    __slots__ = ("depth", "kind", "size", "used")

    def __init__(self, kind: str = "atom", size: int = 1, depth: int = 0) -> None:
        self.kind, self.size, self.depth, self.used = kind, size, depth, False


_ATOM = _Node()
_MARK = _Node("mark")
_CONSTANTS = {
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT", "GLOBAL", "PERSID"),
}
_POPS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3}
_FILLS = frozenset(("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"))


class _Bounded:
    """A file that never reads beyond its end, whatever length is asked for."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self.size, self.tell, self.readline = file, size, file.tell, file.readline

    def read(self, count: int = -1) -> bytes:
        left = max(self.size - self.tell(), 0)
        return self._file.read(left if count < 0 else min(count, left))


def check_pickle(file: IO[bytes], size: int) -> None:
    """Reads one pickle as data, to its end.

    Args:
        file: Open at its first byte; afterwards it is at the first byte behind it.
        size: Bytes of the whole file.

    Raises:
        Refused: It is larger, deeper or more tangled than weights are: the message says how.
        ValueError: It is damaged.
    """
    bounded = _Bounded(file, size)
    stack: list[_Node] = []
    memo: dict[int, _Node] = {}
    work = 0
    argument: Any
    for count, (code, argument, _) in enumerate(pickletools.genops(bounded)):  # type: ignore[arg-type]
        name = code.name
        if count > _INSTRUCTIONS:
            raise Refused(f"it has over {_INSTRUCTIONS} instructions")
        if name in _CONSTANTS:
            stack.append(_ATOM)
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
            stack.append(_Node("box"))
        elif name == "EMPTY_TUPLE":
            stack.append(_Node("tuple"))
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            place = len(memo) if name == "MEMOIZE" else int(argument)
            if not 0 <= place <= 2 * count + 256:
                raise Refused("it numbers its objects in leaps")
            memo[place] = _top(stack)
        elif name in ("GET", "BINGET", "LONG_BINGET", "DUP"):
            node = _top(stack) if name == "DUP" else memo.get(int(argument))
            if node is None:
                raise ValueError("it refers to an object that it does not have")
            work += node.size
            stack.append(node)
        elif name in ("PROTO", "STOP"):
            pass
        elif name == "FRAME":
            if argument > size - bounded.tell():
                raise ValueError("it ends too early")
        elif name == "POP":
            if not stack:
                raise ValueError("it takes what is not there")
            stack.pop()
        elif name == "POP_MARK":
            _from_mark(stack)
        elif name in _FILLS:
            work += _fill(stack, name)
        elif name in _POPS or name in ("TUPLE", "LIST", "DICT", "FROZENSET", "INST", "OBJ"):
            items = _pop(stack, _POPS[name]) if name in _POPS else _from_mark(stack)
            work += _make(stack, name, items)
        elif name in ("STACK_GLOBAL", "BINPERSID"):
            _pop(stack, 2 if name == "STACK_GLOBAL" else 1)
            stack.append(_Node())
        else:
            raise Refused(f"it has the instruction {name}")
        if work > _WORK:
            raise Refused("it refers to its own parts too often")


def _top(stack: list[_Node]) -> _Node:
    if not stack or stack[-1] is _MARK:
        raise ValueError("it takes what is not there")
    return stack[-1]


def _pop(stack: list[_Node], count: int) -> list[_Node]:
    items = stack[-count:]
    if len(items) < count or _MARK in items:
        raise ValueError("it takes what is not there")
    del stack[-count:]
    return items


def _from_mark(stack: list[_Node]) -> list[_Node]:
    for place in range(len(stack) - 1, -1, -1):
        if stack[place] is _MARK:
            items = stack[place + 1 :]
            del stack[place:]
            return items
    raise ValueError("it takes what is not there")


def _hold(holder: _Node, items: list[_Node]) -> None:
    for item in items:
        if item is not _ATOM:
            item.used = True
            holder.depth = max(holder.depth, item.depth + 1)
    holder.size += sum(item.size for item in items)
    if holder.depth > _DEEPEST:
        raise Refused(f"it is nested over {_DEEPEST} deep")
    if holder.size > _LARGEST:
        raise Refused(f"it holds an object of over {_LARGEST} elements")


def _make(stack: list[_Node], name: str, items: list[_Node]) -> int:
    """Puts a new object on the stack, and returns how much work hashing its keys is."""
    made = _Node("tuple" if name.startswith("TUPLE") else "box")
    _hold(made, items)
    stack.append(made)
    if name == "DICT":
        return _keys(items[::2])
    return _keys(items) if name == "FROZENSET" else made.size


def _fill(stack: list[_Node], name: str) -> int:
    """Puts objects into the one before them, and returns how much work hashing its keys is."""
    count = {"APPEND": 1, "BUILD": 1, "SETITEM": 2}.get(name)
    items = _from_mark(stack) if count is None else _pop(stack, count)
    holder = _top(stack)
    if holder.used or holder in items:
        raise Refused("it holds an object that contains itself")
    if holder is not _ATOM:
        _hold(holder, items)
    if name.startswith("SETITEM"):
        return _keys(items[::2])
    return _keys(items) if name == "ADDITEMS" else 0


def _keys(items: list[_Node]) -> int:
    """Refuses keys that take long to hash: a tuple of tuples of tuples is hashed through and through."""
    if any(item.kind == "tuple" and item.size > _LONGEST_KEY for item in items):
        raise Refused("it has keys of many parts")
    return sum(item.size for item in items)


class _Dtype:
    """What a pickle says of numbers' type; no dtype of numpy is changed by it."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise Refused("it has a type of numbers in no known form")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any] | None:
        """The type, of numbers only; None of anything else (objects, text, records)."""
        code = self.code.decode("ascii", "replace") if isinstance(self.code, bytes) else self.code
        if not isinstance(code, str) or not code[:1].isalpha() or not (code[1:].isdigit() or len(code) == 1):
            return None
        if code[0] not in "?" + _NUMBERS or len(code) > 3:
            return None
        try:
            return np.dtype(self.order + code)
        except TypeError:
            return None


class NotNumbers:
    """In the place of an array or a scalar of anything but numbers."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Drops what it would hold."""


class Array:
    """An array of a pickle.

    Attributes:
        value: (any shape) numbers; None until they came, or if they are none.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("it has an array in no known form")
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    kind = dtype.numpy() if isinstance(dtype, _Dtype) else None
    if kind is None:
        return None
    data = data.encode("latin1") if isinstance(data, str) else data
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if not isinstance(data, bytes | bytearray) or order not in ("C", "F") or len(sizes) > 32:
        raise Refused("it has an array in no known form")
    count = 1
    for side in sizes:
        if type(side) is not int or not 0 <= side <= 2**62:
            raise Refused("it has an array in no known form")
        count *= side
    if count * kind.itemsize != len(data):
        raise Refused("it has an array of another size than it says")
    found = np.frombuffer(bytes(data), kind).reshape(sizes, order=order)
    return found.astype(kind.newbyteorder("="), copy=False)


def _new_array(*_: Any) -> Array:
    return Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    found = _array(data, dtype, shape, order)
    return NotNumbers() if found is None else found


def _scalar(dtype: Any, data: Any = b"") -> Any:
    kind = dtype.numpy() if isinstance(dtype, _Dtype) else None
    data = data.encode("latin1") if isinstance(data, str) else data
    if kind is None or not isinstance(data, bytes):
        return NotNumbers()
    if len(data) != kind.itemsize:
        raise Refused("it has a number of another size than it says")
    return np.frombuffer(data, kind)[0]


def _constructor(*_: Any) -> Any:
    """In the place of numpy's own: its name stands where an array is rebuilt, but nobody calls it there."""
    raise Refused("it calls the constructor of arrays")


def _items_of(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    def made(items: Any = ()) -> Any:
        if not isinstance(items, list | tuple | str | bytes):
            raise Refused("it makes a container of no list")
        if kind in (set, frozenset) and any(isinstance(item, tuple) for item in items):
            raise Refused("it has keys of many parts")
        return kind(items)

    return made


def _dict(items: Any = ()) -> Any:
    if not isinstance(items, list | tuple | dict):
        raise Refused("it makes a dictionary of no list")
    pairs = items.items() if isinstance(items, dict) else items
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise Refused("it makes a dictionary of no list")
    if any(isinstance(key, tuple) for key, _ in pairs):
        raise Refused("it has keys of many parts")
    return dict(pairs)


def _ordered(items: Any = ()) -> Any:
    return collections.OrderedDict(_dict(items))


def _complex(real: Any, imaginary: Any = 0.0) -> complex:
    return complex(float(real), float(imaginary))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("it encodes what is no text")
    return text.encode("latin1")


def _bytearray(data: Any = b"", encoding: Any = "latin1") -> bytearray:
    if isinstance(data, bytes):
        return bytearray(data)
    return bytearray(_encode(data, encoding))


def _no_bytes() -> bytes:
    """How protocol 2 writes no bytes at all."""
    return b""


class _Callable:
    """A function that a pickle may call, and can do nothing else with: its attributes cannot be set."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Any) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise Refused("it changes a function")

    def __setstate__(self, state: Any) -> None:
        raise Refused("it changes a function")


_CALLS: dict[str, _Callable] = {
    **{
        f"{module}.{name}": _Callable(call)
        for module in ("builtins", "__builtin__")
        for name, call in {
            "list": _items_of(list),
            "set": _items_of(set),
            "frozenset": _items_of(frozenset),
            "dict": _dict,
            "bytearray": _bytearray,
            "bytes": _no_bytes,
            "complex": _complex,
        }.items()
    },
    "collections.OrderedDict": _Callable(_ordered),
    "_codecs.encode": _Callable(_encode),
    **{f"{module}._reconstruct": _Callable(_new_array) for module in _MULTIARRAY},
    **{f"{module}.scalar": _Callable(_scalar) for module in _MULTIARRAY},
    **{f"{module}._frombuffer": _Callable(_from_buffer) for module in _NUMERIC},
    "numpy.dtype": _Callable(_Dtype),
    "numpy.ndarray": _Callable(_constructor),
}


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that can rebuild arrays, numbers and containers.

    Files of Python 2 are read as detectron2 reads them, with text and bytes alike as latin-1.

    Args:
        file: The pickle, which `check_pickle` went through.
        refuse: Makes the error about a name that is not admitted.
    """

    def __init__(self, file: IO[bytes], refuse: Callable[[str], CloudsError]) -> None:
        super().__init__(file, encoding="latin1")
        self._refuse = refuse

    def find_class(self, module: str, name: str) -> Any:
        """What a name of a module stands for here."""
        full = f"{module}.{name}"
        if full not in _CALLS:
            raise self._refuse(full)
        return _CALLS[full]


def torch_globals() -> list[Any]:
    """Numpy's numbers for `torch.load`: a framework's schedule and step may be such, beside the weights."""
    return [
        (_Dtype, "numpy.dtype"),
        NotNumbers,
        *((_scalar, f"{module}.scalar") for module in _MULTIARRAY),
    ]


def load_arrays(path: Path, refuse: Callable[[str], CloudsError]) -> Any:
    """Reads a pickle of arrays; see `ArrayUnpickler`.

    Raises:
        Refused: See `check_pickle`, or a name is not admitted, or an array is not what it says.
    """
    with path.open("rb") as file:
        check_pickle(file, path.stat().st_size)
        file.seek(0)
        return ArrayUnpickler(file, refuse).load()
