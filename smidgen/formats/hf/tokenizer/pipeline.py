"""The steps of a tokenizer.json around its BPE model, recognised one by one.

The file can describe any pipeline of the `tokenizers` library
(https://huggingface.co/docs/tokenizers/components); GGUF knows a few by name. A pipeline is therefore compared with
what the families use, spelling aside, and one that would be tokenized differently is refused by name. Decoders are
not looked at: the text of a token follows from the kind of vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from smidgen.errors import BadFile, Unsupported, printable
from smidgen.model.tokenizers.sentencepiece import SPACE
from smidgen.model.tokenizers.splitting import GPT2, name_of

MOST_STEPS = 32  # of a sequence
_SCHEMES = {"never": "never", "always": "missing", "first": "first"}  # Metaspace adds no second space to a first one


@dataclass(frozen=True)
class Words:
    """How a byte-level tokenizer cuts text into words: the name of it in GGUF, and the expressions as published."""

    name: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Ends:
    """Special tokens that the post-processor puts before and after a text, by their spelling."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def refuse(what: str, found: object) -> NoReturn:
    """Raise Unsupported for a step that cannot be honoured."""
    raise Unsupported(
        f"tokenizer.json: the {what} {printable(found, 60)} is not one that smidgen can honour; "
        "it would split text differently, so the model cannot be used."
    )


def steps(value: Any, what: str, inside: str) -> Sequence[Mapping[str, Any]]:
    """A step and, where it is a Sequence, those inside it in its stead (one level, as the files have it)."""
    if value is None:
        return []
    listed = value.get(inside) if isinstance(value, dict) and value.get("type") == "Sequence" else [value]
    if not isinstance(listed, list) or len(listed) > MOST_STEPS:
        raise BadFile(f"tokenizer.json: the {what} is not a list of at most {MOST_STEPS} steps.")
    for step in listed:
        if not isinstance(step, dict) or not isinstance(step.get("type"), str):
            raise BadFile(f"tokenizer.json: the {what} holds something that is not a step with a type.")
        if step["type"] == "Sequence":
            refuse(what, "Sequence within a Sequence")
    return listed


def is_byte_level(tokenizer: Mapping[str, Any]) -> bool:
    """Whether the bytes of a text become printable characters first, as GPT-2 does it."""
    return any(step["type"] == "ByteLevel" for step in steps(*_pre_tokenizer_of(tokenizer)))


def byte_level_words(tokenizer: Mapping[str, Any], whole_words: bool) -> Words:
    """The pre-tokenizer of a byte-level tokenizer.json, which llama.cpp and PRE_TOKENIZERS must know."""
    patterns: list[str] = []
    byte_level = False
    for step in steps(*_pre_tokenizer_of(tokenizer)):
        if byte_level:
            refuse("pre-tokenizer", f"{step['type']} after ByteLevel")
        if step["type"] == "ByteLevel":
            byte_level = True
            if step.get("add_prefix_space", True) is not False:
                refuse("pre-tokenizer", "ByteLevel with add_prefix_space")
            if step.get("use_regex", True) is not False:
                patterns.append(GPT2)  # which the step has built in
        elif step["type"] == "Digits" and step.get("individual_digits") is True:
            patterns.append(r"\p{N}")
        elif step["type"] == "Split":
            patterns.append(_split_pattern(step))
        else:
            refuse("pre-tokenizer", step["type"])
    name = name_of(tuple(patterns), whole_words)
    if name is not None:
        return Words(name, tuple(patterns))
    refuse("pre-tokenizer", f"{' then '.join(patterns) or 'without expressions'} (ignore_merges: {whole_words})")


