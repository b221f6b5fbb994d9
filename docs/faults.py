"""Every `CloudsError` of the source, read from its syntax tree: message, hint and the file it comes from."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "clouds_deploy"
GAP = "…"
"""What stands for a name, a path or a number of the moment."""


@dataclass(frozen=True)
class Fault:
    """One call of `CloudsError`.

    Attributes:
        module: The file, from the checkout's root.
        line: Its line.
        message: The message, with `GAP` for what differs from case to case.
        hint: The hint, the same way; empty where it is another error's.
    """

    module: str
    line: int
    message: str
    hint: str

    @property
    def area(self) -> str:
        """The part of the package, such as `training`; `general` for modules at its root."""
        parts = self.module.split("/")
        return parts[1] if len(parts) > 2 else "general"

    @property
    def own(self) -> bool:
        """Whether the message has words of its own, rather than those of an error that is passed on."""
        return bool(re.search(r"\w{3}", self.message))


@dataclass
class Entry:
    """One message, with what each place that gives it says to do.

    Attributes:
        area: Where it is listed.
        hints: Distinct hints, in the order of the source.
        modules: Files that give it.
    """

    area: str
    hints: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)


@cache
def faults() -> tuple[Fault, ...]:
    """Every call in the package, by file and line."""
    found: list[Fault] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        module = path.relative_to(ROOT).as_posix()
        shared = _assigned(tree.body)
        for scope, call in _calls(tree):
            known = {**shared, **(_assigned(list(ast.walk(scope))) if scope else {})}
            given = {word.arg: word.value for word in call.keywords}
            parts = [*call.args, *(given[name] for name in ("message", "hint") if name in given)]
            message = _pattern(parts[0], known) if parts else GAP
            hint = _pattern(parts[1], known) if len(parts) > 1 else ""
            found.append(Fault(module, call.lineno, message, "" if hint == GAP else hint))
    return tuple(found)


@cache
def entries() -> dict[str, Entry]:
    """Messages with their hints: by area, then as the source has them."""
    found: dict[str, Entry] = {}
    for fault in sorted(faults(), key=lambda one: (one.area != "general", one.area, one.module, one.line)):
        if not fault.own:
            continue
        entry = found.setdefault(fault.message, Entry(fault.area))
        for kept, one in ((entry.hints, fault.hint), (entry.modules, fault.module)):
            if one and one not in kept:
                kept.append(one)
    return found


def listing() -> str:
    """The list as Markdown: a heading for each message, so that it has an anchor and search finds it."""
    lines, area = [], ""
    for message, entry in entries().items():
        if entry.area != area:
            area = entry.area
            lines += [f"## {area.capitalize()}\n"]
        lines += [f"### {_markdown(message)}\n"]
        if len(entry.hints) == 1:
            lines += [f"Hint: {_markdown(entry.hints[0])}.\n"]
        elif entry.hints:
            lines += ["Hint, by the case:\n", *(f"- {_markdown(hint)}" for hint in entry.hints), ""]
        lines += [f"<small>{', '.join(f'`{module}`' for module in entry.modules)}</small>\n"]
    return "\n".join(lines)


def _markdown(text: str) -> str:
    """Text as it is, code spans kept."""
    parts = " ".join(text.split()).rstrip(":").split("`")
    if len(parts) % 2 == 0:  # a quote that a gap swallowed: no code
        return re.sub(r"([*_\[\]#|`])", r"\\\1", html.escape("`".join(parts), quote=False))
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*_\[\]#|])", r"\\\1", html.escape(parts[i], quote=False))
    return "`".join(parts)


def _calls(tree: ast.AST, scope: ast.AST | None = None) -> Iterator[tuple[ast.AST | None, ast.Call]]:
    """Calls with the function that each is in."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "CloudsError":
            yield scope, node
        inner = node if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else scope
        yield from _calls(node, inner)


def _assigned(body: list[ast.AST] | list[ast.stmt]) -> dict[str, ast.expr]:
    """Texts that names stand for, where a name has one alone."""
    found: dict[str, ast.expr] = {}
    twice = set()
    for node in body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            twice |= {name} & found.keys()
            found[name] = node.value
    texts = (ast.Constant, ast.JoinedStr, ast.BinOp, ast.IfExp)
    return {name: value for name, value in found.items() if name not in twice and isinstance(value, texts)}


def _pattern(node: ast.expr, known: dict[str, ast.expr], depth: int = 0) -> str:
    """A text with `GAP` for what differs."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else str(node.value)
    if isinstance(node, ast.JoinedStr):
        return _joined([_pattern(part, known, depth) for part in node.values])
    if isinstance(node, ast.FormattedValue):
        inner = node.value
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "install":
            return _pattern(inner, known, depth)
        return GAP
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _joined([_pattern(node.left, known, depth), _pattern(node.right, known, depth)])
    if isinstance(node, ast.IfExp):
        both = [_pattern(node.body, known, depth), _pattern(node.orelse, known, depth)]
        full = [text for text in both if text.strip() and text != GAP]
        return " / ".join(dict.fromkeys(full)) or GAP
    if isinstance(node, ast.Name) and node.id in known and depth < 4:
        return _pattern(known[node.id], known, depth + 1)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        if node.func.id == "install" and isinstance(node.args[0], ast.Constant):
            return f'pip install "clouds-deploy[{node.args[0].value}]"'
        if node.func.id == "nearest":
            return f"did you mean `{GAP}`? / known: `{GAP}`"
    return GAP


def _joined(parts: list[str]) -> str:
    return re.sub(f"{GAP}(\\s*{GAP})+", GAP, "".join(parts))
