"""The kind of a folder's tokenizer at a glance: large files too, within bounds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from smidgen.errors import BadFile
from smidgen.formats.hf.tokenizer import tokenizer_kind
from smidgen.formats.hf.tokenizer.tokenizer_json import LARGEST_FILE
from smidgen.model.tokenizers.splitting import PRE_TOKENIZERS
from tests.family_models import save_folder
from tests.tiny_tokenizers import byte_level_json, model_proto, sentencepiece_json, split_at, write_folder

_MEASURE = """
import sys
from smidgen.formats.summary import summarise
print(summarise(sys.argv[1]).tokenizer)
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))
"""


def test_kinds(tmp_path: Path) -> None:
    assert tokenizer_kind(tmp_path) is None
    tekken = byte_level_json(pre_tokenizer=split_at(*PRE_TOKENIZERS["tekken"].patterns))
    tekken["model"]["ignore_merges"] = True
    odd = byte_level_json(pre_tokenizer=split_at(r"\w+"))
    for tokenizer, kind in (
        (byte_level_json(), "byte-level BPE"),
        (odd, "byte-level BPE"),
        (tekken, "byte-level BPE (llama.cpp splits some words otherwise)"),
        (sentencepiece_json(), "SentencePiece-like"),
    ):
        assert tokenizer_kind(write_folder(tmp_path, tokenizer__json=tokenizer)) == kind
    assert tokenizer_kind(write_folder(tmp_path, tokenizer__model=model_proto())) == "SentencePiece"


def large(tokenizer: dict[str, object], words: int) -> str:
    """The text of a tokenizer.json with so many more tokens, and a merge for each."""
    text = json.dumps(tokenizer)
    vocabulary = ",".join(f'"{"w" * 70}{n:08}": {1000 + n}' for n in range(words))
    merges = ",\n".join(f'      ["{"w" * 70}", "{n:08}"]' for n in range(words))
    return text.replace('"vocab": {', f'"vocab": {{{vocabulary},').replace('"merges": [', f'"merges": [{merges},')


def test_a_file_as_large_as_gemma_3s_and_more(tmp_path: Path) -> None:
    """40 MB: `inspect` shows the model, in memory that follows from the bounds of the reader."""
    save_folder("gemma3", tmp_path)
    text = large(json.loads((tmp_path / "tokenizer.json").read_text()), 220_000)
    assert 40e6 < len(text) < 45e6
    (tmp_path / "tokenizer.json").write_text(text)
    done = subprocess.run([sys.executable, "-c", _MEASURE, str(tmp_path)], check=True, capture_output=True, text=True)
    kind, peak = done.stdout.splitlines()
    assert kind == "byte-level BPE" and int(peak) < 2**30


def test_a_file_that_no_tokenizer_needs(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(BadFile, match=f"larger than {LARGEST_FILE} bytes"):
        tokenizer_kind(tmp_path)
    for odd in ("[]", "{}", '{"model": 3}'):
        (tmp_path / "tokenizer.json").write_text(odd)
        with pytest.raises(BadFile, match="has no model"):
            tokenizer_kind(tmp_path)
