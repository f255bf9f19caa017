"""Licences and notices: which files they are, what a model says of its own, and what goes with what is made from it."""

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smidgen.errors import BadFile, SmidgenError
from smidgen.formats.hub.notices import (
    GEMMA,
    Licence,
    is_notice,
    licence_in_card,
    notice_name,
    notice_text,
    notices_in,
    stated_licence,
    terms_of,
)
from smidgen.formats.hub.origin import Origin
from smidgen.publishing import companions as outputs
from smidgen.publishing.licence import write_notices

NOTICES = ["LICENSE", "LICENSE.txt", "LICENCE.md", "licenses.md", "LICENSE-APACHE", "NOTICE", "Notice.txt", "NOTICE.md",
           "COPYING", "USE_POLICY.md", "USE-POLICY", "GEMMA_TERMS.html", "TERMS.pdf", "TERMS_OF_USE.txt",
           "model_license.txt", "llama-LICENSE.txt", "ACCEPTABLE_USE_POLICY.md", "NOTICE.smidgen.txt",
           "Qwen LICENSE AGREEMENT"]  # fmt: skip
OTHERS = ["README.md", "config.json", "model.safetensors", "license.json", "license.py", "noticeable.txt",
          "terminal.txt", "unlicensed.gguf", "LICENSE.gguf", "policy.md", "determs.txt", ".gitattributes",
          "LICENSE\x1b[2J", "LICENSE \u202etxt"]  # fmt: skip


