"""Which documents are worth learning from: by their language, and by simple rules of quality.

The rules are those of Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1: lengths, symbols, bullets, words
without letters, repeated lines, paragraphs and n-grams), with its thresholds, as datatrove carries them out. Where we
differ: datatrove takes words from spaCy, NLTK and others, one heavy package or download for each language; here, as in
the paper, a word is what stands between spaces, and where a script has none a letter by itself (so the rule on the
length of words is left out there). The stop words, which are English, are asked of English only, when languages are
asked for at all.

The language of a document is what py3langid (naive Bayes over byte n-grams: Lui & Baldwin 2011) says of its beginning.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from smidgen.data.corpus.extra import needed
from smidgen.data.languages import languages_of
from smidgen.errors import SmidgenError

#: Characters that tell the language of a document.
_BEGINNING = 4000
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_MOSTLY = 0.5
#: What datatrove's reasons are called here; all others are of n-grams that repeat.
_REASONS = {
    "gopher_short_doc": "too_few_words", "gopher_long_doc": "too_many_words",
    "gopher_below_avg_threshold": "words_too_short", "gopher_above_avg_threshold": "words_too_long",
    "gopher_too_many_hashes": "symbols", "gopher_too_many_ellipsis": "symbols",
    "gopher_too_many_bullets": "bullets", "gopher_too_many_end_ellipsis": "lines_cut_off",
    "gopher_below_alpha_threshold": "words_without_letters", "gopher_enough_stop_words": "too_few_stop_words",
    "dup_para_frac": "repeated_paragraphs", "dup_para_char_frac": "repeated_paragraphs",
    "dup_line_frac": "repeated_lines", "dup_line_char_frac": "repeated_lines",
}  # fmt: skip
_LINE_END = re.compile(r"[ \t\r]+$", re.MULTILINE)  # or WikiText's empty lines, which hold a space, would be repetition


@dataclass(frozen=True)
class Rules:
    """languages: codes, empty for all.  quality: whether Gopher's rules count.  least_words: of a document."""

    languages: tuple[str, ...] = ()
    quality: bool = True
    least_words: int = 50

    def __post_init__(self) -> None:
        for language in languages_of(self.languages):
            if language.code not in _known_languages():
                raise SmidgenError(f"{language.name} text cannot be told from other text; leave it out of --langs.")


class Filter:
    """Carries out the rules. Costs about 10 microseconds a word with quality, 0.1 milliseconds a document without."""

    def __init__(self, rules: Rules) -> None:
        self._languages = frozenset(language.code for language in languages_of(rules.languages))
        self._gopher = _Gopher(rules.least_words) if rules.quality else None

    def reason(self, text: str) -> str | None:
        """Which rule drops this document; None for one to keep."""
        if not text.strip():
            return "empty"
        language = _language_of(text) if self._languages else None
        if language is not None and language not in self._languages:
            return "language"
        return None if self._gopher is None else self._gopher.reason(text, english=language == "en")


class _Gopher:
    """datatrove's two filters, with our words."""

    def __init__(self, least_words: int) -> None:
        document: Any = needed("datatrove.data")
        quality: Any = needed("datatrove.pipeline.filters.gopher_quality_filter")
        repetition: Any = needed("datatrove.pipeline.filters.gopher_repetition_filter")
        common = {"min_doc_words": least_words, "language": words()}
        self._document = document.Document
        self._spaced = quality.GopherQualityFilter(min_stop_words=0, **common)
        self._english = quality.GopherQualityFilter(**common)
        self._unspaced = quality.GopherQualityFilter(
            min_stop_words=0, min_avg_word_length=None, max_avg_word_length=None, **common
        )
        self._repetition = repetition.GopherRepetitionFilter(language=words())

    def reason(self, text: str, english: bool) -> str | None:
        document = self._document(text=_LINE_END.sub("", text), id="")
        spaced = self._english if english else self._spaced
        quality = self._unspaced if _is_unspaced(text) else spaced
        for rule in (quality, self._repetition):
            verdict = rule.filter(document)
            if isinstance(verdict, tuple):
                reason = str(verdict[1])
                return _REASONS.get(reason, "repeated_words")
        return None


@cache
def words() -> Any:
    """How datatrove finds the words of a text: a WordTokenizer of ours."""
    regex: Any = needed("regex")
    base: Any = needed("datatrove.utils.word_tokenizers")
    pattern = regex.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")

    class Words(base.WordTokenizer):
        """What stands between spaces; of scripts without them, each letter."""

        def word_tokenize(self, text: str) -> list[str]:
            return pattern.findall(text)

        def sent_tokenize(self, text: str) -> list[str]:
            return text.splitlines()

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [found.span() for found in pattern.finditer(text)]

    return Words()


def _is_unspaced(text: str) -> bool:
    """Whether most letters at the beginning are of scripts that put no spaces between words."""
    regex: Any = needed("regex")
    letters = regex.findall(r"\p{L}", text[:_BEGINNING])
    unspaced = regex.findall(f"[{_UNSPACED}]", text[:_BEGINNING])
    return len(unspaced) > _MOSTLY * len(letters)


def _language_of(text: str) -> str:
    return _identifier().classify(text[:_BEGINNING])[0]


@cache
def _identifier() -> Any:
    langid: Any = needed("py3langid.langid")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)


def _known_languages() -> Sequence[str]:
    return _identifier().labels


def versions(packages: Sequence[str] = ("datatrove", "py3langid")) -> dict[str, str]:
    """Of the packages that decide what is kept, where they are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
