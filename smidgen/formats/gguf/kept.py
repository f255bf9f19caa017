"""What a GGUF file's model keeps of each token, from its header: also of models that only llama.cpp runs."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from smidgen.errors import Unsupported
from smidgen.formats.gguf.contents import describe
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.model.kept import AS_USUAL, KeptLayer, keeping_of, refuse_kv

_WITHOUT_FLASH_ATTENTION = ("grok",)  # in llama.cpp


def kept_of(file: GGUFFile) -> tuple[KeptLayer, ...]:
    """Layer by layer. Of architectures that we do not know, windows are left out: that is the most that they keep."""
    with suppress(Unsupported):
        return keeping_of(describe(file)[1])
    architecture = file.metadata.get("general.architecture")

    def setting(name: str) -> Any:
        return file.metadata.get(f"{architecture}.{name}")

    layers, heads = int(setting("block_count") or 0), _each(setting("attention.head_count"))
    groups = _each(setting("attention.head_count_kv")) or heads or [0]
    width = int(setting("embedding_length") or 0)
    keys = int(setting("attention.key_length") or (width // max(heads[0], 1) if heads else 0))
    values = int(setting("attention.value_length") or keys)
    every = groups if len(groups) == layers else [groups[0]] * layers
    return tuple(KeptLayer(int(number), keys, values) for number in every)


def refuse_kv_of(path: Path, kv: str) -> None:
    """Raises SmidgenError for a type that is none, Unsupported for one that this model's cache cannot have."""
    if kv == AS_USUAL:
        return
    with GGUFFile.open(path) as file:
        refuse_kv(kv, kept_of(file))
        architecture = file.metadata.get("general.architecture")
        if architecture in _WITHOUT_FLASH_ATTENTION:
            raise Unsupported(
                f"--kv {kv} needs flash attention, which llama.cpp does not have for {architecture}; leave it out."
            )


def _each(setting: Any) -> Sequence[int]:
    return [] if setting is None else [setting] if isinstance(setting, int) else list(setting)
