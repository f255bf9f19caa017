"""The way of the data is in the tree: who may import whom, and what stays unloaded until it is needed."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import smidgen

PACKAGE = Path(smidgen.__file__).parent

# Modules that anyone may import; of ours they import only one another.
FOUNDATION = {"atomic", "curve", "errors", "memory", "openmp", "progress", "shapes"}

# Part → the parts it may import. Parts that are not listed here (cli, recipe, plan, the package itself) see all.
ALLOWED: dict[str, set[str]] = {
    "numerics": set(),
    "model": {"numerics"},
    "formats": {"model", "numerics"},
    "data": {"model.tokenizer", "model.chat"},
    "calibrate": {"model", "data", "numerics", "formats"},
    "prune": {"calibrate", "formats", "model", "data", "numerics"},
    "quant": {"calibrate", "formats", "model", "data", "numerics"},
    "distill": {"calibrate", "formats", "model", "data", "numerics"},
    "engines": {"formats", "model", "numerics"},
    "measure": {"engines.base", "data", "numerics"},
}

# `measure/__init__.py` is the public verb, where models are opened for the measuring inside: never a cutter either.
PUBLIC_VERBS: dict[str, set[str]] = {"measure": {"engines", "formats", "model", "data", "numerics"}}

# Modules that must do without torch, with all that they import.
TORCH_FREE = [
    "smidgen",
    "smidgen.data.sources",
    "smidgen.formats.hub.catalogue",
    "smidgen.formats.gguf.contents",
    "smidgen.formats.gguf.reader",
    "smidgen.formats.hf.folder",
    "smidgen.formats.hub.hub",
    "smidgen.formats.hub.transfer",
    "smidgen.formats.hf.safetensors_reader",
    "smidgen.formats.summary",
    "smidgen.numerics.block_types",
    "smidgen.model.config",
    "smidgen.publishing.companions",
    "smidgen.engines.llama_cpp.engine",
    "smidgen.engines.llama_cpp.bench",
    "smidgen.cli.main",
]
HEAVY = {"torch", "transformers", "xllamacpp", "numpy", "rich", "tokenizers", "gguf", "huggingface_hub", "httpx2"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def our_imports(file: Path) -> Iterator[str]:
    """Names of our modules that a file imports, anywhere in it, without the leading `smidgen.`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            below = (PACKAGE.parent / node.module.replace(".", "/")).is_dir()
            found = [f"{node.module}.{alias.name}" for alias in node.names] if below else [node.module]
        else:
            continue
        yield from (name.removeprefix("smidgen.") for name in found if name.startswith("smidgen."))


def is_allowed(importer: str, imported: str) -> bool:
    part = importer.partition(".")[0]
    if imported.partition(".")[0] in FOUNDATION:
        return True
    if part in FOUNDATION:
        return False
    if part not in ALLOWED or imported.partition(".")[0] == part:
        return True
    allowed = PUBLIC_VERBS.get(importer, ALLOWED[part])
    return any(imported == name or imported.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_imports_go_downward_only(file: Path) -> None:
    wrong = [imported for imported in our_imports(file) if not is_allowed(name_of(file), imported)]
    assert not wrong, f"{name_of(file)} may not import {wrong}"


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_imports_are_absolute_and_nothing_is_unpickled(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module != "pickle"
        elif isinstance(node, ast.Import):
            assert "pickle" not in {alias.name for alias in node.names}


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `code`."""
    script = f"{code}\nimport sys, json; print()\nprint(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])},
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["models", "--json"], ["run", "--help"]])
def test_the_command_line_starts_light(arguments: list[str]) -> None:
    lines = ["from smidgen.cli.main import main", "try:", f"    main({arguments!r})"]
    lines += ["except SystemExit as end:", "    assert not end.code"]
    assert not loaded_after("\n".join(lines)) & HEAVY


def test_import_smidgen_is_light() -> None:
    assert not loaded_after("import smidgen; dir(smidgen)") & HEAVY


@pytest.mark.parametrize("module", TORCH_FREE)
def test_torch_free_modules(module: str) -> None:
    assert not loaded_after(f"import {module}") & {"torch", "transformers", "xllamacpp"}


def test_public_verbs_exist() -> None:
    for verb in smidgen.__all__:
        assert getattr(smidgen, verb)
    with pytest.raises(AttributeError, match="nothing"):
        _ = smidgen.nothing
