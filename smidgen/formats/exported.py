"""A folder that another framework runs: which one, and what it says of its model. Torch-free.

Our decoder does not read such a folder: weights are packed as that framework packs them, or the model is a graph. It is
measured as that framework computes it (engines/frameworks/).

    config.json with `quantization`, and no `quant_method` in it or in `quantization_config`     MLX, by mlx-lm
    config.json with `quantization_config`, its `quant_method` compressed-tensors                transformers, vLLM
    genai_config.json                                                                            ONNX Runtime GenAI
    openvino_model.xml                                                                           OpenVINO
    model.litertlm                                                                               LiteRT
"""

import hashlib
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smidgen.errors import BadFile, SmidgenError, Unsupported, printable
from smidgen.formats.hf.folder import CONFIG, CONFIG_BYTES, is_hf_folder, member
from smidgen.formats.hf.json_text import read_json
from smidgen.owned import MANIFEST

Runtime = Literal["mlx", "transformers", "onnx", "openvino", "litert"]
GENAI_CONFIG, OPENVINO_MODEL, LITERT_MODEL = "genai_config.json", "openvino_model.xml", "model.litertlm"
_POSITIONS = "max_position_embeddings"
_PACKINGS = ("quantization", "quantization_config")
_LARGEST_VOCABULARY, _LARGEST_CONTEXT = 2**22, 2**30
_MOST_FILES, _DEEPEST = 4096, 4
_BESIDE = frozenset({"README.md", "card.json", "card.html", MANIFEST})  # about the model, and no part of it
_PROGRAMS = (".so", ".dll", ".dylib", ".py")
#: Settings of ONNX Runtime, which loads libraries that they name, whatever a file is called. Of texts only these are
#: taken, and numbers.
_OPTIONS, _TEXTS = ("session_options", "provider_options"), ("log_id", "graph_optimization_level")
_NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,20})?")
_COMPLETE = "download or export the whole model again"


