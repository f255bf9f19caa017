"""Text that the model writes itself, for calibrating and measuring without any download.

A language model's own samples, drawn at temperature 1 from its beginning-of-text token, follow the distribution it
was trained to reproduce, and need no data of its makers (LLM-QAT, Liu et al. 2023, arXiv:2305.17888, trains on them;
Williams & Aletras 2024, arXiv:2410.17170, calibrate on them). Calibration and evaluation draw from different seeds, so
what is measured on was never calibrated on. Real text of one's own field, where there is any, is the better choice.

A sample is one window long (`data.text.window_length`). It starts from BOS or, for models without one, from a random
plain-text token; where the model ends its text, the sample goes on with a new document. Documents are joined by an
empty line into one text, which from there on is treated like any other. It is cached as JSON under the model's hash,
because sampling takes minutes.

A model of many languages writes mostly in one. For text in a given language it is given the beginning of one
(`data.languages`) to go on with, up to where the model ends it. All languages are written in one batch, and calibration
and evaluation begin differently.
"""

import hashlib
import json
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from smidgen.atomic import refuse_unwritable, write_whole
from smidgen.data.languages import Language
from smidgen.data.sources import TextSource
from smidgen.data.text import WINDOW, TextTokenizer, window_length
from smidgen.errors import SmidgenError, printable
from smidgen.progress import Task, track
from smidgen.shapes import Int

Purpose = Literal["calibration", "evaluation"]
_FORMAT = 2
_TEMPERATURE = 1.0
_BATCH = 36 * WINDOW  # tokens that are written side by side
_SPARE = 16  # rows for which one more is written: read anew, text has a little fewer tokens than it was written with
_REST = 8  # rows in which a small rest is written, each of them shorter: a step with one row takes nearly as long
_SHORTEST = 16  # tokens of such a row
_LANGUAGES_BATCH = 64 * WINDOW
_ROUNDS_AT_MOST = 64
_SEPARATOR = "\n\n"


class Shape(Protocol):
    """What is needed here of `model.config.ModelConfig`."""

    @property
    def context_length(self) -> int: ...


class Sampler(Protocol):
    """What is needed here of `engines.author.Author`, and of `engines.torch.TorchEngine`."""

    @property
    def config(self) -> Shape: ...

    @property
    def written_by(self) -> str:
        """The engine with its version, and whatever else the ids depend on beside the arguments of `sample`."""
        ...

    def prepare(self, rows: int, length: int) -> None:
        """What takes a while before the first token: for `rows` rows of `length` tokens, prompts included."""
        ...

    def sample(
        self, prompts: Int[Tensor, "batch position"], tokens: int, temperature: float, seed: int, *,
        end_ids: Collection[int], bos_id: int | None, progress: Task | None,
    ) -> Int[Tensor, "batch tokens"]:  # fmt: skip
        """The `tokens` ids that follow each prompt. After one of `end_ids` a row goes on with `bos_id`.

        progress: advanced by a step for each token of each row.
        """
        ...


class WritersTokenizer(TextTokenizer, Protocol):
    """A tokenizer that also knows its size and its end-of-text tokens."""

    @property
    def eos_ids(self) -> Collection[int]: ...

    def __len__(self) -> int: ...

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str: ...


@dataclass(frozen=True)
class _Key:
    """Everything the text depends on; the cached file repeats it and is checked against it."""

    model_sha256: str
    written_by: str
    seed: int
    purpose: Purpose
    tokens: int
    temperature: float = _TEMPERATURE
    window: int = WINDOW
    format: int = _FORMAT

    def path(self, folder: Path) -> Path:
        writer = hashlib.sha256(self.written_by.encode()).hexdigest()[:8]
        return folder / f"{self.model_sha256[:16]}-{self.seed}-{self.purpose}-{self.tokens}-{writer}.json"


@dataclass(frozen=True)
class _LanguageKey(_Key):
    """company: all languages that are written together, since they share the random numbers.  openings: their hash."""

    language: str = ""
    company: str = ""
    openings: str = ""

    def path(self, folder: Path) -> Path:
        plain, company = super().path(folder), hashlib.sha256(self.company.encode()).hexdigest()[:8]
        return plain.with_name(f"{plain.stem}-{self.language}-{company}.json")


