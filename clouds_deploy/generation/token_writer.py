"""A Hugging Face model that fills in forms by masked sampling, many forms at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clouds_deploy.generation.form import Choice, Form, Free
from clouds_deploy.generation.words import UNFINISHED_WORDS
from clouds_deploy.generation.writer import Draft, Sampling

if TYPE_CHECKING:
    import torch


_LONGEST = 160
"""Largest number of tokens of a draft; a longer one is unfinished."""


class _Vocabulary:
    """Tokens with their texts, and the masks of allowed ones.

    Args:
        tokenizer: A Hugging Face tokenizer.
        size: Number of the model's logits; some may belong to no token.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.tokenizer, self.size = tokenizer, size
        special = set(tokenizer.all_special_ids)
        self.texts: list[str] = [
            "" if i in special else tokenizer.decode([i]) for i in range(min(size, len(tokenizer)))
        ]
        self._masks: dict[tuple[Free, bool, bool], torch.Tensor] = {}

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without special ones."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def mask(self, slot: Free, *, may_end: bool, inside: bool) -> torch.Tensor:
        """Mask (V,): 0 for tokens that may come next in a free part, -inf for others.

        Args:
            slot: The free part.
            may_end: Whether it has enough words.
            inside: Whether a word has begun, so that a token without a blank may go on with it.
        """
        import torch

        key = (slot, may_end, inside)
        if key not in self._masks:
            mask = torch.full((self.size,), -torch.inf)
            for token, text in enumerate(self.texts):
                word = bool(text.strip()) and set(text) <= slot.letters and "  " not in text
                word = word and text.strip().lower() not in slot.banned
                if (word and (inside or text[0] == " ")) or (may_end and ends(text, slot.letters)):
                    mask[token] = 0
            self._masks[key] = mask
        return self._masks[key]


def ends(text: str, letters: frozenset[str]) -> bool:
    """Whether a token that begins with such a character ends a free part."""
    return text[:1] in (".", ",", "\n") and text[:1] not in letters


class _Row:
    """One form, filled in token by token."""

    def __init__(self, form: Form, vocabulary: _Vocabulary, seed: int, sampling: Sampling) -> None:
        import torch

        self.vocabulary, self.sampling = vocabulary, sampling
        self.slots = list(form.slots)
        self.tokens: list[int] = []
        self.generator = torch.Generator().manual_seed(seed)
        self.text, self.free = "", ""
        self.doubts: list[float] = []
        self.said: list[int] = []
        self.done = self.broken = False
        self._open()

    def _open(self) -> None:
        """Goes to the next slot."""
        self.free = ""
        if not self.slots:
            self.done, self.text = True, self.text + "."
            return
        self.slot = self.slots.pop(0)
        if isinstance(self.slot, Choice):
            self.left = [(option, self.vocabulary.encode(option)) for option in self.slot.options]
            self.place = 0

    def next(self, logits: torch.Tensor) -> int:
        """Chooses the next token.

        Args:
            logits: (V,) of the model.
        """
        if self.done:
            return 0
        return self._choose(logits) if isinstance(self.slot, Choice) else self._write(logits, self.slot)

    def _draw(self, logits: torch.Tensor, *, all_of_it: bool) -> int:
        """Random token among all allowed ones, or among the likeliest."""
        import torch

        likely, order = (logits / self.sampling.temperature).softmax(0).sort(descending=True, stable=True)
        if not all_of_it:
            likely = likely * (likely.cumsum(0) - likely < self.sampling.top_p)
        return int(order[torch.multinomial(likely, 1, generator=self.generator)])

    def _choose(self, logits: torch.Tensor) -> int:
        """Next token of one of the wordings."""
        import torch

        allowed = sorted({tokens[self.place] for _, tokens in self.left})
        token = allowed[0]
        if len(allowed) > 1:
            mask = torch.full_like(logits, -torch.inf)
            mask[allowed] = 0
            token = self._draw(logits + mask, all_of_it=True)
        self.place += 1
        self.left = [one for one in self.left if one[1][self.place - 1] == token]
        ended = [option for option, tokens in self.left if len(tokens) == self.place]
        if ended:  # a wording that begins another one comes second in no table
            self.text += ended[0]
            self._open()
        return token

    def _write(self, logits: torch.Tensor, slot: Free) -> int:
        """Next token of a free part, or its end."""
        import torch

        words = self.free.split()
        may_end = len(words) >= slot.least and words[-1].lower() not in UNFINISHED_WORDS
        mask = self.vocabulary.mask(slot, may_end=may_end, inside=bool(self.free))
        allowed = logits + mask
        allowed[self.said] = -torch.inf
        token = self._draw(allowed, all_of_it=False)
        text = self.vocabulary.texts[token]
        self.doubts.append(-float(logits.log_softmax(0)[token]))
        if ends(text, slot.letters):
            self.text += self.free
            self._open()
            return self._end(token)
        self.free += text
        if text[0] == " " and len(text) > 4 and text.strip() not in UNFINISHED_WORDS:
            self.said.append(token)  # small models repeat themselves
        if len(self.free.split()) > slot.most:
            self.done, self.text = True, self.text + self.free
        return token

    def _end(self, token: int) -> int:
        """First token of the next slot, instead of the token that ended this one."""
        if self.done:
            return token
        assert isinstance(self.slot, Choice)
        first = sorted({tokens[0] for _, tokens in self.left})
        if token in first:
            self.place = 1
            self.left = [one for one in self.left if one[1][0] == token]
            return token
        self.place = 1
        self.left = [one for one in self.left if one[1][0] == first[0]]
        return first[0]

    def draft(self) -> Draft:
        """The draft."""
        doubt = sum(self.doubts) / len(self.doubts) if self.doubts else None
        return Draft(self.text.strip(), doubt)


