"""Several chat templates in one model: read in transformers' order, carried to GGUF files and back, chosen by name."""

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from smidgen.errors import BadFile, SmidgenError
from smidgen.formats.hf.folder import member, template_files
from smidgen.formats.hf.tokenizer import tokenizer_metadata, write_tokenizer
from smidgen.formats.hf.tokenizer.settings import read_settings, templates_in
from smidgen.model.chat import chat_template, chat_templates
from tests.tiny_tokenizers import BYTE_LEVEL_CONFIG, byte_level_json, write_folder

LISTED = [{"name": "default", "template": "listed"}, {"name": "rag", "template": "listed rag"}]
FILE, NAMED = "chat_template.jinja", "additional_chat_templates/{}.jinja".format
LAYOUTS: dict[str, tuple[Any, dict[str, str]]] = {
    "in the settings": ("settings", {}),
    "a list in the settings": (LISTED, {}),
    "named ones in the settings": (LISTED[1:], {}),
    "a file before the settings": ("settings", {FILE: "file"}),
    "a file before a list": (LISTED, {FILE: "file"}),
    "files by name": (None, {FILE: "file", NAMED("tool_use"): "tools", NAMED("rag"): "file rag"}),
    "files by name before a list": (LISTED, {NAMED("tool_use"): "tools"}),
    "a file named default before the file": (None, {FILE: "file", NAMED("default"): "by name", NAMED("a"): "a"}),
    "a processor's after the settings": ("settings", {"chat_template.json": json.dumps({"chat_template": "JSON"})}),
    "a processor's after a file": (None, {FILE: "file", "chat_template.json": json.dumps({"chat_template": "JSON"})}),
}


def folder_of(path: Path, config: Any = None, files: dict[str, str] | None = None) -> Path:
    settings = BYTE_LEVEL_CONFIG | ({} if config is None else {"chat_template": config})
    write_folder(path, tokenizer__json=byte_level_json(), tokenizer_config__json=settings)
    for name, text in (files or {}).items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text)
    return path


def metadata_of(folder: Path) -> dict[str, Any]:
    return tokenizer_metadata(folder, 500)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_read_as_transformers_reads_them(layout: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *LAYOUTS[layout])
    theirs = import_module("transformers").PreTrainedTokenizerFast.from_pretrained(folder).chat_template
    assert read_settings(folder).templates == (theirs if isinstance(theirs, dict) else {"default": theirs})
    assert templates_in(folder) == read_settings(folder).templates


def test_a_processors_template_is_better_than_none(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, None, {"chat_template.json": json.dumps({"chat_template": "JSON"})})
    assert read_settings(folder).templates == {"default": "JSON"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_they_travel_to_metadata_and_back(layout: str, tmp_path: Path) -> None:
    metadata = metadata_of(folder_of(tmp_path / "a", *LAYOUTS[layout]))
    (tmp_path / "b").mkdir()
    write_tokenizer(tmp_path / "b", metadata)
    assert read_settings(tmp_path / "b").templates == read_settings(tmp_path / "a").templates
    again = metadata_of(tmp_path / "b")
    assert chat_templates(again) == chat_templates(metadata) == read_settings(tmp_path / "a").templates
    named = [name for name in chat_templates(metadata) if name != "default"]
    assert sorted(metadata.get("tokenizer.chat_templates", [])) == sorted(named)


def test_names_become_keys_and_none_is_lost(tmp_path: Path) -> None:
    listed = [{"name": name, "template": name} for name in ("tool-use", "tool use", "../../x", "日本", "中国")]
    metadata = metadata_of(folder_of(tmp_path, listed))
    assert chat_templates(metadata) == {
        "tool_use": "tool-use", "tool_use_": "tool use", "______x": "../../x", "__": "日本", "___": "中国",
    }  # fmt: skip
    assert chat_template(metadata, "tool-use") == "tool-use"


@pytest.mark.parametrize("name", ["../x", "..", "", "a/b", "a\\b", "C:x", "a\nb", "a" * 65])
def test_a_name_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    metadata = metadata_of(folder_of(tmp_path / "a", "default")) | {f"tokenizer.chat_template.{name}": "x"}
    (tmp_path / "b").mkdir()
    with pytest.raises(BadFile, match="which no file can be named"):
        write_tokenizer(tmp_path / "b", metadata)
    assert list((tmp_path / "b").iterdir()) == []


def test_which_one_is_used() -> None:
    one, key = {"tokenizer.chat_template": "default"}, "tokenizer.chat_template."
    assert chat_template(one) == chat_template(one, "default") == "default"
    assert chat_template({f"{key}rag": "rag"}) == chat_template({f"{key}rag": "rag"}, "rag") == "rag"
    named = {f"{key}rag": "rag", f"{key}tool_use": "tools"}
    assert chat_template(named | one) == "default" and chat_template(named | one, "tool_use") == "tools"
    assert chat_template(named | {f"{key}default": "by name"}) == "by name"
    with pytest.raises(SmidgenError, match="several chat templates and no default; choose one of them: rag, tool_use"):
        chat_template(named)
    with pytest.raises(SmidgenError, match="no chat template 'tools'; there are: rag, tool_use"):
        chat_template(named, "tools")
    with pytest.raises(SmidgenError, match="no chat template .it is a base model"):
        chat_template({}, "rag")
    with pytest.raises(BadFile, match="40 chat templates, more than 32"):
        chat_template({f"{key}{place}": "x" for place in range(39)})


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({NAMED("a" * 65): "x"}, "which is no name"),
        ({NAMED("a\nb"): "x"}, "not a plain file name"),
        ({NAMED("a"): "x" * (1 << 21)}, "more than 1048576 characters"),
        ({NAMED(str(place)): "x" for place in range(33)}, "33 chat templates, more than 32"),
        ({f"{NAMED('folder')}/x": "x"}, "not a regular file"),
    ],
)
def test_files_that_are_refused(files: dict[str, str], reason: str, tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    with pytest.raises(BadFile, match=reason):
        read_settings(folder_of(tmp_path, "default", files))


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret" / "x.jinja", folder_of(tmp_path / "a", "default")
    secret.parent.mkdir()
    secret.write_text("secret")
    templates = folder / "additional_chat_templates"
    templates.symlink_to(secret.parent)
    with pytest.raises(BadFile, match="link out of the model's folder"):
        read_settings(folder)
    templates.unlink()
    templates.mkdir()
    (templates / "x.jinja").symlink_to(secret)
    with pytest.raises(BadFile, match="link out of the model's folder"):
        read_settings(folder)
    with pytest.raises(BadFile, match="not a plain file name"):
        member(folder, "additional_chat_templates/../x.jinja")


def test_the_cache_of_the_hub_may_link_to_its_blobs(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--org--name" / "blobs", tmp_path / "models--org--name" / "snapshots" / "0123"
    folder_of(snapshot)
    (snapshot / "additional_chat_templates").mkdir()
    blobs.mkdir()
    (blobs / "hash").write_text("tools")
    link = snapshot / NAMED("tool_use")
    link.symlink_to(os.path.relpath(blobs / "hash", link.parent))
    assert template_files(snapshot) == [NAMED("tool_use")]
    assert read_settings(snapshot).templates == {"tool_use": "tools"}
