"""The house stands as the README draws it: who may import whom, and what stays unloaded until it is needed."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import smidgen

PACKAGE = Path(smidgen.__file__).parent

# The ground: anyone may stand on it; of ours it imports only itself.
GROUND = {
    "alone", "atomic", "bounds", "closing", "curve", "errors", "memory", "openmp", "owned",
    "progress", "ray_cluster", "shapes", "shell", "sizes", "stopping", "version", "votes",
}  # fmt: skip

# Room → the rooms (or parts of rooms) below it. Methods first, the rooms of the verbs after them; `cli` sees all.
METHODS: dict[str, set[str]] = {
    "numerics": set(),
    "model": {"numerics"},
    "formats": {"model", "numerics"},
    "data": {"model.tokenizer", "model.tokenizers.padding", "model.chat"},
    "calibration": {"formats", "model", "data", "numerics"},
    "pruning": {"calibration", "formats", "model", "data", "numerics"},
    "quantization": {"calibration", "formats", "model", "data", "numerics"},
    "distillation": {"calibration", "formats", "model", "data", "numerics"},
    "engines": {"formats", "model", "numerics"},
}
_BELOW = {"formats", "model", "data", "numerics"}
VERBS: dict[str, set[str]] = {
    "publishing": {"formats", "model.chat", "model.tokenizer"},
    "exporting": {"formats", "model", "numerics", "publishing"},
    # What a format cannot hold is quantized anew when asked: by the cutter, and only there.
    "exporting.requantized": {"cutting.requantize", "formats", "model", "numerics"},
    "running": {"engines", "formats", "model"},
    "serving": {"engines", "formats", "model"},
    "showing": {
        "engines", "formats", "model", "serving.admission", "serving.connections", "serving.keys", "serving.listening",
        "serving.refusals", "serving.web_server",
    },
    # No method grades itself: measuring never sees what cuts and trains, and its core sees no files either.
    "measuring": {"engines.base", "data", "numerics"},
    "measuring.options": {"model.kept"},
    "measuring.measure": {"engines", "publishing", *_BELOW},
    "measuring.subjects": {"engines", *_BELOW},
    "measuring.arena.arena": {"engines", *_BELOW},
    "training": {"distillation", "calibration", "engines", "publishing", *_BELOW},
    "cutting": {
        "pruning", "quantization", "distillation", "calibration", "engines", "measuring", "publishing", *_BELOW,
    },
}  # fmt: skip
ROOMS = METHODS | VERBS

# The wings of distillation, from below: what is learned from, what learns, what is made small, who teaches, who works
# together, and what goes round.
WINGS = ["text", "students", "objectives", "teachers", "team", "loop"]

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
    "smidgen.formats.head_apart",
    "smidgen.formats.hf.safetensors_reader",
    "smidgen.formats.opening",
    "smidgen.formats.summary",
    "smidgen.numerics.block_types",
    "smidgen.model.config",
    "smidgen.publishing.companions",
    "smidgen.engines.llama_cpp.engine",
    "smidgen.engines.llama_cpp.bench",
    "smidgen.running.load",
    "smidgen.serving.serve",
    "smidgen.showing.ui",
    "smidgen.cli.main",
]
HEAVY = {
    "torch", "transformers", "xllamacpp", "numpy", "rich", "tokenizers", "gguf", "huggingface_hub", "httpx2",
    "starlette", "uvicorn", "prompt_toolkit",
}  # fmt: skip


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its name without the leading `smidgen.`; the package itself is ""."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def our_imports(name: str) -> Iterator[str]:
    """The modules of ours that a module imports anywhere in it, but for those that only type checkers see."""
    tree = ast.parse(modules()[name].read_text())
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [one if one.removeprefix("smidgen.") in modules() else node.module for one in found]
        else:
            continue
        for one in found:
            if one.partition(".")[0] == "smidgen":
                yield one.removeprefix("smidgen").removeprefix(".")


def is_within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def is_allowed(importer: str, imported: str) -> bool:
    room, other = importer.partition(".")[0], imported.partition(".")[0]
    if other in GROUND:
        return True
    if room in GROUND or room == "":
        return False
    if room in ("cli", "__main__") or other == room:
        return True
    return any(is_within(imported, part) for part in ROOMS.get(importer, ROOMS[room]))


@pytest.mark.parametrize("name", modules())
def test_imports_go_downward_only(name: str) -> None:
    if name == "":
        return  # the public names, each imported on first use
    wrong = [imported for imported in our_imports(name) if not is_allowed(name, imported)]
    assert not wrong, f"{name} may not import {wrong}"


def test_every_module_has_a_room() -> None:
    halls = {name.partition(".")[0] for name in modules()} - {"", "__main__", "cli"}
    assert halls == GROUND | {room for room in ROOMS if "." not in room}


def test_rooms_are_in_order() -> None:
    """No room is above itself."""
    above = {room: {part.partition(".")[0] for part in parts} for room, parts in ROOMS.items() if "." not in room}
    above["measuring"] |= {part.partition(".")[0] for part in ROOMS["measuring.measure"]}
    try:
        TopologicalSorter(above).prepare()
    except CycleError as error:
        raise AssertionError(error.args[1]) from error


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter({name: set(our_imports(name)) for name in modules()}).prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from error


def test_nothing_imports_the_package_itself() -> None:
    assert not [name for name in modules() if "" in our_imports(name)]


def test_kinds_of_files_do_not_know_who_opens_them() -> None:
    """`formats.opening` decides; a GGUF file knows no folder, and neither knows the hub."""
    for name in modules():
        known = set(our_imports(name))
        if is_within(name, "formats.gguf"):
            assert not [one for one in known if is_within(one, "formats.hf") or is_within(one, "formats.hub")], name
        if is_within(name, "formats.hf"):
            assert not [one for one in known if is_within(one, "formats.hub")], name
        if is_within(name, "formats.gguf") or is_within(name, "formats.hf") or name == "formats.checkpoint":
            assert "formats.opening" not in known, name


def test_wings_of_distillation_are_in_order() -> None:
    for name in modules():
        if name.startswith("distillation.") and name.count(".") == 2:
            own = WINGS.index(name.split(".")[1])
            above = [one for one in our_imports(name) if one.startswith("distillation.")]
            assert not [one for one in above if WINGS.index(one.split(".")[1]) > own], name


@pytest.mark.parametrize("name", modules())
def test_imports_are_absolute_and_nothing_is_unpickled(name: str) -> None:
    for node in ast.walk(ast.parse(modules()[name].read_text())):
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
