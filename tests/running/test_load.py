"""The Python door: a model by its name, what it is, and verbs that take it."""

import inspect
import json
import subprocess
import sys
from copy import copy, deepcopy
from pathlib import Path

import pytest
import torch

import smidgen
from smidgen.engines.torch import TorchEngine
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.opening import open_checkpoint
from tests.family_models import save_folder
from tests.tiny_models import write_gemma3

IDS = torch.tensor([[1, 5, 9, 2, 7, 3, 8, 11]])


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_gemma3(tmp_path / "tiny.gguf")


def test_what_it_is(tiny: Path) -> None:
    with smidgen.load(tiny) as model:
        assert repr(model) == f"Model('{tiny}': gemma3, 0.2 million parameters, 5 layers of width 64, 300 tokens)"
        assert len(model.config.layers) == 5 and model.path == tiny
        engine = TorchEngine(model.checkpoint)
        expected = engine.hidden_states(IDS) @ engine.head_rows(0, 300).T
        cap = model.config.logit_cap
        expected = expected if cap is None else cap * torch.tanh(expected / cap)
        assert torch.allclose(model.decoder(IDS), expected, atol=1e-4)
        assert not any(weight.requires_grad for weight in model.decoder.parameters())


def test_a_folder_with_the_name_of_a_catalogue_model(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the command line: the doubt is said, and each has a name of its own. A `Path` is a path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gemma-3-270m").mkdir()
    tiny.rename(tmp_path / "gemma-3-270m" / "model.gguf")
    with pytest.raises(SmidgenError, match="Say ./gemma-3-270m for the one here, or catalogue:gemma-3-270m"):
        smidgen.load("gemma-3-270m")
    for name in ("./gemma-3-270m", Path("gemma-3-270m")):
        with smidgen.load(name) as model:
            assert model.path == tmp_path / "gemma-3-270m" / "model.gguf"
            assert Path(model) == tmp_path / "gemma-3-270m"


def test_text_on_a_real_model(gemma_path: Path) -> None:
    with smidgen.load("gemma-3-270m", ctx_size=256) as model:
        ids = model.tokenizer.encode("One, two, three,")
        assert model.tokenizer.bos_id not in ids and model.tokenizer.decode(ids) == "One, two, three,"
        said = model.generate("One, two, three,", max_tokens=4, temperature=0)
        reply = model.generate("One, two, three,", max_tokens=4, temperature=0, stream=True)
        assert said.startswith(" four") and "".join(reply) == said and reply.stop == "max_tokens"
        with pytest.raises(Unsupported, match=r"no chat template .*`Model\.generate` continues text\.$"):
            model.chat("Hello")


def test_chat_takes_a_message_or_a_conversation(smollm_path: Path) -> None:
    with smidgen.load("smollm2-135m-instruct", ctx_size=256) as model:
        one = model.chat("Say hello.", max_tokens=6, temperature=0)
        other = model.chat([{"role": "user", "content": "Say hello."}], max_tokens=6, temperature=0)
        assert one == other and one


def test_closed_and_used_again(tiny: Path) -> None:
    model = smidgen.load(tiny)
    before = model.decoder(IDS)
    model.close()
    model.close()
    assert torch.equal(model.decoder(IDS), before)
    model.close()


def test_a_folder_that_gguf_cannot_hold_has_tokenizer_and_decoder(tmp_path: Path) -> None:
    """A Qwen2 with a window in its upper layers: llama.cpp's architecture knows no window."""
    save_folder("qwen2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    layers = config["num_hidden_layers"]
    config |= {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}
    config["layer_types"] = ["full_attention"] * 2 + ["sliding_attention"] * (layers - 2)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with smidgen.load(tmp_path) as model:
        assert [layer.window for layer in model.config.layers] == [None, None, 7, 7]
        assert model.tokenizer.decode(model.tokenizer.encode("there and here")) == "there and here"
        assert model.decoder(IDS).shape == (1, IDS.shape[1], model.config.vocabulary)
        with pytest.raises(Unsupported, match=r"GGUF \(qwen2\) cannot say"):
            model.generate("there")


def test_verbs_take_a_model(tiny: Path, tmp_path: Path) -> None:
    with smidgen.load(tiny) as model:
        smidgen.export(model, "gguf", tmp_path / "copy.gguf")
        with open_checkpoint(tiny) as before, open_checkpoint(tmp_path / "copy.gguf") as after:
            assert all(torch.equal(before.tensor(name), after.tensor(name)) for name in before.names())
        with pytest.raises(SmidgenError, match="it must be 1 or more"):
            smidgen.cut(model, tmp_path / "out", fit=0)
        with pytest.raises(SmidgenError, match="nothing to learn from"):
            smidgen.tune(model, [], tmp_path / "out", epochs=1)
        with pytest.raises(TypeError, match="fits"):
            smidgen.cut(model, tmp_path / "out", fits="165MB")


def test_a_copy_has_engines_of_its_own(tiny: Path) -> None:
    with smidgen.load(tiny) as model:
        written = model.generate("there", 4, temperature=0)
        with copy(model) as other, deepcopy(model) as third:
            assert other.generate("there", 4, temperature=0) == third.generate("there", 4, temperature=0) == written
        assert model.generate("there", 4, temperature=0) == written


def test_a_mistake_is_a_sentence_and_never_the_end_of_the_process(tiny: Path, tmp_path: Path) -> None:
    for wrong in ({"ctx_size": 1}, {"ctx_size": -5}, {"threads": 100_000}, {"threads": 0}):
        with pytest.raises(SmidgenError), smidgen.load(tiny, **wrong) as model:
            model.generate("a", 2)
    with smidgen.load(tiny) as model:
        for wrong in ({"temperature": -1}, {"top_p": 2}, {"seed": 2**32}, {"stop": [""]}, {"max_tokens": 0}):
            with pytest.raises(SmidgenError):
                model.generate("a", **wrong)
        with pytest.raises(SmidgenError, match="'GGUF' is no format"):
            smidgen.export(model, "GGUF", tmp_path / "x")  # pyright: ignore[reportArgumentType]


def test_a_relative_path_stays_the_same_model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.parent)
    model = smidgen.load(tiny.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    smidgen.export(model, "gguf", "copy.gguf")
    assert (tmp_path / "elsewhere" / "copy.gguf").stat().st_size > 0
    model.close()


def test_options_are_changed_as_they_are_said() -> None:
    options = smidgen.CutOptions(fit=10**6).changed(fit="2MB", layers=3, languages="en")
    assert (options.fit, options.pruning.layers, options.languages) == (2_000_000, 3, ("en",))


def test_what_is_left_out_needs_no_object_of_its_own() -> None:
    options = smidgen.CutOptions.of(fit="1.2GB", layers=22, languages="de")
    assert (options.fit, options.pruning.layers, options.languages) == (1_200_000_000, 22, ("de",))


def test_a_verb_stays_a_verb_when_its_methods_are_loaded() -> None:
    """A room with a verb's name would take its place in the package once something in it is imported. (Scripts for the
    Pythons of frameworks are never imported here.)
    """
    script = (
        "import pkgutil, importlib, smidgen\n"
        "for found in pkgutil.walk_packages(smidgen.__path__, 'smidgen.'):\n"
        "    if '.scripts.' in found.name or found.name.endswith('__main__'): continue\n"
        "    importlib.import_module(found.name)\n"
        "print([verb for verb in smidgen.__all__ if type(getattr(smidgen, verb)).__name__ == 'module'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("verb", ["cut", "distill", "export", "load", "measure", "serve", "tune"])
def test_public_verbs_say_what_they_take_and_raise(verb: str) -> None:
    text = inspect.getdoc(getattr(smidgen, verb)) or ""
    assert "Raises" in text and len(text.splitlines()) > 3
