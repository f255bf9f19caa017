"""What a cut with fewer tokens cost, against the definition in the contract, one position after another in float64.

The models are tiny ones in files. Every probability here comes from whole rows of logits of the decoder.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor

from smidgen.data.text import cut_into_windows
from smidgen.engines.torch import TorchEngine
from smidgen.errors import Unsupported
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.opening import open_model
from smidgen.measuring import divergence
from smidgen.measuring.divergence import compare
from smidgen.measuring.measure import measure
from smidgen.measuring.pairing import kept_tokens, pair_windows
from smidgen.model.decoder import Decoder
from smidgen.model.tokenizer import Tokenizer
from tests import tiny_models as tiny

COMMON, RARE = "".join(chr(0x4E00 + i) for i in range(20)), "".join(chr(0x4E00 + i) for i in range(20, 39))
WITHIN = f"{COMMON} {COMMON[::-1]} {COMMON[::3]} {COMMON[5:]} " * 2
BEYOND = f"{COMMON[:9]} {RARE[:4]}{COMMON[3:7]}{RARE[9]} é {COMMON[::2]}{RARE[::5]} " * 3
LENGTH = 24


def write(path: Path, decoder: Decoder, keep: list[int], adds_bos: bool) -> Path:
    """A Gemma-like model with only the rows and tokens of `keep`."""
    tensors = tiny.gguf_tensors(decoder)
    tensors["token_embd.weight"] = tensors["token_embd.weight"][keep]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + [*COMMON, *RARE, "▁"]
    tokens = ["<pad>", "</s>", "<s>", "<unk>", *pieces]
    path = tiny.write_model(path, "gemma3", tiny.GEMMA3_KEYS, tensors, [tokens[token] for token in keep])
    return path if adds_bos else without_bos(path)


def without_bos(path: Path) -> Path:
    """The same file with tokenizer.ggml.add_bos_token = false."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_suffix(".plain.gguf"), "gemma3")
    for name, value in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kinds = value.types
            writer.add_key_value(name, value.contents(), kinds[0], kinds[1] if len(kinds) > 1 else None)
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    return path.with_suffix(".plain.gguf")


@dataclass
class Models:
    original: Checkpoint
    cut: Checkpoint
    decoder: Decoder
    cut_decoder: Decoder
    keep: list[int]