def test_names_of_notices() -> None:
    assert [name for name in NOTICES if not is_notice(name)] == []
    assert [name for name in OTHERS if is_notice(name)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", "apache-2.0"),
        ("\ufeff---\r\nlicense: 'gemma'  # yes\r\n---\r\n", "gemma"),
        ("---\ntags:\n- a\nlicense:\n- mit\n---", "mit"),
        ("---\nlicense: [mit]\n---", "mit"),
        (
            "---\nlicense: other\nlicense_name: qwen\nlicense_link: https://x.y/LICENSE\n---",
            "qwen (https://x.y/LICENSE)",
        ),
        ("---\nlicense: other\nlicense_link: LICENSE\n---", "other"),
        ("---\nlicense_link: https://x.y\n---", "https://x.y"),
        ("---\nother:\n  license: nested\n---", ""),
        ("---\ntags: x\n---\nlicense: mit", ""),
        ("license: mit", ""),
        ("---\nlicense:\ntags:\n- mit\n---", ""),
        ("---\nlicense: a\x1b[2Jb\n---", "'a\\x1b[2Jb'"),
        ("", ""),
    ],
)
def test_front_matter(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert str(licence_in_card(tmp_path)) == expected
    assert str(stated_licence({}, tmp_path)) == expected
    assert str(stated_licence({"general.license": "mit"}, tmp_path)) == "mit"


def test_no_card(tmp_path: Path) -> None:
    assert licence_in_card(tmp_path) == stated_licence({"general.license": 3}, None) == Licence()
    (tmp_path / "README.md").mkdir()
    assert licence_in_card(tmp_path) == Licence()


@pytest.mark.parametrize(
    ("family", "licence", "expected"),
    [
        ("gemma", Licence(), "gemma"),
        ("gemma2", Licence("mit"), "gemma"),
        ("gemma3", Licence(), "gemma"),
        ("llama", Licence("gemma"), "gemma"),
        ("llama", Licence("llama3.1"), "llama3.1"),
        ("llama", Licence("other", "Llama 3.2 Community"), "llama3.2"),
        ("llama", Licence("llama3"), "llama3"),
        ("llama", Licence("llama2"), "llama2"),
        ("llama", Licence("other", "llama-3"), "llama3"),
        ("llama", Licence("apache-2.0"), None),
        ("llama", Licence(), None),
        ("qwen2", Licence("other", "qwen"), None),
    ],
)
def test_terms(family: str, licence: Licence, expected: str | None) -> None:
    terms = terms_of(family, licence)
    assert (terms.identifier if terms else None) == expected


def test_notices_say_what_the_terms_ask_for() -> None:
    gemma = notice_text(GEMMA, "model.gguf")
    for wanted in (
        "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms\n",
        "model.gguf in this folder is a modified file",
        "https://ai.google.dev/gemma/prohibited_use_policy",
        "a copy of the agreement",
    ):
        assert wanted in gemma
    llama = terms_of("llama", Licence("llama3.2"))
    assert llama is not None
    text = notice_text(llama, "model.gguf")
    assert text.startswith("Built with Llama\n")
    holder = "Copyright © Meta Platforms, Inc. All Rights Reserved."
    assert f"Llama 3.2 is licensed under the Llama 3.2 Community License, {holder}" in text
    assert "https://www.llama.com/llama3_2/license/" in text


def snapshot(tmp_path: Path, **files: str) -> Path:
    """A hub snapshot: files are links to blobs."""
    folder = tmp_path / "models--org--name" / "snapshots" / ("0" * 40)
    blobs = folder.parent.parent / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for number, (name, text) in enumerate(files.items()):
        (blobs / f"hash{number}").write_text(text)
        (folder / name).symlink_to(blobs / f"hash{number}")
    return folder


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE.txt", "README.md"])
def test_no_other_file_of_this_machine_is_taken_for_a_licence(name: str, tmp_path: Path) -> None:
    """A repository with `LICENSE -> ../../token` would have the token copied into what people publish."""
    model, output = snapshot(tmp_path, COPYING="text"), tmp_path / "out"
    output.mkdir()
    (tmp_path / "token").write_text("---\nlicense: secret\n---\n")
    (model / name).symlink_to(tmp_path / "token")
    with pytest.raises(BadFile, match="is a link out of the model's folder"):
        licence_in_card(model) if name == "README.md" else write_notices(output, Origin.of_path(model), GEMMA)
    assert not any(output.iterdir())


def test_a_licence_is_not_larger_than_licences_are(tmp_path: Path) -> None:
    with (tmp_path / "LICENSE").open("wb") as file:
        file.truncate(2**23)
    with pytest.raises(BadFile, match="8388608 bytes, too many for a licence"):
        notices_in(tmp_path)


def test_notices_travel_from_a_hub_snapshot_as_files(tmp_path: Path) -> None:
    model, output = snapshot(tmp_path, LICENSE="text", USE_POLICY="policy", NOTICE="theirs"), tmp_path / "out"
    output.mkdir()
    for _ in range(2):  # a second cut into the same folder changes nothing
        names = write_notices(output, Origin.of_path(model), GEMMA)
        assert names == sorted(path.name for path in output.iterdir())
        assert names == ["LICENSE", "NOTICE", "NOTICE.smidgen.txt", "USE_POLICY"]
        assert not any(path.is_symlink() for path in output.iterdir())
        assert (output / "NOTICE").read_text() == "theirs"
        assert GEMMA.sentence in (output / "NOTICE.smidgen.txt").read_text()


def test_a_cut_of_a_cut_keeps_one_notice(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (first / "model.gguf").touch()
    (first / "NOTICE").write_text(notice_text(GEMMA, "model.gguf"))
    assert notice_name([first / "NOTICE"]) == "NOTICE"
    assert write_notices(second, Origin.of_path(first), GEMMA) == ["NOTICE"]
    assert write_notices(second, Origin.of_path(first), None) == ["NOTICE"]


def card(tmp_path: Path, family: str, metadata: dict[str, Any], **files: str) -> str:
    """The README.md of a cut of a model with these files."""
    model, output = snapshot(tmp_path, **files), tmp_path / "out"
    output.mkdir()
    (output / "model.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 0))  # of no tensors and no metadata
    checkpoint: Any = SimpleNamespace(
        config=SimpleNamespace(family=family), file=SimpleNamespace(metadata=metadata, size=99),
        origin=Origin.of_path(model),
    )  # fmt: skip
    recipe = {"model": "x", "sha256": "0", "threads": 1, "versions": {}, "steps": []}
    outputs.write_companions(output, checkpoint, recipe, [{"step": "quantize"}], None)
    return (output / "README.md").read_text()


def test_the_model_card_of_a_gemma(tmp_path: Path) -> None:
    text = card(tmp_path, "gemma2", {})
    assert 'license: "gemma"' in text
    assert (
        "Gemma Terms of Use" in text and "did not come with it" in text and GEMMA.text in text and GEMMA.policy in text
    )
    assert (tmp_path / "out" / "NOTICE").is_file()


def test_the_model_card_of_a_llama(tmp_path: Path) -> None:
    text = card(tmp_path, "llama", {}, **{"README.md": "---\nlicense: llama3.1\n---\n", "LICENSE": "text"})
    assert 'license: "llama3.1"' in text and "Built with Llama. " in text and "did not come with it" not in text
    assert "These files go with it: LICENSE, NOTICE." in text


def test_the_model_card_of_others(tmp_path: Path) -> None:
    text = card(tmp_path, "qwen2", {"general.license": "other", "general.license.name": "qwen"}, LICENSE="text")
    assert 'license: "other"\nlicense_name: "qwen"' in text
    assert "The licence of the original applies: qwen. These files go with it: LICENSE." in text
    assert not (tmp_path / "out" / "NOTICE").exists()


def test_a_hugging_face_folder_is_not_cut_into_itself(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, **{"config.json": "{}", "README.md": "theirs"})
    with pytest.raises(SmidgenError, match="is the model to be cut"):
        outputs.refuse_output(folder, Origin.of_path(folder))
    outputs.refuse_output(tmp_path / "new", Origin.of_path(folder))


def test_the_model_card_where_nothing_is_known(tmp_path: Path) -> None:
    text = card(tmp_path, "llama", {})
    assert 'license: "unknown"' in text and "states no licence. No licence file came with it" in text
