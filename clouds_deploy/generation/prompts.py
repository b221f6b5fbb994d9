"""Prompts of scenes: a model writes drafts, a filter rejects some, until each scene has its prompt."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import atomic_directory, check_new, write_manifest
from clouds_deploy.console import progress
from clouds_deploy.errors import CloudsError
from clouds_deploy.generation.examples import LAYOUTS, lesson, shown_sentences
from clouds_deploy.generation.form import Form
from clouds_deploy.generation.load_writer import PACKAGED, load_writer
from clouds_deploy.generation.scenes import FACTORS, Scene, coverage, deal_scenes
from clouds_deploy.generation.sieve import Sieve
from clouds_deploy.generation.writer import Draft, Sampling, Writer
from clouds_deploy.seeds import chooser

KIND = "prompts"
TEXT = "prompts.txt"
SCENES = "prompts.jsonl"
REFUSED = "refused.jsonl"
FORMS = {"slots": ("place_first", "subject_first"), "sentence": ("whole_sentence",)}
"""Text by the model: visible things within a given sentence, or the whole sentence."""
_PATIENCE = 6
"""Drafts of a scene before another subject is tried in it."""
_LIMIT = 8
"""Subjects that are tried in a scene before an error."""
_AT_ONCE = 8
"""Drafts of one scene that are written together when few scenes are left; the first good one is kept."""


@dataclass
class Written:
    """Result of writing prompts.

    Attributes:
        prompts: The prompts, in the order of their scenes.
        scenes: The scene of each.
        drafts: Number of drafts, including rejected ones.
        refused: (fault, draft) of the rejected ones.
        seconds: Time taken, without loading the model.
    """

    prompts: list[str]
    scenes: list[Scene]
    drafts: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Statistics: `prompts`, `distinct`, `drafts`, `refused_share`, `refused`, `coverage`, ..."""
        reasons = Counter(fault for fault, _ in self.refused)
        return {
            "prompts": len(self.prompts),
            "distinct": len({prompt.lower() for prompt in self.prompts}),
            "drafts": self.drafts,
            "refused_share": round(len(self.refused) / self.drafts, 4) if self.drafts else 0.0,
            "refused": dict(reasons.most_common()),
            "coverage": coverage(self.scenes),
            "seconds": round(self.seconds, 1),
        }


def write_prompts(writer: Writer, count: int, seed: int, *, form: str = "slots", batch: int = 32) -> Written:
    """Writes prompts with a language model.

    Args:
        writer: The model.
        count: Number of prompts.
        seed: The same seed, count, form, batch and model give the same prompts on the same machine.
        form: One of `FORMS`.
        batch: Drafts that are written together.

    Raises:
        CloudsError: The model cannot write such prompts (exit code 1).
    """
    layouts = FORMS[form]
    sieve = Sieve(shown_sentences())
    result = Written([""] * count, deal_scenes(count, seed))
    tries, changes = [0] * count, [0] * count
    start = time.perf_counter()
    with progress("prompts", count, "prompt") as advance:
        while todo := [i for i in range(count) if not result.prompts[i]]:
            for layout, group in _groups(todo, tries, layouts, batch):
                make, _ = LAYOUTS[layout]
                forms = [make(result.scenes[i]) for i in group]
                seeds = [_number(seed, result.drafts + place) for place in range(len(group))]
                taught = lesson(layout, seeds[0])
                drafts = writer.write(taught, forms, seeds)
                for index, one, draft in zip(group, forms, drafts, strict=True):
                    if not result.prompts[index]:
                        _judge(result, sieve, index, one, draft)
                        tries[index] += 1
                for index in sorted(set(group)):
                    if not result.prompts[index] and tries[index] >= _PATIENCE * (1 + changes[index]):
                        changes[index] += 1
                        _another_subject(result, index, changes[index], seed)
                advance(sum(map(bool, result.prompts)), f"{len(result.refused)} refused")
    result.seconds = time.perf_counter() - start
    return result