@pytest.fixture(scope="module", params=[True, False], ids=["bos", "no bos"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A model, and one with 19 tokens less and other weights."""
    folder = tmp_path_factory.mktemp("trimmed")
    keep = [token for token in range(tiny.VOCABULARY) if not 280 <= token < 299]
    decoder, changed = tiny.random_decoder(tiny.GEMMA3_CONFIG), tiny.random_decoder(tiny.GEMMA3_CONFIG)
    generator = torch.Generator().manual_seed(7)
    for parameter in changed.parameters():
        parameter.data = parameter.data * (1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    paths = (
        write(folder / "original.gguf", decoder, list(range(tiny.VOCABULARY)), request.param),
        write(folder / "cut.gguf", changed, keep, request.param),
    )
    with open_model(paths[0]) as original, open_model(paths[1]) as cut:
        yield Models(original, cut, decoder, changed, keep)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several groups of windows, chunks of the vocabulary (one of them without a kept token), and positions."""
    monkeypatch.setattr(divergence, "_HEAD_ROWS", 9)
    monkeypatch.setattr(divergence, "_LOGIT_BYTES", 9 * 4 * 30)
    monkeypatch.setattr(divergence, "_HIDDEN_BYTES", 64 * 4 * LENGTH * 3)


@torch.no_grad()
def log_probabilities(decoder: Decoder, ids: list[int], keep: list[int] | None = None) -> Tensor:
    """After each of `ids`, of every token; of a model with the tokens of `keep` alone, whose ids are places in it."""
    if keep is None:
        return decoder(torch.tensor([ids]))[0].double().log_softmax(dim=1)
    return decoder(torch.tensor([[keep[token] for token in ids]]))[0][:, keep].double().log_softmax(dim=1)


@pytest.mark.parametrize("text", [WITHIN, BEYOND], ids=["within", "beyond"])
def test_every_figure_is_its_definition(models: Models, text: str) -> None:
    tokenizer, cut_tokenizer = (Tokenizer.from_gguf(m.tokenizer_metadata) for m in (models.original, models.cut))
    bos = int(tokenizer.adds_bos)
    windows = cut_into_windows(text, tokenizer, LENGTH)
    texts = ([t.token_text(token) for token in range(len(t))] for t in (tokenizer, cut_tokenizer))
    kept = kept_tokens(next(texts), next(texts), ("original", "cut"))
    assert kept.original.tolist() == models.keep
    pairs = pair_windows(windows, text, tokenizer, cut_tokenizer, kept)
    result = compare(TorchEngine(models.original), TorchEngine(models.cut), pairs)

    kl, same, mass, nats, cut_nats, scored = [], [], [], 0.0, 0.0, 0
    for ids, cut_ids in zip(pairs.original.rows(), pairs.cut.rows(), strict=True):
        read, cut_read = (
            [len(b"".join(t.piece(token) for token in row[bos : place + 1])) for place in range(len(row))]
            for t, row in ((tokenizer, ids), (cut_tokenizer, cut_ids))
        )
        assert read[-1] == cut_read[-1]
        p, q = log_probabilities(models.decoder, ids), log_probabilities(models.cut_decoder, cut_ids, models.keep)
        for place in range(bos, len(ids)):
            if read[place] not in cut_read:
                continue
            restricted = [float(p[place, token]) for token in models.keep]
            share = math.fsum(map(math.exp, restricted))
            other = q[cut_read.index(read[place])].tolist()
            kl.append(
                math.fsum(
                    math.exp(a) / share * (a - math.log(share) - b) for a, b in zip(restricted, other, strict=True)
                )
            )
            same.append(restricted.index(max(restricted)) == other.index(max(other)))
            mass.append(math.fsum(math.exp(float(p[place, t])) for t in range(300) if t not in models.keep))
        start = min(set(read) & set(cut_read))  # nothing predicts the first token without BOS
        nats -= sum(float(p[i - 1, ids[i]]) for i in range(1, len(ids)) if read[i] > start)
        cut_nats -= sum(float(q[i - 1, cut_ids[i]]) for i in range(1, len(cut_ids)) if cut_read[i] > start)
        scored += read[-1] - start
    scored -= 0 if not bos else 1  # the space that this tokenizer puts before a text, which is not in the text

    text_tokens = sum(len(row) - bos for row in windows.rows())
    assert result.tokens == len(kl) and result.aligned == pytest.approx(len(kl) / text_tokens)
    assert result.kl_mean == pytest.approx(math.fsum(kl) / len(kl), rel=1e-5)
    assert result.same_top1 == pytest.approx(sum(same) / len(same))
    assert result.dropped_mass == pytest.approx(math.fsum(mass) / len(mass), rel=1e-5)
    assert result.bytes == scored
    assert result.bits_per_byte_original == pytest.approx(nats / math.log(2) / scored, rel=1e-5)
    assert result.bits_per_byte_cut == pytest.approx(cut_nats / math.log(2) / scored, rel=1e-5)
    dropped = sum(token not in models.keep for row in windows.rows() for token in row)
    assert result.tokens_dropped == pytest.approx(dropped / text_tokens, abs=1e-12)
    assert (dropped > 0) == (text is BEYOND)
    bytes_of = len(text.encode())
    assert result.tokens_per_byte_original == pytest.approx(text_tokens / bytes_of)
    assert result.tokens_per_byte_cut == pytest.approx(sum(len(row) - bos for row in pairs.cut.rows()) / bytes_of)


def test_measure_compares_files_and_reports_the_tokens(models: Models, tmp_path: Path) -> None:
    (tmp_path / "zh.txt").write_text(BEYOND, encoding="utf-8")
    quick = partial(measure, with_speed=False, with_answers=False)
    card = quick(models.original.path, models.cut.path, [f"zh={tmp_path / 'zh.txt'}"])
    entry = card["fidelity"][0]
    assert 0 < entry["dropped_mass"] < 1 and 0 < entry["tokens_dropped"] < 1
    assert entry["tokens_per_byte_cut"] > entry["tokens_per_byte_original"]
    assert 0 < entry["aligned"] <= 1 and entry["asked"] is True
    assert card["languages"]["zh"] == entry

    whole = quick(models.original.path, models.original.path, [str(tmp_path / "zh.txt")])
    entry = whole["fidelity"][0]
    assert (entry["dropped_mass"], entry["aligned"], entry["tokens_dropped"]) == (0.0, 1.0, 0.0)
    assert entry["tokens_per_byte_cut"] == entry["tokens_per_byte_original"]


def test_the_larger_vocabulary_cannot_be_the_cut(models: Models, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(WITHIN, encoding="utf-8")
    with pytest.raises(Unsupported, match=f"token 280 of original[.a-z]*, '{RARE[0]}', is not in cut"):
        measure(models.cut.path, models.original.path, [str(tmp_path / "a.txt")], with_speed=False, with_answers=False)
