"""Token ids equal llama.cpp's for the same file: two real models, and tiny ones for what those two do not use."""

import json
import random
import socket
import unicodedata
import urllib.request
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.hf.tokenizer import tokenizer_metadata
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.splitting import PRE_TOKENIZERS
from tests.tiny_tokenizers import LLAMA3, added, byte_level_json, sentencepiece_json, split_at, write_folder

LINES = (Path(__file__).parents[1] / "model" / "tokenizer_lines.txt").read_text(encoding="utf-8").splitlines()


class LlamaCpp:
    """llama.cpp's own tokenizer, through the HTTP server inside xllamacpp."""

    def __init__(self, path: Path):
        xllamacpp = import_module("xllamacpp")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.port, parameters.n_ctx, parameters.n_parallel = port, 256, 1
        parameters.warmup, parameters.verbosity = False, -1
        self.server = xllamacpp.Server(parameters)

    def _post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self.server.listening_address + route, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        body = {"content": text, "add_special": add_bos, "parse_special": parse_special}
        return self._post("/tokenize", body)["tokens"]


def read(path: Path) -> Tokenizer:
    with GGUFFile.open(path) as file:
        return Tokenizer.from_gguf(file.metadata)


def control_and_space_texts() -> Iterator[str]:
    yield ""
    yield from (chr(code) for code in range(0xA1))
    yield from (f"a{chr(code)}b {chr(code)}{chr(code)}!{chr(code)}" for code in (*range(0x20), 0x7F, 0x85, 0xA0, 0xAD))
    yield from ("\u200b\u200c\u200d\u2060\ufeff", "\u2028\u2029\u3000\u2003\u1680", "\ufffd\ufffe\uffff")
    yield from ("\r\n" * 3, "\r\r\n\n\r", "a\r\nb\nc\rd", "x \n y\n\n  z\t\n", "\n ", " \n", "  \n\n  ", "\t\t\n\t")
    for run in (" ", "\t", "\n", "\r\n", "\u3000", "=", "-", "a", "ab", "é", "字", "1", "😀", "\x00"):
        yield from (run * length for length in (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 30, 31, 32, 33, 40, 63, 64, 100, 333))
        yield from (f"x{run * length}y" for length in (1, 2, 3, 9, 50))


