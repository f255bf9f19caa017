"""How byte-level tokenizers cut text into words: regular expressions, as the models' makers published them.

GGUF has only a name for a set of expressions (tokenizer.ggml.pre). The table below has, for each name, what the
models' own tokenizer.json say. llama.cpp's src/llama-vocab.cpp has expressions of its own under these names: mostly the
same in other words, but for two families (`tekken`, `gpt-4o`) only nearly the same, because its engine of regular
expressions knows no classes of capitals, small letters and combining marks.

A file keeps an expression that is spelled otherwise than in the table under `SPLITS`, so that it is found again word
for word. Only spellings of the expressions in the table are taken: others, from strangers, could take for ever.

Torch-free, and needs no library.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from smidgen.errors import Unsupported, printable
from smidgen.model.tokenizers.vocabulary import MetadataValue

PRE = "tokenizer.ggml.pre"
SPLITS = "tokenizer.smidgen.splits"  # the published expressions in order, where they are not the table's to the letter

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# GPT-4's expression, and the same with at most so many digits to a word.
_GPT4 = (
    _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# GPT-4o's: a word ends where a capital follows a small letter; letters without case and combining marks are both.
_CAPITALS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_SMALL = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALL}+CONTRACTION|[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALL}*CONTRACTION"
    r"|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Spellings that mean the same in these expressions → the one of the table, applied in this order. (But for one letter:
# without case, "s" is "ſ" too.)
_SPELLINGS = (
    ("\r", r"\r"),
    ("\n", r"\n"),
    (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", _CONTRACTION),
    (r"'(?i:[sdmt]|ll|ve|re)", _CONTRACTION),
    (r"[^\r\n\p{L}\p{N}]?+\p{L}", r"[^\r\n\p{L}\p{N}]?\p{L}"),
    (r" ?[^\s\p{L}\p{N}]++", r" ?[^\s\p{L}\p{N}]+"),
    (r"\p{N}{1}", r"\p{N}"),
    (r"|\s*[\r\n]|", r"|\s*[\r\n]+|"),
    (r"|\s+(?!\S)|\s+", r"|\s+(?!\S)"),  # what no expression matches is a word too
)
# llama.cpp's stand-ins, whose letters differ in case only in ASCII and carry no combining marks; folders that smidgen
# exported before it knew better have them.
_NEAR_CAPITALS = r"((?=[\p{L}])([^a-z]))"
_NEAR_SMALL = r"((?=[\p{L}])([^A-Z]))"
_STAND_INS = ((_NEAR_CAPITALS, _CAPITALS), (_NEAR_SMALL, _SMALL))


@dataclass(frozen=True)
class PreTokenizer:
    """How text is cut into words.

    patterns: applied one after another, each to what the one before left; matches and the text between them are words.
    whole_words: a word that is a token as it stands is taken without merging.
    adds_bos: what holds where the file has no tokenizer.ggml.add_bos_token.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    adds_bos: bool = False


_PLAIN_GPT2 = PreTokenizer((GPT2,))
_SINGLE_DIGITS = PreTokenizer((r"\p{N}", GPT2))
_LLAMA3 = PreTokenizer((_GPT4.replace("DIGITS", "{1,3}"),), whole_words=True, adds_bos=True)
_QWEN2 = PreTokenizer((_GPT4.replace("DIGITS", ""),))
_QWEN35 = PreTokenizer(
    (_QWEN2.patterns[0].replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"),)
)
_TEKKEN = PreTokenizer((_GPT4O.replace("CONTRACTION", "").replace("DIGITS", ""),), whole_words=True, adds_bos=True)
_GPT_4O = PreTokenizer((_GPT4O.replace("CONTRACTION", _CONTRACTION + "?").replace("DIGITS", "{1,3}"),))
_DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))

PRE_TOKENIZERS = {
    "default": _DEFAULT,
    "gpt-2": _PLAIN_GPT2,
    "phi-2": _PLAIN_GPT2,
    "mpt": _PLAIN_GPT2,
    "olmo": _PLAIN_GPT2,
    "smollm": _SINGLE_DIGITS,
    "starcoder": _SINGLE_DIGITS,
    "refact": _SINGLE_DIGITS,
    "command-r": _SINGLE_DIGITS,
    "exaone": _SINGLE_DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "lfm2": _LLAMA3,
    "pixtral": _LLAMA3,
    "tekken": _TEKKEN,
    "gpt-4o": _GPT_4O,
    "llama4": _GPT_4O,
    "dbrx": PreTokenizer(_LLAMA3.patterns),
    "smaug-bpe": PreTokenizer(_LLAMA3.patterns),
    "qwen2": _QWEN2,
    "stablelm2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "qwen35": _QWEN35,
}
# Those for which llama.cpp has something that is only near: it cuts words at some combining marks and capitals.
ONLY_NEAR = frozenset({"tekken", "gpt-4o", "llama4"})
# Sets of expressions that several names stand for are recognised as the first of these.
_NAMES = ("gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "qwen35", "tekken", "gpt-4o", "default")


def pre_tokenizer(metadata: Mapping[str, MetadataValue]) -> PreTokenizer:
    """The expressions that a file keeps, or those that tokenizer.ggml.pre names; without the key the default ones.

    Raises Unsupported for a name that is not in the table, and for kept expressions that are not those of the name.
    """
    name = _name(metadata)
    if name not in PRE_TOKENIZERS:
        raise Unsupported(
            f"pre-tokenizer {name[:40]!r} (tokenizer.ggml.pre) is not supported; "
            f"smidgen knows {', '.join(PRE_TOKENIZERS)}."
        )
    named, kept = PRE_TOKENIZERS[name], metadata.get(SPLITS)
    if kept is None:
        return named
    if not isinstance(kept, list) or _recognised(kept) != _recognised(named.patterns):
        raise Unsupported(
            f"{SPLITS} is {printable(kept, 60)}, which is not how {name} splits text; convert the model again."
        )
    return PreTokenizer(tuple(kept), named.whole_words, named.adds_bos)


def name_of(patterns: tuple[str, ...], whole_words: bool) -> str | None:
    """The name of these expressions, None where there is none."""
    found = _recognised(patterns)
    for name in _NAMES:
        if found == _recognised(PRE_TOKENIZERS[name].patterns) and PRE_TOKENIZERS[name].whole_words == whole_words:
            return name
    return None


def llama_cpp_splits_otherwise(metadata: Mapping[str, MetadataValue]) -> bool:
    """Whether llama.cpp, which knows the name alone, cuts some texts into other words than this file's tokenizer."""
    return metadata.get("tokenizer.ggml.model") == "gpt2" and _name(metadata) in ONLY_NEAR


def _name(metadata: Mapping[str, MetadataValue]) -> str:
    return str(metadata.get(PRE, "default"))


def _recognised(patterns: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """The expressions as the table spells them."""
    return tuple(_in_our_words(pattern) for pattern in patterns)


def _in_our_words(pattern: str) -> str:
    for found, ours in (*_SPELLINGS, *_STAND_INS):
        pattern = pattern.replace(found, ours)
    return pattern
