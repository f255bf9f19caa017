"""Models whose rows do not fit the types that were asked for: planned, written, and said beforehand."""

from dataclasses import replace
from pathlib import Path

import pytest

from smidgen import cut
from smidgen.cutting.plan import smallest_size
from smidgen.errors import BudgetError, SmidgenError
from smidgen.formats.opening import open_checkpoint
from smidgen.numerics import block_types as types
from tests.tiny_models import LLAMA_CONFIG, LLAMA_KEYS, gguf_tensors, random_decoder, write_model


def write_llama_of(path: Path, hidden: int, ffn: int) -> Path:
    layer = replace(LLAMA_CONFIG.layers[0], ffn_width=ffn)
    decoder = random_decoder(replace(LLAMA_CONFIG, hidden=hidden, layers=(layer,) * 3))
    widths = {"embedding_length": hidden, "feed_forward_length": ffn, "attention.key_length": 16}
    return write_model(path, "llama", {**LLAMA_KEYS, **widths, "attention.value_length": 16}, gguf_tensors(decoder))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMIDGEN_HOME", str(tmp_path / "home"))
    (tmp_path / "text.txt").write_text("the moon has risen and the golden stars are shining " * 60)
    return tmp_path


def kinds_of(model: Path) -> dict[str, str]:
    with open_checkpoint(model) as checkpoint:
        return {name: tensor.kind.name for name, tensor in checkpoint.file.tensors.items() if len(tensor.shape) > 1}


def smallest(model: Path, *kinds: types.BlockType) -> int:
    with open_checkpoint(model) as checkpoint:
        return smallest_size(checkpoint, kinds)


def test_rows_of_288_get_what_is_next_to_a_k_quant(folder: Path) -> None:
    model = write_llama_of(folder / "tiny.gguf", 288, 96)
    least = smallest(model, types.Q4_K)
    with pytest.raises(BudgetError) as refused:
        cut(model, folder / "out", fit=least - 1, types="Q4_K")
    assert f"the smallest possible file is {least} bytes" in str(refused.value)
    assert "Rows of 64, 96 and 288 do not fit blocks of 256" in str(refused.value) and "Q5_0" in str(refused.value)
    options = {"fit": least + 500, "types": "Q4_K", "texts": str(folder / "text.txt"), "tokens": 1024}
    made = cut(model, folder / "out", measured=False, **options)
    assert made.size <= least + 500 and "Rows of 64, 96 and 288 do not fit" in made.plan
    assert set(kinds_of(folder / "out/model.gguf").values()) == {"Q5_0"}


def test_rows_that_fit_no_block_become_float16(folder: Path) -> None:
    """Rows of 48 fit none, those of 64 and 96 do; the file is what the plan says, and the card has its bits."""
    model = write_llama_of(folder / "tiny.gguf", 48, 96)
    least = smallest(model, types.IQ4_NL)
    made = cut(model, folder / "out", fit=least, types="IQ4_NL", texts=str(folder / "text.txt"), tokens=1024)
    assert (folder / "out/model.gguf").stat().st_size == made.size == least
    kinds = kinds_of(folder / "out/model.gguf")
    down, output = kinds.pop("blk.0.ffn_down.weight"), kinds.pop("blk.0.attn_output.weight")
    assert (down, output, kinds["blk.0.ffn_up.weight"], kinds["token_embd.weight"]) == ("IQ4_NL",) * 2 + ("F16",) * 2
    assert made.card is not None and made.card["fidelity"][0]["kl_mean"] < 0.5
    assert made.card["verdict"]["sentence"] in made.describe()
    (embedding,) = [one for one in made.card["cut"]["tensors"] if one["name"] == "token_embd.weight"]
    assert embedding["bits_per_weight"] == 16 and embedding["bytes"] == 2 * 300 * 48
    step = next(one for one in made.steps[0]["tensors"] if one["name"] == "token_embd.weight")
    assert step["kind"] == "F16" and not step["compensated"]
    assert "Rows of 48 do not fit blocks of 32" in made.steps[0]["summary"]


def test_float16_can_be_asked_for(folder: Path) -> None:
    model = write_llama_of(folder / "tiny.gguf", 64, 96)
    least = smallest(model, types.F16)
    cut(model, folder / "out", fit=least, types="F16", texts=str(folder / "text.txt"), tokens=1024, measured=False)
    assert set(kinds_of(folder / "out/model.gguf").values()) == {"F16"}
    with pytest.raises(SmidgenError, match="'F32' is not a type"):
        cut(model, folder / "out", fit=least, types="F32")


def test_what_fits_no_type_is_said_once_before_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_llama_of(folder / "tiny.gguf", 48, 96)
    options = {"fit": smallest(model, types.IQ4_NL), "types": "IQ4_NL", "texts": str(folder / "text.txt")}
    planned = cut(model, folder / "out", dry_run=True, tokens=1024, **options)
    said = "Rows of 48 do not fit blocks of 32, so"
    assert said in planned.describe() and said in planned.to_json() and not (folder / "out").exists()
    made = cut(model, folder / "out", measured=False, tokens=1024, **options)
    progress = capsys.readouterr().err
    assert progress.index(said) < progress.index("Quantizing: ")
    assert progress.count(said) == 1 and said not in made.describe()
    assert said in made.steps[0]["summary"], "the card keeps it"
