"""Reference pages from the code: commands, recipe keys, export recipes, layouts, HTTP routes, Python API.

    python docs/generate.py            # writes docs/reference/*.md; `make docs` does the same

`tests/test_docs.py` checks that the pages are up to date.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from clouds_deploy.config.section import Section  # noqa: E402
from clouds_deploy.labels import LabelSet  # noqa: E402

REFERENCE = ROOT / "docs" / "reference"
_NOTE = "<!-- Written by docs/generate.py; edit the code's docstrings and run `make docs`. -->\n\n"

_RECIPES = """\
A recipe is a YAML file in this shape; `clouds-deploy recipes cat NAME` shows one with every value. On the
command line a key is set as `train.lr=2e-4`. `base: NAME` takes every key that a recipe leaves out from the
shipped recipe of that name. An unknown key is an error that names the nearest one. Recipes that ship:
[training/recipes](../../training/recipes/).
"""
_EXPORT_RECIPES = """\
What a graph keeps in float32, how far it may be from PyTorch, and the shapes of engines. `export --recipe`
takes another file; a training recipe's `export` section overrides single keys of a segmenter's.
"""
_LAYOUTS = """\
Datasets are read as their downloads unpack; nothing is converted or moved. `data.layout` and `--layout` take
these names; `clouds-deploy data check ROOT` recognises them. `streets` is the synthetic data set, which needs
no folder.
"""
_PARAMETERS = """\
## Parameters