def normalizes_nfc(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a byte-level tokenizer brings text into Unicode's normal form C first (Qwen does)."""
    found = steps(tokenizer.get("normalizer"), "normalizer", "normalizers")
    for step in found:
        if step["type"] != "NFC":
            refuse("normalizer", step["type"])
    return bool(found)


def space_prefix(tokenizer: Mapping[str, Any]) -> str:
    """Where a SentencePiece-like tokenizer.json, which must turn spaces into "▁", puts one more: "never", or one of
    `text_rules.SPACE_PREFIXES`.

    Llama 2 and Phi-3 prepend and replace in the normalizer, Gemma replaces only (its pre-tokenizer splits at spaces, of
    which none are left by then), and newer Mistral files have one pre-tokenizer, Metaspace, for both.
    """
    prefix, escaped = "never", False
    for step in steps(tokenizer.get("normalizer"), "normalizer", "normalizers"):
        if step == {"type": "Prepend", "prepend": SPACE} and prefix == "never":
            prefix = "always"
        elif step == {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}:
            escaped = True
        else:
            refuse("normalizer", step["type"])
    for step in steps(*_pre_tokenizer_of(tokenizer)):
        if step["type"] == "Split" and step.get("pattern") == {"String": " "} and escaped:
            continue
        if step["type"] != "Metaspace" or escaped or prefix != "never" or step.get("replacement") != SPACE:
            refuse("pre-tokenizer", step["type"])
        if step.get("split", True) is not False:
            refuse("pre-tokenizer", "Metaspace that splits")
        default = "always" if step.get("add_prefix_space", True) else "never"
        scheme = str(step.get("prepend_scheme", default))
        if scheme not in _SCHEMES:
            refuse("pre-tokenizer", f"Metaspace with prepend_scheme {scheme}")
        prefix, escaped = _SCHEMES[scheme], True
    if not escaped:
        refuse("normalizer", f"without a step that turns spaces into {SPACE!r}")
    return prefix


def added_ends(tokenizer: Mapping[str, Any]) -> Ends:
    """The special tokens that the post-processor adds to a single text."""
    ends = Ends()
    for step in steps(tokenizer.get("post_processor"), "post-processor", "processors"):
        if step["type"] == "ByteLevel":  # moves offsets only
            continue
        if step["type"] != "TemplateProcessing" or ends != Ends():
            refuse("post-processor", step["type"])
        ends = _template_ends(step.get("single"))
    return ends


def _template_ends(template: Any) -> Ends:
    if not isinstance(template, list) or len(template) > MOST_STEPS:
        raise BadFile("tokenizer.json: the post-processor's template is not a short list.")
    names: list[str | None] = []  # None for the text itself
    for item in template:
        special = item.get("SpecialToken") if isinstance(item, dict) else None
        sequence = item.get("Sequence") if isinstance(item, dict) else None
        if isinstance(special, dict) and isinstance(special.get("id"), str):
            names.append(special["id"])
        elif isinstance(sequence, dict) and sequence.get("id") == "A":
            names.append(None)
        else:
            raise BadFile("tokenizer.json: the post-processor's template names neither the text nor a special token.")
    if names.count(None) != 1:
        raise BadFile("tokenizer.json: the post-processor's template does not hold the text once.")
    text = names.index(None)
    before, after = ([name for name in part if name is not None] for part in (names[:text], names[text + 1 :]))
    return Ends(tuple(before), tuple(after))


def _pre_tokenizer_of(tokenizer: Mapping[str, Any]) -> tuple[Any, str, str]:
    return tokenizer.get("pre_tokenizer"), "pre-tokenizer", "pretokenizers"


def _split_pattern(step: Mapping[str, Any]) -> str:
    pattern = step.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    way = (step.get("behavior"), step.get("invert", False))
    # "Keep nothing but the matches" is the same for expressions that match all of a text, as these do with this end.
    if not isinstance(regex, str) or not (
        way == ("Isolated", False) or (way == ("Removed", True) and regex.endswith(r"|\s+(?!\S)|\s+"))
    ):
        refuse("pre-tokenizer", f"Split with {pattern}, {step.get('behavior')}")
    return regex
