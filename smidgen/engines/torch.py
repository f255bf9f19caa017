"""Our own decoder as an engine: hidden states for measuring, and sampling, within bounded memory."""

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional

from smidgen.errors import SmidgenError, printable
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import Passage, embed, head_name, load_block, load_exit
from smidgen.memory import total_memory
from smidgen.model.attention import LayerCache, soft_cap
from smidgen.model.config import ModelConfig
from smidgen.model.decoder import Block, Cache
from smidgen.model.kept import AS_USUAL, KVType
from smidgen.model.operations import layer_operations
from smidgen.model.rounded_cache import RoundedCache
from smidgen.numerics.precision import fast_product_dtype
from smidgen.numerics.sampling import draw
from smidgen.progress import Task
from smidgen.shapes import Float, Int

_ACTIVATION_BYTES = 24 * 2**20  # of the widest activations in a block; a few such tensors exist at once. With much more
# than this the allocator asks the system for new pages each time, which costs more than it saves.
_HEAD_ROWS = 16_384  # decoded at once
_MEMORY_SHARE = 0.8  # of the machine's memory that sampling may take


def tokens_at_once(config: ModelConfig) -> int:
    """How many tokens may go through one block together: bounds its activations."""
    widest = max(max(layer.ffn_width, layer.heads * layer.head_dim) for layer in config.layers)
    return max(1, _ACTIVATION_BYTES // (4 * widest))


class TorchEngine:
    """Runs a checkpoint with the PyTorch decoder on the CPU. Satisfies `engines.base.Scorer`.

    threads: for torch, in the whole process; None leaves its choice.
    rounding: what leaves each block is rounded to this type, as where it is computed in 16 bits; None rounds nothing.
    kv: how keys and values are kept of texts that are read; f16 rounds nothing, its loss is below all others. What
    `sample` writes does not know it.
    """

    def __init__(
        self, checkpoint: Checkpoint, threads: int | None = None, rounding: torch.dtype | None = None,
        kv: KVType = AS_USUAL,
    ) -> None:  # fmt: skip
        self.checkpoint, self._rounding = checkpoint, rounding
        self._kv: KVType = kv
        if threads is not None:
            torch.set_num_threads(threads)

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.checkpoint.config

    @property
    def written_by(self) -> str:
        """What the ids of `sample` depend on beside its arguments."""
        return f"torch {torch.__version__}, {torch.get_num_threads()} threads"

    def layer_operations(self, length: int) -> list[float]:
        """See `Scorer`."""
        return [layer_operations(layer, self.config.hidden, length) for layer in self.config.layers]

    @torch.no_grad()
    def hidden_states(
        self, windows: Int[Tensor, "batch position"], progress: Task | None = None
    ) -> Float[Tensor, "batch position hidden"]:
        """What the head reads, after the final norm, float32. Windows are independent texts from position 0.

        All windows go through one block before the next is decoded: memory is their hidden states and one block. Of the
        file no more is resident than one block either.

        progress: advanced once for each layer.
        """
        states = embed(self.checkpoint, windows)
        at_once = max(1, tokens_at_once(self.config) // windows.shape[1])
        passage, lenders = Passage(self.checkpoint, windows.split(at_once)), KeptByLenders(self)
        for index in range(len(self.config.layers)):
            block = self.block(index)
            for number, part in enumerate(states.split(at_once)):
                kept = None if self._kv == AS_USUAL else lenders.cache(index, number, *part.shape[:2])
                part.copy_(self._rounded(block(part, 0, kept, beside=passage.beside(index, number))))
            del block  # before the next is decoded beside it
            if progress is not None:
                progress.advance()
        return load_exit(self.checkpoint)(states)

    def block(self, index: int) -> Block:
        """A block with its weights in float32; the pages of the file that they came from are given back."""
        block = load_block(self.checkpoint, index)
        self.checkpoint.release()
        return block

    def layer_cache(self, index: int, batch: int, capacity: int) -> LayerCache:
        """An empty one for a layer, which keeps what it is given in this engine's type."""
        layer = self.config.layers[index]
        if self._kv == AS_USUAL:
            return LayerCache(layer, batch, capacity)
        moved = self.checkpoint.family.gguf_transform(f"blocks.{index}.attention.key.weight", self.config).order
        order = None if moved is None else torch.from_numpy(moved[: layer.head_dim])
        return RoundedCache(layer, batch, capacity, self._kv, order)

    def _rounded(
        self, states: Float[Tensor, "batch position *streams hidden"]
    ) -> Float[Tensor, "batch position *streams hidden"]:
        return states if self._rounding is None else states.to(self._rounding)

    def head_rows(self, start: int, stop: int) -> Float[Tensor, "rows hidden"]:
        """Rows start … stop-1 of the output head, float32, decoded on demand."""
        rows = self.checkpoint.rows(head_name(self.config), start, stop)
        self.checkpoint.release()
        return rows

    @torch.no_grad()
    def sample(
        self,
        prompts: Int[Tensor, "batch position"],
        tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        *,
        top_k: int | None = None,
        banned: Collection[int] = (),
        end_ids: Collection[int] = (),
        bos_id: int | None = None,
        progress: Task | None = None,
    ) -> Int[Tensor, "batch tokens"]:
        """The `tokens` ids that follow each prompt, drawn from the whole vocabulary unless `top_k` limits it.

        The same seed and number of threads give the same ids. temperature: 0 takes the likeliest. banned: never drawn.
        A row that draws one of `end_ids` goes on with `bos_id`, as a new document in the same context.
        progress: advanced by a step for each token of each row.

        Memory: every block in float32, the head (see `_head`), keys and values, and one float32 row of logits for each
        prompt; SmidgenError where the machine has not that much. Where the CPU multiplies bfloat16, the head's products
        are rounded to it: about 0.4% of a logit, noise far below sampling's own.
        """
        self.prepare(len(prompts), prompts.shape[1] + tokens)
        generator = torch.Generator().manual_seed(seed)
        blocks = [self.block(index) for index in range(len(self.config.layers))]
        leaving, head = load_exit(self.checkpoint), self._head()
        cache = Cache(self.config, len(prompts), prompts.shape[1] + tokens)
        written = torch.empty(len(prompts), tokens, dtype=torch.long)
        ends, step = torch.tensor(sorted(end_ids), dtype=torch.long), prompts
        for place in range(tokens):
            hidden, passage = embed(self.checkpoint, step), Passage(self.checkpoint, [step])
            for index, (block, layer_cache) in enumerate(zip(blocks, cache.layers, strict=True)):
                hidden = block(hidden, cache.length, layer_cache, beside=passage.beside(index, 0))
            cache.length += step.shape[1]
            scores = functional.linear(leaving(hidden[:, -1]).to(head.dtype), head).float()
            ids = draw(
                soft_cap(scores, self.config.logit_cap), float(temperature), generator, banned=banned, top_k=top_k
            )
            if place > 0 and bos_id is not None:
                ids = torch.where(torch.isin(written[:, place - 1], ends), bos_id, ids)
            written[:, place] = ids
            step = ids[:, None]
            if progress is not None:
                progress.advance(len(prompts))
        return written

    def prepare(self, rows: int, length: int) -> None:
        """Raises SmidgenError where sampling would not fit into memory: every step needs every weight."""
        config = self.config
        head = config.vocabulary * config.hidden
        table = config.layer_input_rows * config.layer_input * len(config.layers)  # of which only rows are decoded
        needed = 4 * (self.checkpoint.parameters - head - table) + fast_product_dtype().itemsize * head
        if needed > _MEMORY_SHARE * total_memory():
            raise SmidgenError(
                f"{printable(self.checkpoint.path.name)} cannot write text for its own calibration here: that takes "
                f"{needed / 1e9:.0f} GB of memory, more than this machine has to spare. Give text with --text FILE."
            )

    def _head(self) -> Float[Tensor, "vocab hidden"]:
        """The whole head, in bfloat16 where the CPU computes in it (half the memory, several times the speed)."""
        head = torch.empty(self.config.vocabulary, self.config.hidden, dtype=fast_product_dtype())
        for start in range(0, len(head), _HEAD_ROWS):
            stop = min(start + _HEAD_ROWS, len(head))
            head[start:stop] = self.head_rows(start, stop)
        return head


class KeptByLenders:
    """Caches of the layers, part by part: a layer that borrows keys and values gets that of its lender."""

    def __init__(self, engine: TorchEngine) -> None:
        self._engine = engine
        self._kept: dict[tuple[int, int], LayerCache] = {}

    def cache(self, index: int, part: int, batch: int, capacity: int) -> LayerCache:
        """For one layer and one part, which is so many rows and positions."""
        layer = self._engine.config.layers[index]
        if layer.borrows is not None:
            return self._kept[layer.borrows, part]
        cache = self._engine.layer_cache(index, batch, capacity)
        if layer.lends is not None:
            self._kept[index, part] = cache
        return cache