@dataclass(frozen=True)
class Exported:
    """What such a folder is.

    vocabulary: rows of its logits.  context: the most tokens that it reads.  parameters: weights of the model. Each of
    them is None where its settings do not tell.
    files: all that belong to it, in order; of LiteRT the one that has everything in it.  bytes: of these together.
    """

    runtime: Runtime
    path: Path
    vocabulary: int | None
    context: int | None
    parameters: int | None
    files: tuple[Path, ...]
    bytes: int

    def sha256(self) -> str:
        """One hash for all files: of the lines that `sha256sum` prints for them, by path inside the folder."""
        total = hashlib.sha256()
        for file in self.files:
            name = file.relative_to(self.path).as_posix()
            try:
                with file.open("rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()
            except OSError as error:
                raise BadFile(f"{printable(file)} cannot be read ({printable(error)}); {_COMPLETE}") from error
            total.update(f"{digest}  {name}\n".encode())
        return total.hexdigest()


def runtime_of(path: str | os.PathLike[str]) -> Runtime | None:
    """What runs this folder where our decoder cannot; None for other folders and for files."""
    folder = Path(path)
    if (folder / GENAI_CONFIG).is_file():
        return "onnx"
    if (folder / OPENVINO_MODEL).is_file():
        return "openvino"
    if (folder / LITERT_MODEL).is_file():
        return "litert"
    if not is_hf_folder(folder):
        return None
    settings = _settings(folder, CONFIG)
    packings = [found for key in _PACKINGS if isinstance(found := settings.get(key), Mapping)]
    methods = [found["quant_method"] for found in packings if "quant_method" in found]
    if methods:
        return "transformers" if "compressed-tensors" in methods else None
    return "mlx" if isinstance(settings.get("quantization"), Mapping) else None


def describe_exported(path: str | os.PathLike[str]) -> Exported:
    """What a folder says that `runtime_of` knows.

    Raises BadFile where its settings are damaged or do not say how many tokens it has (one for OpenVINO or LiteRT need
    not),
    Unsupported where it would have a program run that came with it.
    """
    folder, runtime = Path(path), runtime_of(path)
    if runtime is None:
        raise BadFile(f"{printable(folder)} is no folder that another framework runs; give one that was exported.")
    if runtime in ("openvino", "litert") and not (folder / CONFIG).is_file():
        sizes = None, None
    else:
        sizes = _sizes(folder, runtime)
    files = (folder / LITERT_MODEL,) if runtime == "litert" else tuple(_files(folder))
    if runtime == "onnx":
        names = {file.relative_to(folder).as_posix() for file in files}
        _refuse_files_elsewhere(folder / GENAI_CONFIG, _settings(folder, GENAI_CONFIG), names)
    try:
        size = sum(file.stat().st_size for file in files)
    except OSError as error:
        raise BadFile(f"{printable(folder)} changes while it is read; measure it when it is complete") from error
    return Exported(runtime, folder, *sizes, _parameters(folder), files, size)


def _sizes(folder: Path, runtime: Runtime) -> tuple[int, int]:
    """How many tokens there are, and how many may be read."""
    name, inside, context = (
        (GENAI_CONFIG, "model", "context_length") if runtime == "onnx" else (CONFIG, "text_config", _POSITIONS)
    )
    settings = _settings(folder, name)
    _refuse_programs(folder / name, settings)
    inner = settings.get(inside)
    stated = {**settings, **inner} if isinstance(inner, Mapping) else settings
    vocabulary = _number(folder / name, stated, "vocab_size", _LARGEST_VOCABULARY)
    return vocabulary, _number(folder / name, stated, context, _LARGEST_CONTEXT)


def _settings(folder: Path, name: str) -> Mapping[str, Any]:
    path = member(folder, name)
    if path is None:
        raise BadFile(f"{printable(folder)} has no {name}; {_COMPLETE}")
    settings = read_json(path, CONFIG_BYTES)
    if not isinstance(settings, dict):
        raise BadFile(f"{printable(path)} is not a JSON object; {_COMPLETE}")
    return settings


def _number(path: Path, settings: Mapping[str, Any], key: str, most: int) -> int:
    found = settings.get(key)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 < found <= most:
        raise BadFile(
            f"{printable(path)} says {printable(found, 40)} for {key}, not a number up to {most}; {_COMPLETE}"
        )
    return found


def _refuse_programs(path: Path, settings: Any, within_options: bool = False) -> None:
    """Raises Unsupported where a runtime would load a program that is named in the settings."""
    named = settings.items() if isinstance(settings, dict) else [("", one) for one in settings]
    for key, value in named:
        options = within_options or key in _OPTIONS
        if isinstance(value, dict | list):
            _refuse_programs(path, value, options)
        elif isinstance(value, str) and (
            value.lower().endswith(_PROGRAMS)
            or (options and key not in _TEXTS and not _NUMBER.fullmatch(value))
        ):  # fmt: skip
            raise Unsupported(
                f"{printable(path)} names {printable(value, 60)}: programs that come with a model are not run; take "
                "that entry out, or measure another export"
            )


def _refuse_files_elsewhere(path: Path, settings: Any, files: Collection[str]) -> None:
    """Raises BadFile where the settings name a file that is not among the model's own: its hash would not be known."""
    named = settings.items() if isinstance(settings, dict) else [("", one) for one in settings]
    for key, value in named:
        if isinstance(value, dict | list):
            _refuse_files_elsewhere(path, value, files)
        elif key == "filename" and value not in files:
            raise BadFile(
                f"{printable(path)} names {printable(value, 60)}, which is no file of this folder (linked and hidden "
                f"folders are not looked into); {_COMPLETE}"
            )


def _parameters(folder: Path) -> int | None:
    """How many weights a model of these settings has; None where they are not ours to read, or not there."""
    from smidgen.model.families import family_of_config  # numpy comes with it, which naming a model does not need
    from smidgen.model.parameters import parameter_shapes

    if not (folder / CONFIG).is_file():
        return None
    settings = {key: value for key, value in _settings(folder, CONFIG).items() if key not in _PACKINGS}
    try:
        family, written = family_of_config(settings)
        shapes = parameter_shapes(family.config_from_hf(settings, written))
    except SmidgenError:
        return None
    return sum(math.prod(shape) for shape in shapes.values())


def _files(folder: Path) -> Iterator[Path]:
    """The model's own files, by path. Raises BadFile for more than any model has."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        depth = len(here.relative_to(folder).parts)
        folders[:] = [name for name in folders if not name.startswith(".")] if depth < _DEEPEST else []
        found += [here / name for name in names if not name.startswith(".") and not (depth == 0 and name in _BESIDE)]
        if len(found) > _MOST_FILES:
            raise BadFile(f"{printable(folder)} has more than {_MOST_FILES} files, which no model has; give its folder")
    yield from sorted((file for file in found if file.is_file()), key=lambda file: file.relative_to(folder).as_posix())