def self_written(
    sampler: Sampler, tokenizer: WritersTokenizer, model_sha256: str, tokens: int, seed: int, purpose: Purpose,
    cache_dir: Path,
) -> TextSource:  # fmt: skip
    """At least `tokens` tokens of text by the model, from the cache if it was written before.

    seed: the same seed gives the same text; the two purposes never share one.  cache_dir: usually
    `SMIDGEN_HOME`/self-written, made if missing.
    Raises SmidgenError where the model ends nearly every document at once, or the cache cannot be written.
    """
    window = window_length(sampler.config.context_length)
    key = _Key(model_sha256, sampler.written_by, seed, purpose, tokens, window=window)
    name = f"self-written ({purpose})"
    text = _read_cached(key, cache_dir)
    if text is None:
        _prepare_cache(key, cache_dir)  # before minutes of writing, not after
        text = _write(sampler, tokenizer, key)
        _keep(key, text, cache_dir)
    return TextSource.of(name, text, key.path(cache_dir), self_written=True)


def self_written_in(
    sampler: Sampler, tokenizer: WritersTokenizer, model_sha256: str, languages: Sequence[Language], tokens: int,
    seed: int, purpose: Purpose, cache_dir: Path,
) -> list[TextSource]:  # fmt: skip
    """For each language at least `tokens` tokens of text by the model, from the cache if all was written before.

    The same languages and seed give the same texts, in whatever order they are named. Otherwise as `self_written`.
    Raises SmidgenError, before anything is written, for a language that has no openings.
    """
    for language in languages:
        if not language.openings:
            raise SmidgenError(
                f"smidgen has no beginnings of texts in {language.name} for the model to go on with; "
                f"give text with --text {language.code}=FILE."
            )
    ordered = sorted(languages, key=lambda language: language.code)
    company = ",".join(language.code for language in ordered)
    keys = {
        language.code: _LanguageKey(
            model_sha256, sampler.written_by, seed, purpose, tokens,
            window=window_length(sampler.config.context_length), language=language.code, company=company,
            openings=hashlib.sha256("\0".join(language.openings).encode()).hexdigest(),
        )
        for language in ordered
    }  # fmt: skip
    cached = {code: _read_cached(key, cache_dir) for code, key in keys.items()}
    texts = {code: text for code, text in cached.items() if text is not None}
    if texts.keys() != keys.keys():
        for key in keys.values():
            _prepare_cache(key, cache_dir)
        texts = _write_in(sampler, tokenizer, ordered, keys)
        for code, key in keys.items():
            _keep(key, texts[code], cache_dir)
    places = {code: key.path(cache_dir) for code, key in keys.items()}
    return [
        TextSource.of(f"{code} (self-written)", texts[code], places[code], code, self_written=True)
        for code in (language.code for language in languages)
    ]