| | in (multipart form) | out |
|---|---|---|
| `/v1/segment` | `image` | label PNG (train ids); `?as=overlay` a JPEG, `?as=json` shares; or `Accept` |
| `/v1/refine` | `image`, and `labels` (else the model's own) | label PNG refined by SAM, 255 for no label |
| `/v1/points` | `image`, `points`: `[[x, y, 1 or 0], ...]` | mask PNG, 0 and 255; `?as=json` the rating |

A point is in pixels of the image, with 1 on the thing and 0 off it. `/v2` is the
[KServe v2 protocol](https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol) with
the binary tensor extension: `image` UINT8 `[N, H, W, 3]` at the graph's size in, `labels` UINT8 `[N, H, W]`
out. With `Inference-Header-Content-Length: 0` the body is the image's bytes alone.
"""
_PYTHON = """\
Every command is a function of `clouds_deploy` with the same options; `data check` is `data_check`, `import`
is `import_checkpoint`. A function returns what the command prints with `--json`. A fault in the input is a
`clouds_deploy.CloudsError` with `message`, `hint` and `exit_code`. Importing the package is cheap: a function
loads what it needs on first use.
"""


def pages() -> dict[str, str]:
    """Text of every generated page, by its file name in docs/reference."""
    return {
        "cli.md": cli(),
        "recipes.md": recipes(),
        "export-recipes.md": export_recipes(),
        "layouts.md": layouts(),
        "http.md": http(),
        "python.md": python(),
    }


def cli() -> str:
    """Every command with its arguments and options, from the signatures that the typer application reads."""
    from clouds_deploy.cli.app import app

    lines = ["# Commands\n", _plain(str(app.info.help or "")), "", _plain(str(app.info.epilog or "")), ""]
    lines.append("Every command takes `--json`: its last line on stdout is then one JSON object.\n")
    for name, function in commands(app):
        lines += _command(name, function)
    return _page(lines)


def commands(app: typer.Typer, prefix: str = "") -> Iterator[tuple[str, Callable[..., Any]]]:
    """Name and function of every command, in the order of `--help`."""
    for command in app.registered_commands:
        assert command.callback is not None
        yield f"{prefix}{command.name or command.callback.__name__}", command.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, f"{prefix}{group.name} ")


def option_names(parameter: inspect.Parameter) -> list[str]:
    """What a command's parameter is called on the command line; nothing for an argument."""
    kind, told = get_args(parameter.annotation)[:2]
    if isinstance(told, typer.models.ArgumentInfo):
        return []
    named = [one for one in (told.default, *(told.param_decls or ())) if str(one).startswith("-")]
    if named:
        return "/".join(named).split("/")
    plain = parameter.name.replace("_", "-")
    return [f"--{plain}", f"--no-{plain}"] if bool in (kind, *get_args(kind)) else [f"--{plain}"]


def _command(name: str, function: Callable[..., Any]) -> list[str]:
    arguments, options, usage = [], [], [f"clouds-deploy {name}"]
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind, told = get_args(parameter.annotation)[:2]
        needed = parameter.default is inspect.Parameter.empty
        if isinstance(told, typer.models.ArgumentInfo):
            shown = told.metavar or parameter.name.upper()
            shown = shown if needed else f"[{shown}]"
            shown += "..." if list in (get_origin(kind), *map(get_origin, get_args(kind))) else ""
            usage.append(shown)
            taken = f" Default: {told.show_default}." if isinstance(told.show_default, str) else ""
            arguments.append(f"| `{_cell(shown)}` | {_cell((told.help or '') + taken)} |")
        elif parameter.name != "as_json":
            flag, names = bool in (kind, *get_args(kind)), option_names(parameter)
            value = "" if flag else f" {told.metavar or _type(kind).partition(' or ')[0].strip('`').upper()}"
            if needed:
                usage.append(f"{names[0]}{value}")
            shown = ", ".join(f"`{one}`" for one in names)
            stated = told.show_default if isinstance(told.show_default, str) else _shown(parameter.default)
            default = "required" if needed else stated
            options.append(f"| {shown}{value and f' `{value[1:]}`'} | {default} | {_cell(told.help or '')} |")
    lines = [f"## {name}\n", _help(function.__doc__ or ""), ""]
    lines += ["```", " ".join([*usage, *(["[OPTIONS]"] if options else [])]), "```", ""]
    if arguments:
        lines += ["| argument | |", "|---|---|", *arguments, ""]
    if options:
        lines += ["| option | default | |", "|---|---|---|", *options, ""]
    return lines


def _shown(default: Any) -> str:
    if default is None or default is False or default == "":
        return ""
    return "on" if default is True else f"`{default}`"


def _help(text: str) -> str:
    """Help text as Markdown: the example becomes a code block."""
    text = re.sub(r"\x0c.*", "", inspect.cleandoc(text), flags=re.DOTALL)
    prose, found, example = re.sub(r"\s*\n(?!\n)", " ", text).partition("For example: ")
    prose = _plain(prose.replace("  ", " ")).strip()
    return prose if not found else f"{prose}\n\n```\n{' '.join(example.split())}\n```"


def recipes() -> str:
    """Every key of both kinds of recipe, from the sections' fields and docstrings."""
    from clouds_deploy.config.recipe import Recipe
    from clouds_deploy.config.sam import SamRecipe

    lines = [
        "# Recipe keys\n",
        _RECIPES,
        "## Segmenter\n",
        *_sections(Recipe, ""),
        "## Promptable segmenter (`kind: sam`)\n",
        *_sections(SamRecipe, "", " of a SAM"),
    ]
    return _page(lines)


def export_recipes() -> str:
    """Every key of the export recipes, and the shipped files."""
    from clouds_deploy.config.export import ExportConfig, SamExportConfig

    lines = [
        "# Export recipe keys\n",
        _EXPORT_RECIPES,
        "## Segmenter\n",
        *_sections(ExportConfig, "", values=ExportConfig.model_validate({})),
        "## SAM\n",
        *_sections(SamExportConfig, "", " of a SAM", SamExportConfig.model_validate({})),
    ]
    for path in sorted((ROOT / "export" / "recipes").glob("*.yaml")):
        where = f"export/recipes/{path.name}"
        lines += [f"## [{where}](../../{where})\n", "```yaml", path.read_text("utf-8").rstrip(), "```", ""]
    return _page(lines)


def _table(section: type[BaseModel]) -> list[str]:
    """A table of one section's own fields."""
    told = _attributes(section)
    lines = ["| option | type | default | |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        default = (
            "required" if field.is_required() else f"`{_value(field.get_default(call_default_factory=True))}`"
        )
        lines.append(
            f"| `{name}` | {_type(field.annotation)} | {_cell(default)} | {_cell(told.get(name, ''))} |"
        )
    return [*lines, ""]


def _sections(
    section: type[BaseModel], prefix: str, of: str = "", values: BaseModel | None = None
) -> list[str]:
    """A table of one section's keys, then those of the sections below it.

    `of` tells equal headings apart; `values` has the defaults of fields that have none in the code.
    """
    told = _attributes(section)
    title = f"### `{prefix.rstrip('.')}`{of}\n" if prefix else ""
    lines = [title, _plain(_summary(section)).strip(), "", "| key | type | default | |", "|---|---|---|---|"]
    below: list[tuple[str, type[BaseModel], BaseModel | None]] = []
    for name, field in section.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_section(kind)]
        if inner and get_origin(field.annotation) is not tuple:
            value = getattr(values, name, field.get_default(call_default_factory=True))
            below.append((f"{prefix}{name}.", inner[0], value if isinstance(value, BaseModel) else None))
            default = "null" if field.default is None else ""
            target = f"{prefix}{name}{of}".lower().replace(".", "").replace(" ", "-")
            target = re.sub(r"[^\w-]", "", target)
            link = f"[section](#{target})"
            lines.append(f"| `{prefix}{name}` | {link} | {default} | {_cell(_linked(told.get(name, '')))} |")
            continue
        value = getattr(values, name, field.get_default(call_default_factory=True))
        default = "required" if field.is_required() and values is None else f"`{_value(value)}`"
        kind = _type(field.annotation)
        lines.append(
            f"| `{prefix}{name}` | {kind} | {_cell(default)} | {_cell(_linked(told.get(name, '')))} |"
        )
    lines.append("")
    for deeper, kind, value in below:
        lines += _sections(kind, deeper, of, value)
    return lines


