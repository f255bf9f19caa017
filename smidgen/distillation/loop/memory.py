"""How much memory a training takes, reckoned before anything is loaded; and how it is made to take less.

What a block keeps for its backward pass grows with the tokens that go through it together. Per token, in float32
numbers (counted in a test with torch's saved-tensors hooks, the sum of what trained and adapted blocks of every kind
keep, rounded up):

    12 · hidden + 4 · feed-forward + 5 · queries + 4 · keys + 2 · heads · context where scores are written out

the last because kernels for attention know no soft cap. With gradient checkpointing (Chen et al. 2016,
https://arxiv.org/abs/1604.06174) a block keeps its input alone and computes the rest again, for a third more work. So,
as long as that fits: as many rows together as are wanted; fewer, down to one; then checkpointing, with many or few.
Rows together change no result but by the order of sums.
"""

import os
from dataclasses import dataclass

from smidgen.errors import SmidgenError
from smidgen.memory import available_memory, usable_memory
from smidgen.model.config import LayerConfig, ModelConfig
from smidgen.sizes import format_size

#: Bytes for a number that learns: weight, gradient and AdamW's two; through a lattice also its place and its code.
EACH = {"adapter": 16, "weights": 16, "codes": 26}

_FLOAT = 4
_HELD = 2  # blocks' worth of what one is computed with at the moment
_HELD_AGAIN = 3  # the same while it is computed a second time
_LOGITS = 2 * 2**26  # of the loss (`objectives.losses`)
_PROGRAM = 600 * 10**6  # Python, torch and its libraries, tokenizer and text
_MOST = 0.9  # of the memory


@dataclass(frozen=True)
class Fitted:
    """How a training is made to fit.  rows: that go through the model together.  needed: bytes, about."""

    rows: int
    checkpointing: bool
    needed: int

    def describe(self) -> str:
        """In a line."""
        again = ", each block computed again for its gradients (gradient checkpointing)" if self.checkpointing else ""
        rows = "1 row at a time" if self.rows == 1 else f"{self.rows} rows at a time"
        return f"Memory: about {format_size(self.needed)}, {rows}{again}."


def fitted(
    config: ModelConfig, held: int, context: int, rows: int, *, most: int | None = None, checkpointing: bool = False
) -> Fitted:
    """How to train rows of `context` tokens, at best `rows` together.

    held: bytes for weights and all that learns.  most: bytes that it may take; None for what is free, on a machine
    that several processes of this training share a part of it.  checkpointing: wanted in any case.
    Raises SmidgenError where even one row at a time is too much.
    """
    limit = (most or int(_MOST * available_memory())) // _sharing()
    found = Fitted(1, True, held)
    for again in (True,) if checkpointing else (False, True):
        for together in _halves(rows):
            found = planned(config, held, context, together, again)
            if found.needed <= limit:
                return found
    if most is None and found.needed <= int(_MOST * usable_memory()) // _sharing():
        return found  # what else runs may end
    least = f"This takes about {format_size(found.needed)} of memory with {context} tokens at a time and checkpointing"
    if most is not None:
        raise SmidgenError(
            f"{least}, and --memory allows {format_size(most // _sharing())}. Allow more, or take a shorter --context."
        )
    has = format_size(usable_memory() // _sharing())
    raise SmidgenError(
        f"{least}, and this machine has {has}. Take a shorter --context, a smaller model, or a larger machine."
    )


def _halves(rows: int) -> list[int]:
    """`rows`, and smaller numbers down to 1."""
    found = [rows]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return found


def planned(config: ModelConfig, held: int, context: int, rows: int, checkpointing: bool) -> Fitted:
    """What a training takes that was decided so."""
    return Fitted(rows, checkpointing, held + _beside(config, rows * context, context, checkpointing))


def _beside(config: ModelConfig, tokens: int, context: int, checkpointing: bool) -> int:
    """Bytes beside the weights for so many tokens at once."""
    each = [kept_by_block(layer, config.hidden, context) for layer in config.layers]
    largest = max(each)
    if checkpointing:
        numbers = len(each) * config.hidden + _HELD_AGAIN * largest
    else:
        numbers = sum(each) + _HELD * largest
    return _FLOAT * tokens * numbers + _LOGITS + _PROGRAM


def divided(trained: int, processes: int) -> int:
    """Bytes of a plain decoder's weights and what learns of them, shared by processes; each has the whole weights for a
    while."""
    return max(_FLOAT * trained, EACH["weights"] * trained // processes)


def kept_by_block(layer: LayerConfig, hidden: int, context: int) -> int:
    """Numbers that a block keeps of each token for its backward pass, at most."""
    queries, keys = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    chosen = layer.experts_used * (layer.expert_width or layer.ffn_width) if layer.experts else 0
    dense = layer.ffn_width if layer.expert_width or not layer.experts else 0
    gathered = 2 * hidden * layer.experts_used if layer.experts else 0  # what each reads and writes
    scores = 2 * layer.heads * context if layer.attention_cap is not None else 0
    plain = 12 * hidden + 4 * (chosen + dense) + 5 * queries + 4 * keys + scores + gathered
    return plain + _kept_beyond_plain(layer, hidden, keys)


def _kept_beyond_plain(layer: LayerConfig, hidden: int, keys: int) -> int:
    """The same of what Gemma 3n and 4 have beside."""
    more = 8 * hidden if layer.expert_width else 0
    more += 2 * keys if layer.value_norm else 0
    more += hidden if layer.output_scale else 0
    more += 3 * layer.ffn_width if layer.sparsity else 0
    more += 4 * hidden + layer.low_rank if layer.low_rank else 0
    more += 4 * hidden + 8 * layer.layer_input if layer.layer_input else 0
    return more + (4 * layer.streams * hidden + 8 * hidden if layer.streams > 1 else 0)


def _sharing() -> int:
    """Processes of this training on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
