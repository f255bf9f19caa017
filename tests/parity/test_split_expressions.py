"""Words as the makers of each tokenizer published them: the ids of the `tokenizers` library, whatever becomes of it.

In the vocabulary here every word of the texts is one token, so that any other cut shows.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

import smidgen
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.hf.tokenizer import tokenizer_metadata, write_tokenizer
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.byte_level import BYTE_CHARACTERS
from smidgen.model.tokenizers.splitting import SPLITS
from smidgen.model.tokenizers.subset import Pieces, subset
from tests.family_models import save_folder
from tests.tiny_tokenizers import BYTE_LEVEL_CONFIG, LLAMA3, QWEN2, added, bpe, byte_level_json, split_at, write_folder

TEXTS = (
    "हिन्दी भाषा में", "สวัสดีชาวโลก", "你好，世界。", "日本語のテキスト", "안녕하세요", "e\u0301a cafe\u0301s", "نَصّ عربي",
    "École ÉCOLEs aÉb ΑΒγδ ПриВет ǅungla ǆ", "don't DON'T we'LL été's it’s '\u017f", "12345 3.14 x² Ⅷ ٣٤٥",
    "👩‍👩‍👧 🇩🇪❤️ ok👍🏽", "a/b\r\n\n  c\t\td   ", "snake_case camelCase HTTPServer IPv6", "\u1e9b\u0323 ﬁne ẞ",
    " \u00a0 \u3000x",
)  # fmt: skip
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}{REST}"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDING}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDING}"
    r"|\p{N}{1,3}" + REST
)
TIKTOKEN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
MATCHES = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": O200K}, "behavior": "Removed", "invert": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ],
}
DIGITS = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
#: Pre-tokenizer, whether whole words are taken without merging, and the expression where there is one alone.
PUBLISHED: dict[str, tuple[dict[str, Any], bool, str | None]] = {
    "Mistral Nemo (tekken)": (split_at(TEKKEN), True, TEKKEN),
    "Phi-4 mini": (MATCHES, False, O200K),
    "gpt-oss": (split_at(O200K), False, O200K),
    "Llama 3": (split_at(LLAMA3), True, LLAMA3),
    "Phi-4": (split_at(LLAMA3), False, LLAMA3),
    "tiktoken's own spelling": (split_at(TIKTOKEN), False, TIKTOKEN),
    "Qwen": (split_at(QWEN2), False, QWEN2),
    "SmolLM 2": (DIGITS, False, None),
}


def every_word(texts: tuple[str, ...]) -> tuple[dict[str, int], list[list[str]]]:
    """A vocabulary with every stretch of the texts that begins at a word's first character, built from the left."""
    vocabulary = {text: token for token, text in enumerate(BYTE_CHARACTERS)}
    merges = []
    for text in texts:
        spelled = "".join(BYTE_CHARACTERS[byte] for byte in text.encode())
        for start in range(len(spelled)):
            for stop in range(start + 2, min(len(spelled), start + 24) + 1):
                word = spelled[start:stop]
                if word not in vocabulary:
                    vocabulary[word] = len(vocabulary)
                    merges.append([word[:-1], word[-1]])
    return vocabulary, merges


VOCABULARY, MERGES = every_word(TEXTS)
ROWS = len(VOCABULARY) + 2


def folder_of(path: Path, step: dict[str, Any], whole_words: bool) -> Path:
    specials = [added(ROWS - 2, "<|begin|>"), added(ROWS - 1, "<|end|>")]
    model = bpe(VOCABULARY, MERGES, ignore_merges=whole_words)
    tokenizer = byte_level_json(pre_tokenizer=step, model=model, added_tokens=specials)
    return write_folder(path, tokenizer__json=tokenizer, tokenizer_config__json=BYTE_LEVEL_CONFIG)


def expressions(folder: Path) -> list[str]:
    steps = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]["pretokenizers"]
    return [step["pattern"]["Regex"] for step in steps if step["type"] == "Split"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_words_are_those_of_the_published_expression(name: str, tmp_path: Path) -> None:
    """Read from a folder; in the folder written from the metadata; read from that again."""
    step, whole_words, expression = PUBLISHED[name]
    folder = folder_of(tmp_path / "theirs", step, whole_words)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    metadata, types = tokenizer_metadata(folder, ROWS)
    assert (SPLITS in metadata) == (name == "tiktoken's own spelling") == (SPLITS in types)
    write_tokenizer(again := write_folder(tmp_path / "ours"), metadata)
    written = tokenizers.Tokenizer.from_file(str(again / "tokenizer.json"))
    if expression is not None:
        assert expressions(again) == [expression]
    for tokenizer in (Tokenizer.from_gguf(metadata), Tokenizer.from_gguf(tokenizer_metadata(again, ROWS)[0])):
        for text in TEXTS:
            expected = theirs.encode(text, add_special_tokens=False).ids
            assert tokenizer.encode(text) == expected == written.encode(text, add_special_tokens=False).ids, text


def test_hindi_is_one_word(tmp_path: Path) -> None:
    """What llama.cpp cuts at each of its marks under the name tekken."""
    metadata, _ = tokenizer_metadata(folder_of(tmp_path, *PUBLISHED["Mistral Nemo (tekken)"][:2]), ROWS)
    assert len(Tokenizer.from_gguf(metadata).encode("हिन्दी")) == 1


def test_a_smaller_vocabulary_splits_alike(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "theirs", split_at(TIKTOKEN), False)
    metadata, types = tokenizer_metadata(folder, ROWS)
    wanted = Tokenizer.from_gguf(metadata).encode(" ".join(TEXTS[:6]))
    kept, kept_types = subset(metadata, types, Pieces(metadata).closed(np.array(wanted)))
    assert kept[SPLITS] == [TIKTOKEN] and kept_types[SPLITS] == types[SPLITS]
    write_tokenizer(again := write_folder(tmp_path / "ours"), kept)
    assert expressions(again) == [TIKTOKEN]


def test_through_a_gguf_file_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder → GGUF → a folder: the same expression to the letter, and a word on what llama.cpp makes of it."""
    save_folder("mistral", folder := tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = split_at(spelled := TEKKEN.replace(r"|\p{N}|", r"|\p{N}{1}|"))
    tokenizer["model"]["ignore_merges"] = True
    tokenizer["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    smidgen.export(folder, "gguf", tmp_path / "model.gguf")
    assert "llama.cpp has only an approximation" in capsys.readouterr().err
    with GGUFFile.open(tmp_path / "model.gguf") as file:
        assert file.metadata["tokenizer.ggml.pre"] == "tekken" and file.metadata[SPLITS] == [spelled]
    smidgen.export(tmp_path / "model.gguf", "hf", tmp_path / "again")
    assert expressions(tmp_path / "again") == [spelled]
    with smidgen.load(folder) as one, smidgen.load(tmp_path / "again") as other:
        assert one.tokenizer.encode(TEXTS[0]) == other.tokenizer.encode(TEXTS[0])
        ids = torch.tensor([one.tokenizer.encode(TEXTS[0])])
        assert torch.equal(one.decoder(ids), other.decoder(ids))
