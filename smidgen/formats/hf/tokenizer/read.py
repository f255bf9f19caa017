"""From a folder in Hugging Face layout to the tokenizer metadata of a GGUF file.

The keys and their types are those that llama.cpp's converter writes, so that both smidgen and llama.cpp tokenize with
them, plus smidgen's own for what llama.cpp does not know (see `smidgen.model.tokenizers.text_rules`). The ids are those
that the `tokenizers` library gives for the tokenizer.json as it is written. (transformers 5 builds some tokenizers anew
from the vocabulary alone, with the rules of the class named in tokenizer_config.json; where these contradict the file,
its ids differ. Of a tokenizer.model alone the rules are SentencePiece's, as llama.cpp has them; of vocab.json and
merges.txt those of the class.)
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from smidgen.errors import BadFile, printable
from smidgen.formats.hf.folder import member
from smidgen.formats.hf.tokenizer.layout import Layout
from smidgen.formats.hf.tokenizer.pipeline import Ends, Words, refuse
from smidgen.formats.hf.tokenizer.sentencepiece_model import SentencePieceModel, read_sentencepiece
from smidgen.formats.hf.tokenizer.settings import Settings, read_settings
from smidgen.formats.hf.tokenizer.tokenizer_json import AddedToken, TokenizerJson, read_tokenizer_json
from smidgen.formats.hf.tokenizer.vocab_and_merges import is_split, read_vocab_and_merges
from smidgen.model.chat import DEFAULT_TEMPLATE, template_key
from smidgen.model.tokenizers import text_rules
from smidgen.model.tokenizers.splitting import PRE_TOKENIZERS, SPLITS
from smidgen.model.tokenizers.vocabulary import (
    END_IDS,
    END_TEXTS,
    FILL_END_TEXTS,
    FILL_TEXTS,
    LARGEST_VOCABULARY,
    MetadataValue,
)
from smidgen.progress import say_once

# GGUF value types (the specification's numbers): u32, i32, f32, bool, string, array.
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_ROLE_KEYS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}

Types = dict[str, tuple[int, ...]]


@dataclass
class _Metadata:
    """Metadata and their GGUF types, growing together."""

    values: dict[str, MetadataValue] = field(default_factory=dict)
    types: Types = field(default_factory=dict)

    def put(self, key: str, value: MetadataValue, *kind: int) -> None:
        self.values[f"tokenizer.{key}"] = value
        self.types[f"tokenizer.{key}"] = kind


def tokenizer_metadata(folder: Path, rows: int) -> tuple[dict[str, MetadataValue], Types]:
    """The keys `tokenizer.*` of a GGUF file and their value types, from the tokenizer files of a model's folder.

    rows: of the embedding; ids without a token are padded with unused ones.
    Added tokens beyond the rows are left out, because the model cannot read them (Gemma 3's text models have one for
    images). Raises BadFile for files that are damaged or contradict one another (more tokens than rows included), and
    Unsupported for a tokenizer that would be tokenized differently here, naming what is unknown.
    """
    folder = Path(folder)
    if not 0 < rows <= LARGEST_VOCABULARY:
        raise BadFile(f"a vocabulary of {rows} tokens is out of range; at most {LARGEST_VOCABULARY} are read.")
    settings = read_settings(folder)
    path = member(folder, "tokenizer.json")
    tokenizer = read_tokenizer_json(path) if path else None
    if tokenizer is not None:
        settings = _with_bos_of(tokenizer, settings, folder)
    pieces = None
    if tokenizer is None or tokenizer.words is None:
        path = member(folder, "tokenizer.model")
        pieces = read_sentencepiece(path) if path else None
    if tokenizer is None and pieces is None and is_split(folder):
        named, kind, prefix = settings.tokenizer_class, settings.model_type, settings.add_prefix_space
        tokenizer, granted = read_vocab_and_merges(folder, named, kind, prefix)
        settings = replace(settings, roles={**granted, **settings.roles})
    if tokenizer is None and pieces is None:
        raise BadFile(
            f"{printable(folder)} has neither tokenizer.json nor tokenizer.model, nor vocab.json with merges.txt; "
            "add the model's tokenizer."
        )
    return _metadata(settings, tokenizer, pieces, rows)


def _with_bos_of(tokenizer: TokenizerJson, settings: Settings, folder: Path) -> Settings:
    """The settings with BOS where the post-processor of tokenizer.json puts it, whatever tokenizer_config.json says of
    it, as transformers 5 does for every class."""
    begins = bool(tokenizer.ends.before)
    if settings.add_bos is not None and settings.add_bos != begins:
        does = "adds it" if begins else "does not add it"
        say_once(
            f"{printable(folder.name)}: tokenizer_config.json says add_bos_token: {str(settings.add_bos).lower()}, but "
            f"tokenizer.json {does}; that counts, as in transformers 5.",
            about=folder,
        )
    return replace(settings, add_bos=begins)


def _metadata(
    settings: Settings, tokenizer: TokenizerJson | None, pieces: SentencePieceModel | None, rows: int
) -> tuple[dict[str, MetadataValue], Types]:
    added = _all_added(settings, tokenizer)
    out_of_reach = {token.text for token in added if token.id >= rows}
    added = [token for token in added if token.id < rows]
    if tokenizer is not None and out_of_reach:
        within = {text: token for text, token in tokenizer.vocabulary.items() if text not in out_of_reach}
        tokenizer = replace(tokenizer, vocabulary=within)
    layout = _layout(tokenizer, pieces, added, rows)
    metadata = _Metadata()
    byte_level = tokenizer is not None and tokenizer.words is not None
    metadata.put("ggml.model", "gpt2" if byte_level else "llama", _STRING)
    _put_words(metadata, tokenizer.words if tokenizer is not None else None)
    metadata.put("ggml.tokens", layout.texts, _ARRAY, _STRING)
    if not byte_level:
        metadata.put("ggml.scores", layout.scores, _ARRAY, _F32)
    metadata.put("ggml.token_type", np.array(layout.kinds, dtype=np.int32), _ARRAY, _I32)
    if tokenizer is not None and byte_level:
        metadata.put("ggml.merges", [f"{left} {right}" for left, right in tokenizer.merges], _ARRAY, _STRING)
    roles = _roles(settings, tokenizer, pieces, layout, out_of_reach)
    for role, token in roles.items():
        metadata.put(f"ggml.{_ROLE_KEYS[role]}_token_id", token, _U32)
    _put_ends(metadata, settings, layout, roles)
    _put_added_ends(metadata, settings, tokenizer, layout, roles)
    _put_text_rules(metadata, settings, tokenizer, pieces, added)
    _put_templates(metadata, settings.templates)
    return metadata.values, metadata.types


def _put_words(metadata: _Metadata, words: Words | None) -> None:
    """The name of the expressions, and these themselves where the table that we have under it spells them otherwise."""
    metadata.put("ggml.pre", words.name if words is not None else "default", _STRING)
    if words is not None and words.patterns != PRE_TOKENIZERS[words.name].patterns:
        metadata.put(SPLITS.removeprefix("tokenizer."), list(words.patterns), _ARRAY, _STRING)


def _all_added(settings: Settings, tokenizer: TokenizerJson | None) -> list[AddedToken]:
    """The added tokens of all files, those of tokenizer.json as it describes them."""
    if tokenizer is None:
        return settings.added
    described = {token.text: token for token in tokenizer.added}
    for token in settings.added:
        known = described.setdefault(token.text, token)
        if known.id != token.id:
            raise BadFile(
                f"tokenizer.json gives {printable(token.text, 40)!r} the id {known.id}, tokenizer_config.json or "
                f"added_tokens.json the id {token.id}; take all files from one copy of the model."
            )
    for text in (*settings.roles.values(), *settings.special):
        # As transformers does: what a file names as special is cut out of text, though it is in the vocabulary only.
        if text not in described and text in tokenizer.vocabulary and text != tokenizer.unknown:
            described[text] = AddedToken(tokenizer.vocabulary[text], text, special=True)
    return list(described.values())


def _layout(
    tokenizer: TokenizerJson | None, pieces: SentencePieceModel | None, added: list[AddedToken], rows: int
) -> Layout:
    layout = Layout(rows)
    if pieces is not None:
        layout.put_pieces(pieces)
    if tokenizer is not None and pieces is not None:
        _check_agreement(tokenizer, pieces, added)
        beyond = {text: token for text, token in tokenizer.vocabulary.items() if token >= len(pieces.pieces)}
        layout.put_vocabulary(beyond, None, bytes_spelled=False)
    elif tokenizer is not None:
        layout.put_vocabulary(tokenizer.vocabulary, tokenizer.unknown, bytes_spelled=tokenizer.words is None)
    for token in added:
        layout.put_added(token, escaped=tokenizer is None or tokenizer.words is None)
    layout.check_padding()
    if tokenizer is not None and tokenizer.words is None and pieces is None:
        layout.score_by_merges(tokenizer.merges)
    return layout


def _check_agreement(tokenizer: TokenizerJson, pieces: SentencePieceModel, added: list[AddedToken]) -> None:
    """tokenizer.json and tokenizer.model name the same tokens; an added token may replace a piece."""
    replaced = {token.id for token in added}
    texts = {token: text for text, token in tokenizer.vocabulary.items()}
    for token, piece in enumerate(pieces.pieces):
        if token not in replaced and texts.get(token) != piece.text:
            there = printable(texts.get(token, "nothing"), 40)
            raise BadFile(
                f"token {token} is {printable(piece.text, 40)!r} in tokenizer.model and {there!r} in tokenizer.json; "
                "take both files from one copy of the model, or remove one."
            )


def _roles(
    settings: Settings, tokenizer: TokenizerJson | None, pieces: SentencePieceModel | None, layout: Layout,
    out_of_reach: Collection[str],
) -> dict[str, int]:  # fmt: skip
    """Ids of the tokens with a role: by text, then by the configs' ids, then as the tokenizer's own files say.

    A number that is no row's is no token: configs have the size of the vocabulary, or 2^32 - 1, for none.
    out_of_reach: texts of added tokens beyond the rows.
    """
    roles: dict[str, int] = {}
    for role in _ROLE_KEYS:
        text = settings.roles.get(role)
        if text is not None and text not in layout.ids:
            if role in ("bos_token", "eos_token") and text not in out_of_reach:
                raise BadFile(f"{role} is {printable(text, 40)!r}, which is not a token of this tokenizer.")
            text = None  # made up for training (padding), needed by nothing (unknown), or not of this model's rows
        own = pieces.ids.get(role) if pieces is not None else None
        if tokenizer is not None and role == "unk_token" and tokenizer.unknown is not None:
            own = layout.ids.get(tokenizer.unknown)
        candidates = [*([layout.ids[text]] if text is not None else []), *settings.ids.get(role, []), own]
        found = next((token for token in candidates if token is not None and token < layout.rows), None)
        if found is not None:
            roles[role] = found
    ends = [token for token in settings.end_ids if token < layout.rows]
    if "eos_token" not in roles and ends:
        roles["eos_token"] = ends[0]
    before = tokenizer.ends.before if tokenizer is not None else ()
    if "bos_token" not in roles and len(before) == 1 and before[0] in layout.ids:
        roles["bos_token"] = layout.ids[before[0]]
    return roles


def _put_ends(metadata: _Metadata, settings: Settings, layout: Layout, roles: dict[str, int]) -> None:
    """The tokens that end generation, besides those that both engines know by their text.

    llama.cpp ends at the tokens of two more keys, and of three that are meant for filling in the middle, which a
    vocabulary without such tokens leaves free. What has no room there stands under a key of ours, and is said.
    """
    ends = [token for token in settings.end_ids if token < layout.rows and token != roles.get("eos_token")]
    unknown = [token for token in dict.fromkeys(ends) if layout.texts[token] not in END_TEXTS]
    fills = FILL_TEXTS.union(*FILL_END_TEXTS.values())
    keys = ["eot", "eom", *(FILL_END_TEXTS if fills.isdisjoint(layout.ids) else ())]
    for key, token in zip(keys, unknown, strict=False):
        metadata.put(f"ggml.{key}_token_id", token, _U32)
    if more := unknown[len(keys) :]:
        metadata.put(END_IDS.removeprefix("tokenizer."), np.array(more, dtype=np.int32), _ARRAY, _I32)
        say_once(
            f"Generation ends at {len(unknown) + 1} tokens; llama.cpp has room for {len(keys) + 1} in a file, and will "
            f"not end at {', '.join(printable(layout.texts[token], 40) for token in more[:3])}."
        )


def _put_added_ends(
    metadata: _Metadata, settings: Settings, tokenizer: TokenizerJson | None, layout: Layout, roles: dict[str, int]
) -> None:
    """Whether texts begin with BOS. They never end with EOS: trainers leave that on in their folders, and a model that
    reads EOS behind a prompt has nothing to answer.
    """
    ends = tokenizer.ends if tokenizer is not None else Ends()
    for names, role in ((ends.before, "bos_token"), (ends.after, "eos_token")):
        if names and [layout.ids.get(name) for name in names] != [roles.get(role)]:
            refuse("post-processor", f"that adds {', '.join(names)}")
    spelled = tokenizer is None  # a tokenizer.model has no post-processor: BOS it is, as SentencePiece models have it
    bos = spelled if settings.add_bos is None else settings.add_bos
    metadata.put("ggml.add_bos_token", bos and "bos_token" in roles, _BOOL)
    metadata.put("ggml.add_eos_token", False, _BOOL)


def _put_text_rules(
    metadata: _Metadata,
    settings: Settings,
    tokenizer: TokenizerJson | None,
    pieces: SentencePieceModel | None,
    added: list[AddedToken],
) -> None:
    if tokenizer is not None:
        prefix = tokenizer.space_prefix
    else:
        wanted = settings.add_prefix_space
        dummy = pieces is not None and pieces.add_dummy_prefix if wanted is None else wanted
        prefix = "never" if not dummy else "always" if settings.legacy else "first"
    metadata.put("ggml.add_space_prefix", prefix != "never", _BOOL)
    if prefix in text_rules.SPACE_PREFIXES[1:]:
        metadata.put(text_rules.SPACE_PREFIX.removeprefix("tokenizer."), prefix, _STRING)
    if tokenizer is not None and tokenizer.nfc:
        metadata.put(text_rules.NORMALIZER.removeprefix("tokenizer."), "nfc", _STRING)
    for key, ids in (
        (text_rules.STRIP_LEFT, [token.id for token in added if token.strip_left]),
        (text_rules.STRIP_RIGHT, [token.id for token in added if token.strip_right]),
    ):
        if ids:
            metadata.put(key.removeprefix("tokenizer."), np.array(ids, dtype=np.int32), _ARRAY, _I32)


def _put_templates(metadata: _Metadata, templates: dict[str, str]) -> None:
    """The default template, and others under their names as llama.cpp's converter spells them."""
    others: list[str] = []
    for name, template in templates.items():
        if name == DEFAULT_TEMPLATE:
            metadata.put("chat_template", template, _STRING)
            continue
        plain = template_key(name)
        while plain in others:
            plain += "_"
        metadata.put(f"chat_template.{plain}", template, _STRING)
        others.append(plain)
    if others:
        metadata.put("chat_templates", others, _ARRAY, _STRING)