def _groups(
    todo: Sequence[int], tries: Sequence[int], layouts: Sequence[str], batch: int
) -> list[tuple[str, list[int]]]:
    """Batches of scenes with the same layout, `batch` at most; few scenes get several drafts each."""
    groups = []
    for number, layout in enumerate(layouts):
        mine = [i for i in todo if (i + tries[i]) % len(layouts) == number]
        for at in range(0, len(mine), batch):
            some = mine[at : at + batch]
            groups.append((layout, some * min(_AT_ONCE, max(1, batch // len(some)))))
    return groups


def _number(*parts: int) -> int:
    """Returns a seed for one draft."""
    return chooser(*parts).getrandbits(62)


def _judge(result: Written, sieve: Sieve, index: int, form: Form, draft: Draft) -> None:
    result.drafts += 1
    fault = sieve.fault(result.scenes[index], form, draft)
    if fault is None:
        result.prompts[index] = draft.text
    else:
        result.refused.append((fault, draft.text))


def _another_subject(result: Written, index: int, change: int, seed: int) -> None:
    """Replaces the subject of a scene that the model fails to describe."""
    if change > _LIMIT:
        common = Counter(fault for fault, _ in result.refused).most_common(1)[0][0]
        raise CloudsError(
            f"the model wrote {result.drafts} drafts; one scene's, with {change} subjects, were all refused, "
            f"most often: {common}",
            "choose a larger instruction-tuned model, or `--form slots`",
            exit_code=1,
        )
    scene = result.scenes[index]
    values = scene.values()
    others = [Scene(**{**values, "subject": subject}) for subject in FACTORS["subject"]]
    fitting = [other for other in others if other.fits() and other != scene]
    result.scenes[index] = random.Random(_number(seed, index, change)).choice(fitting)


def save_prompts(written: Written, out: Path, *, replace: bool = False, **facts: Any) -> dict[str, Any]:
    """Writes prompts as a directory: the text, the scene of each, rejected drafts with reasons.

    Args:
        written: The prompts.
        out: The folder to make; `prompts.txt` has one prompt a line.
        replace: Whether older prompts there may be replaced.
        facts: More entries of the manifest.

    Returns:
        The manifest.
    """
    with atomic_directory(out, replace=replace) as folder:
        (folder / TEXT).write_text("".join(f"{p}\n" for p in written.prompts), encoding="utf-8")
        lines = ({"prompt": p, **s.values()} for p, s in zip(written.prompts, written.scenes, strict=True))
        _write_lines(folder / SCENES, lines)
        _write_lines(folder / REFUSED, ({"fault": fault, "draft": text} for fault, text in written.refused))
        return write_manifest(folder, KIND, **facts, **written.summary())


def _write_lines(path: Path, records: Any) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


def prompts(
    out: str | Path,
    *,
    count: int = 100,
    model: str = PACKAGED,
    form: str = "slots",
    seed: int = 0,
    temperature: float = 0.6,
    top_p: float = 0.8,
    replace: bool = False,
) -> dict[str, Any]:
    """Writes prompts into a folder with a language model (CLOUDS, section 3.2: "Prompts").

    Args:
        out: The folder: `prompts.txt`, the scenes in `prompts.jsonl`, `refused.jsonl`, a manifest.
        count: Number of prompts.
        model: See `load_writer`.
        form: `slots` or `sentence`; see `FORMS`.
        seed: The same settings give the same prompts on the same machine.
        temperature: Above 0.
        top_p: Above 0, to 1.
        replace: Whether the folder may be replaced.

    Returns:
        The manifest, `out`, and a few `examples`.

    Raises:
        CloudsError: A setting is wrong, `out` exists, the model cannot be loaded or cannot write prompts.
    """
    folder = Path(out)
    if form not in FORMS:
        raise CloudsError(f"there is no form `{form}`", f"choose one of {', '.join(FORMS)}")
    if count < 1 or temperature <= 0 or not 0 < top_p <= 1:
        raise CloudsError(
            f"count {count}, temperature {temperature} and top_p {top_p} cannot be used",
            "count from 1, temperature above 0, top_p above 0 and up to 1",
        )
    if folder.exists() and not replace:
        raise CloudsError(f"{folder} exists already", "choose another --out, or give --replace")
    check_new(folder, replace=replace)
    writer = load_writer(model, Sampling(temperature, top_p))
    written = write_prompts(writer, count, seed, form=form)
    facts = {"form": form, "seed": seed, "temperature": temperature, "top_p": top_p, **writer.describe()}
    manifest = save_prompts(written, folder, replace=replace, **facts)
    return {**manifest, "out": str(folder), "examples": written.prompts[:5]}