class TokenWriter:
    """Hugging Face causal language model that fills in forms.

    The lesson is computed once; its keys and values are shared by all forms.

    Args:
        model: The model, on its device, in evaluation mode.
        tokenizer: Its tokenizer.
        about: Result of `describe`.
        sampling: Settings of the sampling.
    """

    def __init__(self, model: Any, tokenizer: Any, about: dict[str, Any], sampling: Sampling) -> None:
        self.model, self.about, self.sampling = model, about, sampling
        self.vocabulary = _Vocabulary(tokenizer, model.config.vocab_size)

    def describe(self) -> dict[str, Any]:
        """See `Writer.describe`."""
        return self.about

    def write(self, lesson: str, forms: Sequence[Form], seeds: Sequence[int]) -> list[Draft]:
        """See `Writer.write`."""
        import torch
        from transformers import DynamicCache, StaticCache

        rows = [
            _Row(form, self.vocabulary, seed, self.sampling) for form, seed in zip(forms, seeds, strict=True)
        ]
        start = torch.tensor([self._start(lesson)], device=self.model.device)
        asked = [self.vocabulary.encode(form.request) for form in forms]
        length = max(map(len, asked))
        there = torch.tensor(
            [[1] * start.shape[1] + [0] * (length - len(a)) + [1] * len(a) for a in asked],
            device=self.model.device,
        )
        tokens = torch.tensor([[0] * (length - len(a)) + a for a in asked], device=self.model.device)
        with torch.inference_mode():
            taught = DynamicCache(config=self.model.config)
            self.model(start, past_key_values=taught, logits_to_keep=1)
            # A growing cache would be copied with every token: more than half of the time on a CPU.
            past = StaticCache(self.model.config, max_cache_len=there.shape[1] + _LONGEST)
            for number, layer in enumerate(taught.layers):
                keys, values = (t.expand(len(rows), -1, -1, -1) for t in (layer.keys, layer.values))
                past.update(keys, values, number)
            for _ in range(_LONGEST):
                positions = (there.cumsum(1) - 1)[:, -tokens.shape[1] :].clamp(min=0)
                logits = self.model(
                    tokens,
                    attention_mask=there,
                    position_ids=positions,
                    past_key_values=past,
                    logits_to_keep=1,
                ).logits[:, -1]
                chosen = [row.next(one) for row, one in zip(rows, logits.float().cpu(), strict=True)]
                if all(row.done for row in rows):
                    break
                tokens = torch.tensor(chosen, device=self.model.device)[:, None]
                there = torch.cat([there, torch.ones_like(tokens)], 1)
        return [row.draft() for row in rows]

    def _start(self, lesson: str) -> list[int]:
        """Tokens of the lesson, with the special ones that this model needs before a text."""
        return list(self.vocabulary.tokenizer.encode(lesson))