def random_texts(count: int, seed: int) -> Iterator[str]:
    """Strings of assigned characters from everywhere, of a few scripts each, and shuffled pieces of the lines."""
    generator = random.Random(seed)
    assigned = [chr(code) for code in range(1, 0x30000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]
    words = [word for line in LINES for word in line.split(" ")]
    for _ in range(count):
        start = generator.randrange(len(assigned) - 200)
        near = assigned[start : start + 200] + list(" \n'1aZ")
        yield "".join(generator.choices(near, k=generator.randrange(1, 60)))
        yield "".join(word + generator.choice((" ", "", "\n", "  ")) for word in generator.choices(words, k=12))


def assert_same(tokenizer: Tokenizer, oracle: LlamaCpp, texts: list[str]) -> None:
    for parse_special in (False, True):
        for text in texts:
            expected = oracle.encode(text, parse_special=parse_special)
            assert tokenizer.encode(text, parse_special=parse_special) == expected, (parse_special, text)


@pytest.fixture(scope="module")
def gemma(gemma_path: Path) -> tuple[Tokenizer, LlamaCpp]:
    return read(gemma_path), LlamaCpp(gemma_path)


@pytest.fixture(scope="module")
def smollm(smollm_path: Path) -> tuple[Tokenizer, LlamaCpp]:
    return read(smollm_path), LlamaCpp(smollm_path)


@pytest.mark.parametrize("model", ["gemma", "smollm"])
def test_real_models(model: str, request: pytest.FixtureRequest) -> None:
    tokenizer, oracle = request.getfixturevalue(model)
    assert_same(tokenizer, oracle, [*LINES, *control_and_space_texts(), *random_texts(200, seed=1)])
    assert_same(tokenizer, oracle, ["\n".join(LINES), " ".join(LINES), "".join(LINES)])


@pytest.mark.parametrize("model", ["gemma", "smollm"])
def test_bos_and_round_trip(model: str, request: pytest.FixtureRequest) -> None:
    tokenizer, oracle = request.getfixturevalue(model)
    if tokenizer.adds_bos:
        assert tokenizer.encode("Hello", add_bos=True) == oracle.encode("Hello", add_bos=True)
    else:
        assert tokenizer.encode("Hello") == oracle.encode("Hello", add_bos=True)
    for text in [*LINES, *random_texts(50, seed=2)]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def write_tiny_model(path: Path, tokenizer: Callable[[gguf.GGUFWriter], int]) -> Path:
    """A one-layer Llama of width 32; `tokenizer` adds its metadata and returns the vocabulary's size."""
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary = tokenizer(writer)
    writer.add_context_length(1024)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(32)
    writer.add_tensor("token_embd.weight", np.zeros((vocabulary, 32), dtype=np.float16))
    norms = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(32, dtype=np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((32, 32), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("pre", ["default", "gpt-2", "llama-bpe", "qwen2", "dbrx", "tekken", "gpt-4o", "qwen35"])
def test_other_pre_tokenizers(pre: str, smollm_path: Path, tmp_path: Path) -> None:
    """SmolLM2's vocabulary under the other sets of expressions."""
    with GGUFFile.open(smollm_path) as file:
        metadata: dict[str, Any] = file.metadata

    def tokenizer(writer: gguf.GGUFWriter) -> int:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(metadata["tokenizer.ggml.tokens"])
        writer.add_token_types(metadata["tokenizer.ggml.token_type"].tolist())
        writer.add_token_merges(metadata["tokenizer.ggml.merges"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        return len(metadata["tokenizer.ggml.tokens"])

    path = write_tiny_model(tmp_path / "tiny.gguf", tokenizer)
    ours, oracle = read(path), LlamaCpp(path)
    assert_same(ours, oracle, [*LINES, *control_and_space_texts(), *random_texts(100, seed=3)])
    assert ours.adds_bos == (oracle.encode("x", add_bos=True)[0] == 1) == PRE_TOKENIZERS[pre].adds_bos


@pytest.mark.parametrize("add_space_prefix", [True, False, None])
def test_tied_scores_and_overlapping_specials(add_space_prefix: bool | None, tmp_path: Path) -> None:
    """A vocabulary made to be difficult: tokens of equal score, specials that overlap, letters without a token."""
    generator = random.Random(4)
    words = {"".join(generator.choices("aab▁c=éz", k=generator.randrange(2, 7))) for _ in range(400)}
    user_defined = ["<<a", "a>>>", "<a>", "  ", "   ", "\n", "\n\n\n", "éa", "aé>", "é>>>"]
    control = ["a>>", "<|a|>", "<|a|>>"]
    normal = sorted((words | set("ab▁=é<>")) - set(user_defined)) + ["[x]", "x]"]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *normal, *user_defined, *control]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(normal), *[4] * len(user_defined), *[3] * len(control)]
    scores = [0.0] * 259 + [float(-generator.randrange(5)) for _ in texts[259:]]

    def tokenizer(writer: gguf.GGUFWriter) -> int:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(texts)
        writer.add_token_scores(scores)
        writer.add_token_types(kinds)
        if add_space_prefix is not None:
            writer.add_add_space_prefix(add_space_prefix)
        return len(texts)

    path = write_tiny_model(tmp_path / "tiny.gguf", tokenizer)
    ours, oracle = read(path), LlamaCpp(path)
    pieces = [*"abc =éz<>|\n日", "[x]", *user_defined, *control, "<s>", "</s>"]
    samples = ["".join(generator.choices(pieces, k=generator.randrange(1, 30))) for _ in range(400)]
    samples += ["".join(generator.choices("aab c", k=60)) for _ in range(200)]
    assert_same(ours, oracle, ["", " ", *samples])
    assert ours.encode("a b", add_bos=True) == oracle.encode("a b", add_bos=True)
    for text in samples:
        assert ours.decode(ours.encode(text)) == text
        assert ours.decode(ours.encode(text, parse_special=True)) == text


FOLDERS: dict[str, tuple[dict[str, Any], str]] = {
    "Llama 2": (sentencepiece_json(), "llama"),
    "Phi-3": (
        sentencepiece_json(
            added_tokens=[
                *(added(place, text) for place, text in ((0, "<unk>"), (1, "<s>"), (452, "<|endoftext|>"))),
                *(
                    added(place, text, rstrip=True)
                    for place, text in ((2, "</s>"), (450, "<|user|>"), (451, "<|end|>"))
                ),
            ]
        ),
        "Phi-3 of our own",
    ),
    "Qwen": (byte_level_json(), "qwen"),
    "Llama 3": (byte_level_json(pre_tokenizer=split_at(LLAMA3)), "llama 3"),
}


@pytest.mark.parametrize(("tokenizer_json", "name"), FOLDERS.values(), ids=FOLDERS.keys())
def test_metadata_read_from_hugging_face_layout(tokenizer_json: dict[str, Any], name: str, tmp_path: Path) -> None:
    """llama.cpp's ids with the metadata that we make from tokenizer.json; Phi-3's it knows by the model's name."""
    folder = write_folder(tmp_path / "folder", tokenizer__json=tokenizer_json, tokenizer_config__json={})
    values, types = tokenizer_metadata(folder, 500)

    def tokenizer(writer: gguf.GGUFWriter) -> int:
        writer.add_name(name)
        for key, value in values.items():
            kinds = [gguf.GGUFValueType(kind) for kind in types[key]]
            plain = value.tolist() if isinstance(value, np.ndarray) else value
            writer.add_key_value(key, plain, *kinds)
        return 500

    path = write_tiny_model(tmp_path / "tiny.gguf", tokenizer)
    ours, oracle = read(path), LlamaCpp(path)
    spaced = ["<s> the</s>\n the<|user|>\n\t the dog<|end|> \n<s>", " the <|end|>", "\n", "the<|begin|> <|end|>dog"]
    assert_same(ours, oracle, [*LINES, *spaced, *control_and_space_texts()])
    from_folder = Tokenizer.from_gguf(values)
    for text in [*LINES, *spaced]:
        assert from_folder.encode(text, parse_special=True) == ours.encode(text, parse_special=True)
