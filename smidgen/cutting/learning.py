"""What a cut learns from: the texts that were given, and what the model writes where there are none."""

from collections.abc import Sequence
from typing import Any

from smidgen.cutting.recipe import CutOptions
from smidgen.cutting.steps import Material
from smidgen.data.held_out import CalibrationText
from smidgen.data.languages import languages_named, languages_of
from smidgen.data.self_written import self_written, self_written_in
from smidgen.data.sources import TextSource
from smidgen.data.text import window_length
from smidgen.engines.author import Author
from smidgen.engines.torch import TorchEngine
from smidgen.errors import printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hub.catalogue import cache_folder
from smidgen.model.tokenizer import Tokenizer


def calibration_texts(
    checkpoint: Checkpoint, tokenizer: Tokenizer, sources: Sequence[TextSource], options: CutOptions
) -> list[CalibrationText]:
    """What the cut learns from: the given texts but for what is kept aside, and what the model writes itself.

    A language counts as given where a text has its name, or where it is the only one and a text has no name.
    """
    length = window_length(checkpoint.config.context_length)
    texts = [CalibrationText.of(source, tokenizer, length) for source in sources]
    given = {language.code for source in sources for language in languages_named(source.language)}
    if len(options.languages) == 1 and any(source.language is None for source in sources):
        given |= {language.code for language in languages_of(options.languages)}
    missing = [language for language in languages_of(options.languages) if language.code not in given]
    if texts and not missing:
        return texts
    folder, hashed, wanted = cache_folder() / "self-written", checkpoint.sha256(), options.tokens_to_write
    with Author(TorchEngine(checkpoint), options.threads) as author:
        if missing:
            tokens = -(-wanted // (len(texts) + len(missing)))
            written = self_written_in(author, tokenizer, hashed, missing, tokens, options.seed, "calibration", folder)
        else:
            written = [self_written(author, tokenizer, hashed, wanted, options.seed, "calibration", folder)]
    return texts + [CalibrationText.of(source, tokenizer, length, whole=True) for source in written]


def tokens_used(material: Material) -> list[dict[str, Any]]:
    """For the card: how many tokens of each text were used, how many there are, and whether these are too few."""
    return [
        {
            "text": used.text, "self_written": text.source.self_written, "tokens": used.tokens,
            "available": used.available, "too_short": used.too_short,
        }
        for used, text in zip(material.used, material.texts, strict=True)
    ]  # fmt: skip


def learned_from(material: Material) -> str:
    """The same in a line, for people."""
    used = material.used
    parts = [
        f"{one.tokens:,} tokens of {printable(one.text)}"
        + (f" (too short for its share of {one.share:,})" if one.too_short else "")
        for one in used
    ]
    rest = len(used) > 1 and any(one.too_short for one in used)
    if not material.is_calibrated:
        return f"The vocabulary was chosen by all text that is not kept for measuring: {', '.join(parts)}."
    return f"Calibrated on {', '.join(parts)}.{' The other texts gave the rest.' if rest else ''}"
