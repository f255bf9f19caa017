"""Personal data taken out of texts, by presidio: for logs, and for prompts before the model sees them.

Found is what has a form of its own: e-mail and IP addresses, telephone, card and bank account numbers, some numbers of
authorities. Names and postal addresses are not: presidio finds them by language models that do not install from PyPI.
None of presidio's parts opens a connection here: its recogniser of e-mail addresses would fetch the list of public
suffixes, and gets the one that is installed.

presidio is heavy and in an extra, `smidgen[guard]`; it is loaded when a `Redactor` is made.
"""

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from smidgen.errors import SmidgenError, Unsupported
from smidgen.model.chat import Message
from smidgen.serving.guard.texts import strings_of

#: What is looked for, as presidio names it.
KINDS = (
    "EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "MAC_ADDRESS", "CRYPTO", "US_SSN",
    "UK_NHS",
)  # fmt: skip

LONGEST_TEXT = 1 << 19  # characters of a request; a processor searches some 100,000 in a second
_WINDOW = 2048  # characters that are looked at together: some of presidio's patterns take the square of it
_OVERLAP = 256  # longer than anything that is looked for
_LEAST_SCORE = 0.4  # of presidio's; what has the form and passes its checksum has 1, a telephone number 0.4


def require_presidio() -> None:
    """Raises Unsupported, with what to install, where the extra is missing."""
    if any(importlib.util.find_spec(name) is None for name in ("presidio_analyzer", "presidio_anonymizer")):
        raise Unsupported(
            'taking personal data out of texts needs presidio; install it with: pip install "smidgen[guard]"'
        )


class Redactor:
    """Finds personal data and puts its kind in its place. Making one takes seconds. May be used from several threads.

    Raises Unsupported where presidio is not installed.
    """

    def __init__(self) -> None:
        require_presidio()
        with _as_if_missing("torch", "transformers"):
            self._analyzer = _analyzer()
            from presidio_anonymizer import AnonymizerEngine

            self._anonymizer = AnonymizerEngine()

    def text(self, text: str) -> tuple[str, dict[str, int]]:
        """The text with each passage replaced by its kind, such as <EMAIL_ADDRESS>, and how many of each there were.

        Raises SmidgenError for a text that is too long to be searched: it is not passed through unread.
        """
        _refuse_long(text)
        found = []
        for start in range(0, max(len(text) - _OVERLAP, 1), _WINDOW - _OVERLAP):
            for one in self._analyzer.analyze(
                text[start : start + _WINDOW], "en", entities=list(KINDS), score_threshold=_LEAST_SCORE
            ):
                one.start, one.end = one.start + start, one.end + start
                found.append(one)
        if not found:
            return text, {}
        done = self._anonymizer.anonymize(text, analyzer_results=found)
        return done.text, dict(Counter(item.entity_type for item in done.items))

    def for_log(self, text: str) -> str:
        """The same for a log, which gets the length alone of a text that is too long."""
        if len(text) > LONGEST_TEXT:
            return f"<{len(text)} characters, too many to look for personal data>"
        return self.text(text)[0]

    def messages(self, messages: Sequence[Message]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """The messages with their texts redacted, wherever in them they stand, and how many of each kind there were.

        Raises SmidgenError where they are too long together.
        """
        _refuse_long(messages)
        counted: Counter[str] = Counter()
        return [self._redacted(dict(message), counted) for message in messages], dict(counted)

    def prompt(self, prompt: Any) -> tuple[Any, dict[str, int]]:
        """A prompt to complete, or a list of them. Raises SmidgenError for token ids: they hide what they spell."""
        counted: Counter[str] = Counter()
        several = isinstance(prompt, list)
        if not all(isinstance(one, str) for one in (prompt if several else [prompt])):
            raise SmidgenError("personal data is taken out of prompts here; give the prompt as text, not as token ids.")
        _refuse_long(prompt)
        return self._redacted(prompt, counted), dict(counted)

    def _redacted(self, value: Any, counted: Counter[str]) -> Any:
        if isinstance(value, str):
            text, found = self.text(value)
            counted.update(found)
            return text
        if isinstance(value, Mapping):
            return {key: inner if key in _NAMES else self._redacted(inner, counted) for key, inner in value.items()}
        return [self._redacted(inner, counted) for inner in value] if isinstance(value, list) else value


def _refuse_long(value: Any) -> None:
    characters = sum(len(text) for _, text in strings_of(value))
    if characters > LONGEST_TEXT:
        raise SmidgenError(
            f"the texts have {characters} characters; {LONGEST_TEXT} is the most in which personal data is looked for."
        )


# Values that say what something is, and are compared with others: roles, kinds, ids of calls.
_NAMES = frozenset({"role", "type", "id", "tool_call_id", "call_id"})


@contextmanager
def _as_if_missing(*packages: str) -> Iterator[None]:
    """Imports of these fail meanwhile, unless they are loaded: presidio would load them (300 MB, and seconds) for
    recognisers that are not used here."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules |= dict.fromkeys(hidden)
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _analyzer() -> Any:
    """presidio's engine with the recognisers of `KINDS`, without any model of a language."""
    import presidio_analyzer.predefined_recognizers as known
    import tldextract
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # the list in the package: nothing is fetched

    class OfflineEmails(known.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return bool(suffixes(pattern_text).fqdn)

    kinds = (
        OfflineEmails, known.PhoneRecognizer, known.CreditCardRecognizer, known.IbanRecognizer, known.IpRecognizer,
        known.MacAddressRecognizer, known.CryptoRecognizer, known.UsSsnRecognizer, known.NhsRecognizer,
    )  # fmt: skip
    registry = RecognizerRegistry(recognizers=[kind() for kind in kinds], supported_languages=["en"])
    nothing = NoOpNlpEngine([{"lang_code": "en", "model_name": "none"}])
    return AnalyzerEngine(registry=registry, nlp_engine=nothing, supported_languages=["en"])
