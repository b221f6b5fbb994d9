"""Names from elsewhere as paths below a folder: what could lead out of it is refused, or escaped.

A name in a manifest, an archive, an ONNX file or an object store is text that somebody else wrote. `inside`
is for names that this project writes itself (manifests, bundles): one that no honest writer gives is refused.
`escaped` is for names that users give their files (object keys, members of shards): every one gets a path of
its own, by percent signs as in URLs, so that a strange name costs neither the run nor another file.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes

from clouds_deploy.errors import CloudsError, printable

TAMPERED = "don't use it: it was tampered with"
"""What to do about a directory or file that no honest writer makes."""
LONGEST = 255
"""Bytes of one part of a path that file systems take."""
_DEEPEST = 32
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in "123456789")}
)
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_ESCAPE = re.compile(r"%(?=[0-9A-Fa-f]{2}|u[0-9A-F]{4})")
"""A percent sign that would be read back as an escape, if it were not one itself."""


def fault(name: object) -> str:
    """What is wrong with a name as a path below a folder, for messages; empty if nothing is.

    Refused are absolute paths, `..`, `.` and empty parts, backslashes, drive letters, control characters
    (NUL and escape codes too), what is not UTF-8, names of devices, parts of over 255 bytes, and paths of
    more than 32 parts.
    """
    if not isinstance(name, str) or not name:
        return "is no name"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    if _CONTROL.search(name):
        return "has a control character in it"
    if name.startswith("/"):
        return "is an absolute path"
    if "\\" in name:
        return "has a backslash in it"
    parts = name.split("/")
    if ".." in parts:
        return "leads outside of it"
    if len(parts) > _DEEPEST:
        return f"has more than {_DEEPEST} parts"
    for part in parts:
        if part in ("", "."):
            return "has an empty part"
        if _DRIVE.match(part):
            return "names a drive"
        if part.partition(".")[0].rstrip(" ").lower() in _DEVICES:
            return "is the name of a device"
        if len(part.encode()) > LONGEST:
            return f"has a part of over {LONGEST} bytes"
    return ""


def inside(root: Path, name: object, where: str | Path) -> Path:
    """The path of a name below a folder; links on the way are followed, and may not lead out of it.

    Args:
        root: The folder.
        name: The name, which somebody else wrote; see `fault`.
        where: What holds it, for messages.

    Raises:
        CloudsError: It is no name of a file in the folder; what is there is neither a file nor a folder.
    """
    wrong = fault(name)
    if not wrong:
        path = root / str(name)
        found = _status(path)
        if found is None or stat.S_ISDIR(found) or stat.S_ISREG(found):
            top = os.path.realpath(root)
            if os.path.commonpath([top, os.path.realpath(path)]) == top:
                return path
            wrong = "is a link that leads outside of it"
        else:
            wrong = "is a device, a pipe or a socket, and no file"
    raise CloudsError(f"{where} names {shown(name)}, which {wrong}", "get it again from a source you trust")


def _status(path: Path) -> int | None:
    """Kind of what a path leads to; None where nothing is."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # a loop of links
        raise CloudsError(
            f"{shown(str(path))} cannot be read: {error.strerror}", "check the folder"
        ) from error


def is_regular(path: Path) -> bool:
    """Whether a path leads to an ordinary file, which can be opened without waiting for anybody."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def escaped(name: str) -> str:
    """A relative path of its own for any name: other names give other paths.

    What `fault` refuses is written as `%XX`, byte by byte; ordinary names stay as they are, `10:30.mp4` too.
    A part of over 255 bytes is cut and ends with a hash of the whole.
    """
    parts = [_part(part) for part in name.split("/")]
    if len(parts) > _DEEPEST:
        parts = [*parts[: _DEEPEST - 1], "%2F".join(parts[_DEEPEST - 1 :])]
    return "/".join(_cut(part) for part in parts)


def _part(part: str) -> str:
    if part in ("", ".", ".."):
        return "".join(f"%{byte:02X}" for byte in part.encode()) or "%"
    text = _ESCAPE.sub("%25", part)
    if text == "%":
        text = "%25"
    text = _CONTROL.sub(lambda found: _bytes(found[0]), text).replace("\\", "%5C")
    text = re.sub("[\ud800-\udfff]", lambda found: _bytes(found[0]), text)
    if _DRIVE.match(text):
        text = f"{text[0]}%3A{text[2:]}"
    if text.partition(".")[0].rstrip(" ").lower() in _DEVICES:
        text = f"%{ord(text[0]):02X}{text[1:]}"
    return text


def _bytes(text: str) -> str:
    """Bytes of a character as escapes; a half character that stands for no byte keeps its number."""
    if "\ud800" <= text <= "\udfff" and not "\udc80" <= text <= "\udcff":
        return f"%u{ord(text):04X}"
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def _cut(part: str) -> str:
    data = part.encode()
    if len(data) <= LONGEST:
        return part
    digest = hashlib.sha256(data).hexdigest()[:16]
    stem, dot, suffix = part.rpartition(".")
    ending = f"{dot}{suffix}" if stem and len(suffix.encode()) <= 16 else ""
    kept = data[: LONGEST - 18 - len(ending.encode())].decode(errors="ignore")
    return f"{kept}%~{digest}{ending}"


def unescaped(path: str) -> str:
    """The name that `escaped` made a path of, where no part of it was cut."""
    parts = (
        "" if part == "%" else os.fsdecode(unquote_to_bytes(os.fsencode(part))) for part in path.split("/")
    )
    return "/".join(parts)


def shown(name: object) -> str:
    """A name for a message: in backquotes, short, with control characters and broken bytes escaped."""
    text = printable(str(name)).replace("\n", "\\n").replace("\t", "\\t")
    text = text if len(text) <= 120 else f"{text[:100]}[...]{text[-15:]}"
    return f"`{text}`"
