"""What `adapter_config.json` says of an adapter: by how much its pairs count, and whether it is plain LoRA at all.

Some are trained beside another matrix than the model's, and are wrong beside it. PiSSA, OLoRA, CorDA and LoRA-GA begin
with a part of W, which they take out of W first; LoftQ begins with what quantizing left out of W. PEFT turns the first
four into plain ones where it is told how they began.
https://huggingface.co/docs/peft/package_reference/lora
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.errors import BadFile, Unsupported, printable
from smidgen.formats.hf.json_text import read_json

#: Keys of adapter_config.json that change what an adapter computes, with the value that leaves them off.
_NEUTRAL: dict[str, Any] = {
    "use_dora": False, "fan_in_fan_out": False, "lora_bias": False, "bias": "none", "modules_to_save": None,
    "layer_replication": None, "trainable_token_indices": None, "alora_invocation_tokens": None, "use_qalora": False,
    "target_parameters": None, "use_bdlora": None, "arrow_config": None, "kasa_config": None,
}  # fmt: skip
#: Ways of beginning (init_lora_weights) that leave the model's own matrices as they are.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
#: And those that take a part out of them, by how their names begin.
_TAKEN_OUT = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "lora_ga": "LoRA-GA"}


@dataclass(frozen=True)
class PeftScaling:
    """What a pair of PEFT's is multiplied by."""

    alpha: float
    alphas: Mapping[str, float]
    stabilized: bool

    def scale(self, module: str, rank: int) -> float:
        """Keys of alpha_pattern are ends of module names, behind ^ whole ones; the first that fits counts."""
        alpha = next((a for end, a in self.alphas.items() if _fits(end, module)), self.alpha)
        return alpha / (rank**0.5 if self.stabilized else rank)


def _fits(pattern: str, module: str) -> bool:
    return module == pattern[1:] if pattern.startswith("^") else f".{module}".endswith(f".{pattern}")


def peft_scaling(path: Path) -> PeftScaling:
    """Of an `adapter_config.json`. Raises Unsupported for other adapters than plain LoRA, BadFile for wrong numbers."""
    shown, found = printable(path), read_json(path)
    if not isinstance(found, dict) or found.get("peft_type") != "LORA":
        kind = printable(found.get("peft_type"), 40) if isinstance(found, dict) else "nothing"
        raise Unsupported(f"{shown}: peft_type is {kind}; smidgen reads LORA adapters.")
    for key, neutral in _NEUTRAL.items():
        if found.get(key) not in (neutral, None, False, [], {}):
            raise Unsupported(f"{shown}: {key} is {printable(found[key], 40)}; smidgen reads plain LoRA adapters.")
    _refuse_beginning(shown, found.get("init_lora_weights"))
    patterns = found.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(set(key) <= _PLAIN for key in patterns):
        raise Unsupported(f"{shown}: alpha_pattern has regular expressions; smidgen reads names of layers there.")
    numbers = {"lora_alpha": found.get("lora_alpha", 8), **patterns}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
            raise BadFile(f"{shown}: alpha of {printable(key, 60)} is {printable(value, 40)}, which makes no sense.")
    alphas = {key.replace("\\.", "."): float(value) for key, value in patterns.items()}
    return PeftScaling(float(numbers["lora_alpha"]), alphas, found.get("use_rslora") is True)


def _refuse_beginning(shown: str, beginning: Any) -> None:
    """Raises Unsupported for an adapter that was not trained beside the model's own matrices."""
    if beginning in _PLAIN_BEGINNINGS:
        return
    word = str(beginning).lower()
    kind = next((title for name, title in _TAKEN_OUT.items() if word.startswith(name)), None)
    if kind is not None:
        raise Unsupported(
            f"{shown}: is a {kind} adapter, which took a part of the model out before training. Save it as a plain one "
            "with PEFT: save_pretrained(…, path_initial_model_for_weight_conversion=FOLDER), FOLDER being the adapter "
            "as it was before training."
        )
    if word == "loftq":
        raise Unsupported(
            f"{shown}: is a LoftQ adapter, which belongs to the quantized model that LoftQ made. Merge the two with "
            "PEFT (merge_and_unload), and take the folder that save_pretrained writes."
        )
    raise Unsupported(
        f"{shown}: init_lora_weights is {printable(beginning, 40)}, which smidgen does not know. Merge the "
        "adapter with PEFT (merge_and_unload), and take the folder that save_pretrained writes."
    )


#: Characters of module names; "." and "\\." mean the same in the patterns that PEFT writes.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.\\^")
