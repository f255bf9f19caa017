"""From the tokenizer files of Hugging Face layout to GGUF metadata: what each file says, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.hf.tokenizer import tokenizer_metadata, write_tokenizer
from smidgen.model.chat import chat_template, render_chat
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers import text_rules
from smidgen.model.tokenizers.subset import Pieces, subset
from smidgen.model.tokenizers.vocabulary import END_IDS
from smidgen.progress import say_once
from tests.tiny_tokenizers import (
    BYTE_LEVEL_CONFIG,
    CONFIG,
    TEXT,
    added,
    byte_level_json,
    message,
    model_proto,
    pieces,
    sentencepiece_json,
    template,
    write_folder,
)

ROWS = 600
TEXTS = [TEXT, "", " ", "  the  dog ", "The fox's 123 tricks:\n\n\tété 日本", "<s>the</s> dog<s>", "the▁dog", "a" * 50]


def read(folder: Path, rows: int = ROWS) -> tuple[dict[str, Any], Tokenizer]:
    metadata, types = tokenizer_metadata(folder, rows)
    assert metadata.keys() == types.keys()
    return metadata, Tokenizer.from_gguf(metadata)


def byte_level(tmp_path: Path, config: Any = None, **changes: Any) -> Path:
    return write_folder(
        tmp_path, tokenizer__json=byte_level_json(**changes), tokenizer_config__json=BYTE_LEVEL_CONFIG | (config or {})
    )


def sentencepiece(tmp_path: Path, config: Any = None, **changes: Any) -> Path:
    return write_folder(
        tmp_path, tokenizer__json=sentencepiece_json(**changes), tokenizer_config__json=CONFIG | (config or {})
    )


def test_three_sources_give_the_same_ids(tmp_path: Path) -> None:
    """tokenizer.json, tokenizer.model, both together, and the GGUF metadata of each written and read again."""
    json_only = sentencepiece(tmp_path / "json")
    model_only = write_folder(tmp_path / "model", tokenizer__model=model_proto(), tokenizer_config__json=CONFIG)
    both = sentencepiece(tmp_path / "both")
    (both / "tokenizer.model").write_bytes(model_proto())
    expected, tokenizer = read(model_only)
    assert expected["tokenizer.ggml.scores"][:400].tolist() == pytest.approx([score for _, score, _ in pieces()][:400])
    assert tokenizer.token_text(tokenizer.encode("the dog")[0]) == "▁the"
    for place, folder in enumerate((json_only, model_only, both)):
        metadata, ours = read(folder)
        again = tmp_path / f"again{place}"
        again.mkdir()
        write_tokenizer(again, metadata)
        for other in (ours, read(again)[1]):
            assert [other.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
            parsed = [other.encode(text, parse_special=True, add_bos=True) for text in TEXTS]
            assert parsed == [tokenizer.encode(text, parse_special=True, add_bos=True) for text in TEXTS]
        assert metadata["tokenizer.ggml.tokens"] == expected["tokenizer.ggml.tokens"]


def test_keys_and_types_are_those_of_the_converter(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "a", {"chat_template": "x", "pad_token": "<|end|>", "unk_token": "<|end|>"})
    types = tokenizer_metadata(folder, ROWS)[1]
    values = read(folder)[0]
    assert {key.removeprefix("tokenizer."): kind for key, kind in types.items()} == {
        "ggml.model": (8,), "ggml.pre": (8,), "ggml.tokens": (9, 8), "ggml.token_type": (9, 5), "ggml.merges": (9, 8),
        "ggml.bos_token_id": (4,), "ggml.eos_token_id": (4,), "ggml.unknown_token_id": (4,),
        "ggml.padding_token_id": (4,), "ggml.add_bos_token": (7,), "ggml.add_eos_token": (7,),
        "ggml.add_space_prefix": (7,), "chat_template": (8,),
    }  # fmt: skip
    assert values["tokenizer.ggml.model"] == "gpt2" and values["tokenizer.ggml.pre"] == "qwen2"
    assert values["tokenizer.ggml.add_bos_token"] is values["tokenizer.ggml.add_space_prefix"] is False
    types = tokenizer_metadata(sentencepiece(tmp_path / "b"), ROWS)[1]
    values = read(tmp_path / "b")[0]
    assert values["tokenizer.ggml.model"] == "llama" and values["tokenizer.ggml.pre"] == "default"
    assert types["tokenizer.ggml.scores"] == (9, 6) and values["tokenizer.ggml.scores"].dtype == np.float32
    assert values["tokenizer.ggml.add_bos_token"] is values["tokenizer.ggml.add_space_prefix"] is True
    assert "tokenizer.ggml.merges" not in values


def test_rows_without_a_token_are_padded(tmp_path: Path) -> None:
    metadata, tokenizer = read(sentencepiece(tmp_path))
    size = len(pieces())
    assert len(tokenizer) == ROWS and metadata["tokenizer.ggml.tokens"][size:] == [
        f"[PAD{i}]" for i in range(size, ROWS)
    ]
    assert set(metadata["tokenizer.ggml.token_type"][size:].tolist()) == {5}
    with pytest.raises(BadFile, match=rf"the id {size - 1}, but the model has only {size - 1} rows"):
        tokenizer_metadata(tmp_path, size - 1)
    for rows in (0, -1, 1 << 40):
        with pytest.raises(BadFile, match="out of range"):
            tokenizer_metadata(tmp_path, rows)


def test_roles_come_from_the_first_file_that_names_them(tmp_path: Path) -> None:
    folder = byte_level(tmp_path, {"bos_token": {"content": "<|begin|>", "lstrip": False}, "eos_token": None})
    write_folder(folder, special_tokens_map__json={"bos_token": "<|end|>", "eos_token": {"content": "<|end|>"}})
    write_folder(folder, config__json={"bos_token_id": 5, "pad_token_id": 7, "eos_token_id": [1, 2]})
    _, tokenizer = read(folder)
    texts = tokenizer.special_texts
    assert (texts["bos_token"], texts["eos_token"]) == ("<|begin|>", "<|end|>")
    assert texts["pad_token"] == tokenizer.token_text(7)


def test_tokens_that_end_generation(tmp_path: Path) -> None:
    folder = byte_level(tmp_path, specials=("<|begin|>", "<|end|>", "<|im_end|>", "<stop>", "<halt>"))
    _, tokenizer = read(folder)
    begin = tokenizer.bos_id or 0
    write_folder(folder, generation_config__json={"eos_token_id": [begin + 1, begin + 2, begin + 3, begin + 4]})
    metadata, tokenizer = read(folder)
    assert tokenizer.eos_ids == {begin + 1, begin + 2, begin + 3, begin + 4}
    assert metadata["tokenizer.ggml.eot_token_id"] == begin + 3 and metadata["tokenizer.ggml.eom_token_id"] == begin + 4


STOPS = ("<|begin|>", "<|end|>", "<s1>", "<s2>", "<s3>", "<s4>", "<s5>", "<s6>", "<s7>")


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 8])
def test_any_number_of_tokens_that_end_generation(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """None is lost; the keys of GGUF have room for six, and a word is said of the others."""
    folder = byte_level(tmp_path, specials=STOPS)
    begin = read(folder)[1].bos_id or 0
    wanted = [begin + 1 + place for place in range(count)]
    write_folder(folder, generation_config__json={"eos_token_id": wanted})
    say_once.cache_clear()
    metadata, tokenizer = read(folder)
    assert tokenizer.eos_ids == {begin + 1, *wanted}
    keys = [f"tokenizer.ggml.{key}_token_id" for key in ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")]
    assert [metadata[key] for key in keys if key in metadata] == (wanted or [begin + 1])[:6]
    assert list(metadata.get(END_IDS, [])) == wanted[6:]
    assert ("has room for 6 in a file, and will not end at <s6>, <s7>" in capsys.readouterr().err) == (count == 8)
    again = write_folder(tmp_path / "again")
    write_tokenizer(again, metadata)
    if wanted[6:]:
        kept = Pieces(metadata).closed([])
        smaller, _ = subset(metadata, tokenizer_metadata(folder, ROWS)[1], kept)
        ended = Tokenizer.from_gguf(smaller)
        assert sorted(map(ended.token_text, ended.eos_ids)) == sorted(STOPS[1:])


def test_keys_of_tokens_that_fill_in_are_theirs(tmp_path: Path) -> None:
    """A vocabulary that has such tokens keeps the keys for them."""
    folder = byte_level(tmp_path, specials=(*STOPS[:6], "<fim_pad>"))
    begin = read(folder)[1].bos_id or 0
    write_folder(folder, generation_config__json={"eos_token_id": [begin + 1 + place for place in range(5)]})
    metadata, tokenizer = read(folder)
    assert "tokenizer.ggml.fim_pad_token_id" not in metadata and list(metadata[END_IDS]) == [begin + 4, begin + 5]
    assert {tokenizer.token_text(token) for token in tokenizer.eos_ids} == {*STOPS[1:6], "<fim_pad>"}


@pytest.mark.parametrize("value", [2**32 - 1, ROWS, ROWS + 7, -1, None])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_id_that_is_no_rows_is_no_token(file: str, value: int | None, tmp_path: Path) -> None:
    folder = byte_level(tmp_path, {"eos_token": None})
    eos = read(folder)[1].bos_id or 0
    ids = {"pad_token_id": value, "unk_token_id": value, "eos_token_id": [value, eos]}
    write_folder(folder, **{file.replace(".", "__"): ids})
    metadata, tokenizer = read(folder)
    assert {"tokenizer.ggml.padding_token_id", "tokenizer.ggml.unknown_token_id"}.isdisjoint(metadata)
    assert tokenizer.eos_id == eos and set(tokenizer.special_texts) == {"bos_token", "eos_token"}


@pytest.mark.parametrize("value", [2**32 - 1, 600, -1])
def test_the_same_in_the_metadata_of_a_file(value: int, tmp_path: Path) -> None:
    metadata, tokenizer = read(byte_level(tmp_path))
    for role in ("padding", "unknown", "eot", "bos"):
        changed = Tokenizer.from_gguf(metadata | {f"tokenizer.ggml.{role}_token_id": value})
        assert changed.eos_ids == tokenizer.eos_ids and changed.encode("the dog") == tokenizer.encode("the dog")
        assert changed.bos_id == (None if role == "bos" else tokenizer.bos_id)
    with pytest.raises(BadFile, match="not the id of a token"):
        Tokenizer.from_gguf(metadata | {"tokenizer.ggml.padding_token_id": "2"})


def test_a_bos_beyond_the_rows_is_none(tmp_path: Path) -> None:
    folder = byte_level(tmp_path, {"bos_token": "<far>", "added_tokens_decoder": {"700": {"content": "<far>"}}})
    metadata, tokenizer = read(folder)
    assert tokenizer.bos_id is None and "tokenizer.ggml.bos_token_id" not in metadata


def test_what_a_file_names_as_special_is_special(tmp_path: Path) -> None:
    """Old layouts: in the vocabulary and special_tokens_map.json alone, or in added_tokens.json."""
    plain = byte_level_json()
    plain["model"]["vocab"] |= {"[STOP]": 338, "[TOOL]": 339}
    names = {"bos_token": "<|begin|>", "eos_token": {"content": "[STOP]"}, "additional_special_tokens": ["[TOOL]"]}
    folder = write_folder(
        tmp_path, tokenizer__json=plain, special_tokens_map__json=names, added_tokens__json={"[MORE]": 340}
    )
    metadata, tokenizer = read(folder)
    assert tokenizer.encode("a[STOP][TOOL][MORE]", parse_special=True)[1:] == [338, 339, 340]
    assert {338, 339} <= tokenizer.control and 340 not in tokenizer.control and tokenizer.eos_id == 338


@pytest.mark.parametrize("said", [None, True, False])
def test_bos_by_the_post_processor_or_by_name(said: bool | None, tmp_path: Path) -> None:
    config = {} if said is None else {"add_bos_token": said}
    for place, processor in enumerate((template("<|begin|>", bos=376), None)):
        folder = byte_level(tmp_path / str(place), config, post_processor=processor)
        assert read(folder)[1].adds_bos is (processor is not None)  # what it really does counts


def test_eos_after_texts(tmp_path: Path) -> None:
    metadata, _ = read(byte_level(tmp_path, post_processor=template("<|begin|>", "<|end|>", bos=376, eos=377)))
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    assert metadata["tokenizer.ggml.add_eos_token"] is False  # whatever a trainer left: no answer follows it


def test_tokens_added_beside_tokenizer_json(tmp_path: Path) -> None:
    decoder = {"500": {"content": "<tool>", "special": True}, "501": {"content": "▁▁", "special": False}}
    folder = sentencepiece(tmp_path, {"added_tokens_decoder": decoder})
    write_folder(folder, added_tokens__json={"<more>": 502})
    metadata, tokenizer = read(folder)
    assert metadata["tokenizer.ggml.tokens"][500:503] == ["<tool>", "  ", "<more>"]
    assert metadata["tokenizer.ggml.token_type"][500:503].tolist() == [3, 4, 4]
    assert tokenizer.encode("a  b<more><tool>").count(500) == 0
    assert {501, 502} <= set(tokenizer.encode("a  b<more>"))


def test_added_tokens_beyond_the_rows_are_left_out(tmp_path: Path) -> None:
    """As in Gemma 3's text models, whose tokenizer has a token for images after the last row."""
    specials = [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>"), added(ROWS, "<image>", rstrip=True)]
    tokenizer = sentencepiece_json(added_tokens=specials)
    config = CONFIG | {"pad_token": "<made up>"}
    for place, vocabulary in enumerate(({}, {"<image>": ROWS})):
        tokenizer["model"]["vocab"] |= vocabulary
        folder = write_folder(tmp_path / str(place), tokenizer__json=tokenizer, tokenizer_config__json=config)
        metadata, ours = read(folder)
        assert len(ours) == ROWS and "<image>" not in metadata["tokenizer.ggml.tokens"]
        assert text_rules.STRIP_RIGHT not in metadata and "pad_token" not in ours.special_texts


def test_reserved_pieces_are_replaced_by_added_tokens(tmp_path: Path) -> None:
    listed = pieces()
    listed[300] = ("<reserved>", 0.0, 4)
    folder = write_folder(tmp_path, tokenizer__model=model_proto(listed))
    write_folder(folder, tokenizer_config__json=CONFIG | {"added_tokens_decoder": {"300": {"content": "<|user|>"}}})
    metadata, tokenizer = read(folder)
    assert tokenizer.token_text(300) == "<|user|>" and metadata["tokenizer.ggml.token_type"][300] == 3


@pytest.mark.parametrize("legacy", [None, True, False])
def test_tokenizer_model_alone(legacy: bool | None, tmp_path: Path) -> None:
    """SentencePiece's own rule, or what transformers calls not legacy: a space before the first word only."""
    for dummy in (1, 0):
        folder = write_folder(tmp_path / str(dummy), tokenizer__model=model_proto(normalizer={3: dummy}))
        write_folder(folder, tokenizer_config__json=CONFIG | ({} if legacy is None else {"legacy": legacy}))
        metadata, tokenizer = read(folder)
        assert metadata["tokenizer.ggml.add_space_prefix"] is bool(dummy) and tokenizer.adds_bos
        assert metadata.get(text_rules.SPACE_PREFIX) == ("first" if dummy and legacy is False else None)
    assert tokenizer.special_texts == {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


UNSUPPORTED_MODELS = {
    "unigram": (model_proto(trainer={3: 1}), "unigram"),
    "unigram by default": (message(1, message(1, b"a")), "unigram"),
    "words": (model_proto(trainer={3: 3}), "the kind word"),
    "characters": (model_proto(normalizer={2: b"table"}), "a table of characters"),
    "extra spaces": (model_proto(normalizer={4: 1}), "remove_extra_whitespaces"),
    "no escape": (model_proto(normalizer={5: 0}), "not escaped"),
    "suffix": (model_proto(trainer={24: 1}), "white space as a suffix"),
}


@pytest.mark.parametrize(("raw", "reason"), UNSUPPORTED_MODELS.values(), ids=UNSUPPORTED_MODELS.keys())
def test_other_sentencepiece_models(raw: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=reason):
        tokenizer_metadata(write_folder(tmp_path, tokenizer__model=raw), ROWS)


def test_chat_templates(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "by default"}, {"name": "tool-use", "template": "with tools"}]
    metadata, _ = read(byte_level(tmp_path, {"chat_template": named}))
    assert chat_template(metadata) == "by default" and metadata["tokenizer.chat_template.tool_use"] == "with tools"
    assert metadata["tokenizer.chat_templates"] == ["tool_use"]
    again = tmp_path / "again"
    again.mkdir()
    write_tokenizer(again, metadata)
    other, _ = read(again)
    assert {key: other[key] for key in other if "chat" in key} == {
        key: metadata[key] for key in metadata if "chat" in key
    }
    write_folder(tmp_path, chat_template__jinja="in Jinja\r\n")
    assert chat_template(read(tmp_path)[0]) == "in Jinja\r\n"


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999999) %}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% include '/etc/passwd' %}",
        "{{ 'a' * 10000000000 }}",
    ],
)
def test_templates_of_a_folder_run_in_the_sandbox(template: str, tmp_path: Path) -> None:
    """Reading runs nothing; rendering ends in an error of one line."""
    metadata, tokenizer = read(write_folder(byte_level(tmp_path), chat_template__jinja=template))
    with pytest.raises(SmidgenError) as caught:
        render_chat(chat_template(metadata), [{"role": "user", "content": "hi"}], tokenizer.special_texts)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"neither tokenizer.json nor tokenizer.model"):
        tokenizer_metadata(tmp_path, ROWS)