def _keep(key: _Key, text: str, folder: Path) -> None:
    record = vars(key) | {"sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(), "text": text}
    write_whole(key.path(folder), json.dumps(record, ensure_ascii=False))


def _write_in(
    sampler: Sampler, tokenizer: WritersTokenizer, languages: Sequence[Language], keys: Mapping[str, _LanguageKey]
) -> dict[str, str]:
    """A text in each language. Every sample is one document: what a model writes next may be in another language."""
    key = keys[languages[0].code]  # what is asked of it is the same for all
    openings = {language.code: _openings(language, tokenizer, key.purpose) for language in languages}
    width = min(len(ids) for listed in openings.values() for ids in listed)  # one batch has prompts of one length
    width = min(width, -(-key.window // 2))  # and room to go on
    steps = max(1, min(key.window - width, key.tokens))
    documents: dict[str, list[str]] = {code: [] for code in keys}
    have = dict.fromkeys(keys, 0)
    for turn in range(_ROUNDS_AT_MOST):
        rows = [code for code in keys for _ in range(-(-max(key.tokens - have[code], 0) // steps))]
        if not rows:
            return {code: _SEPARATOR.join(found) for code, found in documents.items()}
        rows = sorted(rows[:: -(-len(rows) // (_LANGUAGES_BATCH // key.window))])
        firsts = [openings[code][(turn + place) % len(openings[code])][:width] for place, code in enumerate(rows)]
        prompts, seed = torch.tensor(firsts, dtype=torch.long), _seed_of(key, turn, key.company)
        written = _sampled(sampler, tokenizer, key, prompts, steps, seed, more=turn > 0)
        for code, ids in zip(rows, torch.cat([prompts, written], dim=1).tolist(), strict=True):
            # Where BOS is also what ends texts, that at the beginning does not end this one.
            documents[code] += _documents(tokenizer, ids[_starting_token(tokenizer) is not None :])[:1]
        have = {code: sum(len(tokenizer.encode(text)) for text in found) for code, found in documents.items()}
    short = min(have, key=lambda code: have[code])
    raise SmidgenError(
        f"The model stops writing too early in {short!r} to be measured on its own text ({have[short]} of {key.tokens} "
        f"tokens). Give a text with --text {short}=FILE."
    )


def _openings(language: Language, tokenizer: WritersTokenizer, purpose: Purpose) -> list[list[int]]:
    """Beginnings as tokens, after BOS where the model has one; every other is for calibration, the rest to measure."""
    chosen = language.openings[purpose == "evaluation" :: 2] or language.openings
    start = _starting_token(tokenizer)
    return [([] if start is None else [start]) + tokenizer.encode(opening) for opening in chosen]


def _write(sampler: Sampler, tokenizer: WritersTokenizer, key: _Key) -> str:
    documents: list[str] = []
    have = 0
    for turn in range(_ROUNDS_AT_MOST):
        missing = key.tokens - have
        if missing <= 0:
            return _SEPARATOR.join(documents)
        (batch, steps), seed = _rows_and_steps(missing, key, turn), _seed_of(key, turn)
        prompts = _prompts(tokenizer, batch, seed)
        written = _sampled(sampler, tokenizer, key, prompts, steps, seed, more=turn > 0)
        for ids in torch.cat([prompts, written], dim=1).tolist():
            documents += _documents(tokenizer, ids)
        have = sum(len(tokenizer.encode(document)) for document in documents)
    raise SmidgenError(
        f"The model stops writing too early to calibrate or measure on its own text ({have} of {key.tokens} tokens). "
        "Give a text with --text FILE."
    )


def _rows_and_steps(missing: int, key: _Key, turn: int) -> tuple[int, int]:
    """How many rows to write for so many tokens, and how many tokens of each."""
    longest = min(key.window - 1, key.tokens)
    if turn > 0 and missing < _REST * longest:
        return _REST, min(longest, -(-missing // _REST) + _SHORTEST)
    rows = -(-missing // longest)
    return min(rows + rows // _SPARE, _BATCH // key.window), longest


def _sampled(
    sampler: Sampler, tokenizer: WritersTokenizer, key: _Key, prompts: Int[Tensor, "batch position"], steps: int,
    seed: int, more: bool,
) -> Int[Tensor, "batch tokens"]:  # fmt: skip
    """The `steps` ids that follow each prompt, with a bar that counts them.  more: some were written before."""
    sampler.prepare(len(prompts), key.window)
    with track(f"Writing {'more ' if more else ''}{key.purpose} text", len(prompts) * steps) as task:
        return sampler.sample(
            prompts, steps, key.temperature, seed,
            end_ids=tokenizer.eos_ids, bos_id=_starting_token(tokenizer), progress=task,
        )  # fmt: skip


def _starting_token(tokenizer: WritersTokenizer) -> int | None:
    return tokenizer.bos_id if tokenizer.adds_bos else None


def _seed_of(key: _Key, turn: int, company: str = "") -> int:
    """A 63-bit seed of its own for each purpose and round of sampling, and set of languages."""
    digest = hashlib.sha256(f"{key.seed}/{key.purpose}/{turn}{company and '/'}{company}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _prompts(tokenizer: WritersTokenizer, batch: int, seed: int) -> Int[Tensor, "batch position"]:
    start = _starting_token(tokenizer)
    if start is not None:
        return torch.full((batch, 1), start, dtype=torch.long)
    chooser, chosen = random.Random(seed), []
    while len(chosen) < batch:
        candidate = chooser.randrange(len(tokenizer))
        text = tokenizer.decode([candidate])
        if text.strip().isalpha() and tokenizer.encode(text) == [candidate]:
            chosen.append([candidate])
    return torch.tensor(chosen, dtype=torch.long)


def _documents(tokenizer: WritersTokenizer, ids: list[int]) -> list[str]:
    """The texts between end-of-text tokens. Bytes that make no character, and zero bytes, are dropped."""
    documents: list[list[int]] = [[]]
    for token in ids:
        if token in tokenizer.eos_ids:
            documents.append([])
        else:
            documents[-1].append(token)
    texts = (tokenizer.decode(document, skip_special=True) for document in documents)
    cleaned = (text.replace("\ufffd", "").replace("\0", "").strip() for text in texts)
    return [text for text in cleaned if text]


def _read_cached(key: _Key, folder: Path) -> str | None:
    """The cached text, or None where there is none or the file is not exactly what was asked for."""
    try:
        stored = json.loads(key.path(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stored, dict):
        return None
    text, digest = stored.pop("text", None), stored.pop("sha256", None)
    whole = isinstance(text, str) and digest == hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return text if whole and stored == vars(key) else None


def _prepare_cache(key: _Key, folder: Path) -> None:
    """Make the folder; raises SmidgenError where the text could not be kept in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_unwritable(key.path(folder))
    except (OSError, SmidgenError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not writable"
        raise SmidgenError(
            f"Cannot write the cache in {printable(folder)}: {reason}. Set SMIDGEN_HOME to a folder of yours."
        ) from error