def _is_section(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Section)


def _attributes(section: type[BaseModel]) -> dict[str, str]:
    """The `Attributes:` of a section's docstring and of its bases'."""
    told: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
        for name, meaning in re.findall(
            r"^    (\w+): (.*?)(?=^    \w+: |\Z)", text, re.DOTALL | re.MULTILINE
        ):
            told[name] = " ".join(meaning.split())
    return told


def _summary(section: type[BaseModel]) -> str:
    return " ".join(inspect.cleandoc(section.__doc__ or "").partition("Attributes:")[0].split())


def _linked(text: str) -> str:
    """An attribute's text without the reference to a section's class, which the next table is."""
    text = re.sub(r"\s*\(?\bsee `\w+(Config|Limits)`\)?[.;]?", "", text, flags=re.IGNORECASE)
    return _plain(text.strip(" ."))


def _type(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if origin in (Union, UnionType):
        return " or ".join("null" if one is type(None) else _type(one) for one in get_args(kind))
    if origin is tuple:
        inner = get_args(kind)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return f"list of {_type(inner[0])}"
        return f"[{', '.join(_type(one) for one in inner)}]"
    if origin is dict:
        return "mapping"
    if hasattr(kind, "__metadata__"):
        return _type(get_args(kind)[0])
    if origin is list:
        return _type(get_args(kind)[0])
    names = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
    names[LabelSet] = "label set"
    return names.get(kind, f"`{getattr(kind, '__name__', kind)}`")


def _value(value: Any) -> str:
    if isinstance(value, LabelSet):
        return value.name
    if isinstance(value, BaseModel):
        return str(value.model_dump(mode="json"))
    if isinstance(value, tuple):
        return f"[{', '.join(_value(one) for one in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def layouts() -> str:
    """The tree that each data layout expects, and its splits."""
    from clouds_deploy.data.layouts import LAYOUTS

    lines = [
        "# Data layouts\n",
        _LAYOUTS,
        "| layout | expected tree | |",
        "|---|---|---|",
    ]
    for name, layout in LAYOUTS.items():
        module = importlib.import_module(f"clouds_deploy.data.layouts.{name.split('-')[0].split('_')[0]}")
        lines.append(f"| `{name}` | {_cell(layout.expects)} | {_cell(_plain(_first(module.__doc__)))} |")
    return _page(
        [
            *lines,
            "",
            "Labels become train ids: positions in the label set, 0 to 18 of Cityscapes' 19, and 255 for "
            "pixels without a class.",
            "",
        ]
    )


def http() -> str:
    """Every route of the server with the first line of its handler's docstring."""
    from clouds_deploy.serving.kserve import KServe
    from clouds_deploy.serving.pictures import Pictures

    nothing: Any = None
    lines = [
        "# HTTP API\n",
        "`clouds-deploy serve` answers these; `/openapi.json` describes them with bodies and statuses.",
        'Refusals are JSON, `{"error": ..., "hint": ...}`, and `error` ends with the hint; the',
        "[guide](../guides/serve.md) has examples, limits and status codes. POST bodies may be",
        "compressed with gzip or deflate (`Content-Encoding`).\n",
        "| | | |",
        "|---|---|---|",
        "| GET | `/` | The page. |",
        "| GET | `/openapi.json` | The server's own description: OpenAPI 3.1. |",
        "| GET | `/metrics` | Metrics for Prometheus. |",
        "| GET | `/health`, `/ready` | As `/v2/health/live` and `/v2/health/ready`. |",
    ]
    for route in (*Pictures(nothing, nothing, nothing).routes(), *KServe(nothing, nothing).routes()):
        method = "POST" if "POST" in (route.methods or ()) else "GET"
        told = _plain(_first(inspect.getdoc(route.endpoint)))
        if "/versions/" in route.path:
            continue
        lines.append(f"| {method} | `{route.path}` | {_cell(told)} |")
    lines += [
        "",
        "Every path with a model also exists with its version: `/v2/models/{model}/versions/1/...`.\n",
        _PARAMETERS,
    ]
    return _page(lines)


def python() -> str:
    """The verbs as Python functions."""
    import clouds_deploy

    lines = [
        "# Python API\n",
        _PYTHON,
    ]
    for name in sorted(set(clouds_deploy.__all__) - {"CloudsError", "__version__"}):
        verb = clouds_deploy.__getattr__(name)  # the verb, where a module has its name
        lines += [f"## {name}\n", "```python", _signature(name, verb), "```", "", _google(verb), ""]
        lines += _options(name, verb)
    return _page(lines)


def _options(name: str, verb: Any) -> list[str]:
    """A table of the options that a verb takes as `**options`: the fields of its class in `config`."""
    if all(
        parameter.kind is not parameter.VAR_KEYWORD
        for parameter in inspect.signature(verb).parameters.values()
    ):
        return []
    words = name.split("_")
    module = importlib.import_module(f"clouds_deploy.config.{words[0]}")
    section = getattr(module, "".join(word.capitalize() for word in words) + "Options")
    return ["**Options**\n", *_table(section)]


def _signature(name: str, verb: Any) -> str:
    signature = inspect.signature(verb)
    parts, keyword = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            keyword = True
            parts.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        shown = f"{stars}{parameter.name}: {_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            shown += f" = {parameter.default!r}" if not callable(parameter.default) else " = ..."
        parts.append(shown)
    tail = f") -> {_annotation(signature.return_annotation)}"
    line = f"{name}({', '.join(parts)}{tail}"
    return line if len(line) <= 100 else "\n".join([f"{name}(", *(f"    {part}," for part in parts), tail])


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _google(verb: Any) -> str:
    """A Google docstring as Markdown."""
    lines: list[str] = []
    for line in (inspect.getdoc(verb) or "").splitlines():
        entry = re.match(r"    (\*{0,2}\w+): (.*)", line)
        if line in ("Args:", "Returns:", "Raises:"):
            lines += [f"**{line[:-1]}**", ""]
        elif entry:
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        else:
            lines.append(
                ("  " if line.startswith("      ") and lines and lines[-1][:1] in "- " else "") + line.strip()
            )
    return _plain("\n".join(lines))


def _first(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _plain(text: str) -> str:
    """Names of pages in docstrings as links."""
    return re.sub(r"docs/(?:\w+/)*([\w-]+)\.md", _link, text)


def _link(found: re.Match[str]) -> str:
    page = next((path for path in (ROOT / "docs").rglob(f"{found[1]}.md") if path.parent != REFERENCE), None)
    return found[0] if page is None else f"[{found[1]}](../{page.relative_to(ROOT / 'docs').as_posix()})"


def _cell(text: str) -> str:
    """Text for a table: one line, bars escaped, angle brackets outside of code too."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(part if odd % 2 else part.replace("<", "&lt;") for odd, part in enumerate(parts))


def _page(lines: list[str]) -> str:
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    return _NOTE + text.rstrip() + "\n"


def main() -> None:
    """Writes the pages."""
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
