"""A corpus from end to end: the same whatever the number of processes, resumed after any interruption, never half."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from smidgen.data.corpus import parts
from smidgen.data.corpus import prepare as preparing
from smidgen.data.corpus.duplicates import BANDS, duplicates, exact_hash, match_band, write_signatures
from smidgen.data.corpus.filters import Rules
from smidgen.data.corpus.prepare import CorpusOptions, prepare
from smidgen.data.corpus.shards import Corpus, Index, tokenizer_hash
from smidgen.errors import BadFile, SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.vocabulary import MetadataValue
from tests.data.corpus.texts import changed, essay
from tests.tiny_models import write_llama

SMALL = CorpusOptions(part_bytes=4000)
UNTOUCHED = CorpusOptions(Rules(quality=False), deduplicate=False, part_bytes=4000)


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, MetadataValue]:
    with GGUFFile.open(write_llama(tmp_path_factory.mktemp("model") / "tiny.gguf")) as file:
        return dict(file.metadata)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """30 essays; of them 3 exact and 3 near duplicates, and one that is too short."""
    texts = [essay(seed) for seed in range(23)]
    texts += [texts[0], texts[5] + "\n", texts[22], changed(texts[1], 1), changed(texts[7], 2), changed(texts[20], 3)]
    path = tmp_path / "source.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, "short"]))
    return path


def shard_bytes(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def documents_of(folder: Path, tokenizer: Tokenizer) -> list[str]:
    corpus = Corpus.open(folder)
    tokens, begins = corpus.read(0, corpus.tokens)
    stops = [*begins[1:], len(tokens)]
    return [tokenizer.decode(tokens[a:b], skip_special=True) for a, b in zip(begins, stops, strict=True)]


def test_what_is_kept_and_counted(source: Path, tmp_path: Path, metadata: Mapping[str, MetadataValue]) -> None:
    index = prepare([source], metadata, tmp_path / "out", SMALL)
    dropped = {"exact_duplicate": 3, "near_duplicate": 3, "too_few_words": 1}
    assert index.counts == {"read": 30, "kept": 23, "dropped": dropped, "malformed": 0}
    tokenizer = Tokenizer.from_gguf(metadata)
    assert documents_of(tmp_path / "out", tokenizer) == [essay(seed) for seed in range(23)]
    corpus = Corpus.open(tmp_path / "out", tokenizer_hash(metadata))
    tokens, begins = corpus.read(0, corpus.tokens)
    assert set(tokens[begins]) == {tokenizer.bos_id}
    assert set(tokens[begins[1:] - 1]) == set(tokenizer.eos_ids)
    assert (index.tokens, index.documents, len(index.shards) > 3) == (corpus.tokens, 23, True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index.json", *(shard.name for shard in index.shards)
    ]  # fmt: skip


def test_the_same_with_two_processes(source: Path, tmp_path: Path, metadata: Mapping[str, MetadataValue]) -> None:
    one = prepare([source], metadata, tmp_path / "one", SMALL)
    two = prepare([source], metadata, tmp_path / "two", SMALL, workers=2)
    assert one == two and one.sha256() == two.sha256()
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "two")


class Stopped(Exception):
    """Ctrl-C, at a chosen moment."""


def stop(*_: object) -> None:
    raise Stopped


@pytest.mark.parametrize("where", ["sift", "match_band", "tokenize"])
def test_resumed_after_an_interruption(
    source: Path, tmp_path: Path, metadata: Mapping[str, MetadataValue], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    sifted = []
    monkeypatch.setattr(parts, "write_signatures", lambda *all: sifted.append(all) or write_signatures(*all))
    whole = prepare([source], metadata, tmp_path / "whole", SMALL)
    number_of_parts = len(sifted)
    real, calls = getattr(preparing, where), []

    def stopped_at_the_third(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise Stopped
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(preparing, where, stopped_at_the_third)
        with pytest.raises(Stopped):
            prepare([source], metadata, tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / "index.json").exists()
    with pytest.raises(BadFile, match="is no corpus"):
        Corpus.open(tmp_path / "out")
    sifted.clear()
    assert prepare([source], metadata, tmp_path / "out", SMALL, resume=True) == whole
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")
    assert len(sifted) == (number_of_parts - 2 if where == "sift" else 0)


def test_a_changed_source_is_made_again(source: Path, tmp_path: Path, metadata: Mapping[str, MetadataValue]) -> None:
    interrupted = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Index, "write", stop)
        with pytest.raises(Stopped):
            prepare([source], metadata, interrupted, UNTOUCHED)
    lines = source.read_text().splitlines(keepends=True)
    source.write_text(json.dumps({"text": "another beginning"}) + "\n" + "".join(lines[1:]))
    resumed = prepare([source], metadata, interrupted, UNTOUCHED, resume=True)
    (interrupted / "index.json").unlink()
    with pytest.raises(SmidgenError, match="holds shards of another corpus"):
        prepare([source], metadata, interrupted, UNTOUCHED)
    shutil.rmtree(interrupted)
    assert prepare([source], metadata, interrupted, UNTOUCHED) == resumed


def test_other_settings_and_finished_folders_are_refused(
    source: Path, tmp_path: Path, metadata: Mapping[str, MetadataValue], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Index, "write", stop)
        with pytest.raises(Stopped):
            prepare([source], metadata, out, UNTOUCHED)
    with pytest.raises(SmidgenError, match="begun with another deduplicate: False, now it is True"):
        prepare([source], metadata, out, CorpusOptions(Rules(quality=False), part_bytes=4000), resume=True)
    prepare([source], metadata, out, UNTOUCHED)
    with pytest.raises(SmidgenError, match="holds a finished corpus already"):
        prepare([source], metadata, out, UNTOUCHED)
    (tmp_path / "mine" / "work").mkdir(parents=True)
    (tmp_path / "mine" / "work" / "thesis.txt").write_text("precious")
    with pytest.raises(SmidgenError, match="in the way"):
        prepare([source], metadata, tmp_path / "mine", UNTOUCHED)


def test_malformed_lines_stop_or_are_counted(
    source: Path, tmp_path: Path, metadata: Mapping[str, MetadataValue]
) -> None:
    source.write_text(source.read_text() + "{\n\n")
    with pytest.raises(BadFile, match="source.jsonl line 31 is not JSON.*--skip-bad"):
        prepare([source], metadata, tmp_path / "out", SMALL)
    options = CorpusOptions(skip_bad=True, limit=10)
    assert prepare([source], metadata, tmp_path / "few", options).counts["malformed"] == 0
    options = CorpusOptions(skip_bad=True)
    assert prepare([source], metadata, tmp_path / "all", options).counts["malformed"] == 1


def test_nothing_left_is_an_error(tmp_path: Path, metadata: Mapping[str, MetadataValue]) -> None:
    (tmp_path / "a.txt").write_text("far too short")
    with pytest.raises(SmidgenError, match="no document is left of 1: 1 too_few_words"):
        prepare([tmp_path / "a.txt"], metadata, tmp_path / "out")


def test_damage_and_another_tokenizer(source: Path, tmp_path: Path, metadata: Mapping[str, MetadataValue]) -> None:
    index = prepare([source], metadata, tmp_path / "out", UNTOUCHED)
    with pytest.raises(SmidgenError, match="was tokenized for another model"):
        Corpus.open(tmp_path / "out", tokenizer_hash(dict(metadata) | {"tokenizer.ggml.pre": "other"}))
    shard = tmp_path / "out" / index.shards[1].name
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(BadFile, match="shard-00001.safetensors is damaged: its sha256 begins with"):
        Corpus.open(tmp_path / "out").verify()
    shard.unlink()
    with pytest.raises(BadFile, match="is missing from its corpus"):
        Corpus.open(tmp_path / "out")
    path = tmp_path / "out" / "index.json"
    for text in ("{", "[]", '{"format": 1}', path.read_text().replace("shard-00000", "../shard")):
        path.write_text(text)
        with pytest.raises(BadFile, match="is damaged"):
            Corpus.open(tmp_path / "out")


def test_a_full_disk_leaves_what_was_made(
    source: Path, tmp_path: Path, metadata: Mapping[str, MetadataValue], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare([source], metadata, tmp_path / "whole", UNTOUCHED)
    with monkeypatch.context() as patch:
        patch.setattr("smidgen.atomic.refuse_full_disk", _full_for("shard-00002.safetensors"))
        with pytest.raises(SmidgenError, match="has 0 free"):
            prepare([source], metadata, tmp_path / "out", UNTOUCHED)
    assert prepare([source], metadata, tmp_path / "out", UNTOUCHED, resume=True) == whole


def _full_for(name: str) -> Any:
    def refuse(target: Path, size: int) -> None:
        if target.name == name:
            raise SmidgenError(f"{target} needs {size} bytes, but its disk has 0 free; make room")

    return refuse


def test_the_first_of_a_cluster_stays_whichever_way_it_is_found(tmp_path: Path) -> None:
    """An exact copy in front of near ones must not take the original with it."""
    base = essay(1)
    groups = [[base, essay(2)], [changed(base, 4), base], [changed(base, 5), essay(3), essay(2) + " "]]
    for part, texts in enumerate(groups):
        write_signatures(texts, part, tmp_path)
    for band in range(BANDS):
        match_band(band, tmp_path)
    found = duplicates([[exact_hash(text) for text in texts] for texts in groups], tmp_path)
    assert found == [(set(), set()), ({1}, {0}), ({2}, {0})]
