"""The decoder, filled from a checkpoint: part by part for all who walk through a model, or whole."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.attention import Lent
from smidgen.model.config import ModelConfig
from smidgen.model.decoder import Beside, Block, Decoder
from smidgen.model.layer_inputs import combined, rows_of
from smidgen.model.linear import BlankLinear
from smidgen.model.norms import RMSNorm
from smidgen.model.parameters import LAYER_EMBEDDING, PROJECTION
from smidgen.model.streams import gathered, spread
from smidgen.shapes import Float, Int


def embed(
    checkpoint: Checkpoint, ids: Int[Tensor, "batch position"]
) -> Float[Tensor, "batch position *streams hidden"]:
    """What enters the first block. Only the rows of the embedding that occur are decoded."""
    return entering(checkpoint, embed_once(checkpoint, ids))


def entering(
    checkpoint: Checkpoint, embedded: Float[Tensor, "batch position hidden"]
) -> Float[Tensor, "batch position *streams hidden"]:
    """The same from the scaled embedding."""
    return embedded if checkpoint.config.streams == 1 else spread(embedded, _squares(checkpoint, "streams_in"))


def embed_once(checkpoint: Checkpoint, ids: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position hidden"]:
    """The scaled embedding, of which streams are made where there are several."""
    return checkpoint.gather("embedding.weight", ids) * checkpoint.config.embedding_scale


def _squares(checkpoint: Checkpoint, name: str) -> nn.ModuleList:
    layers = nn.ModuleList()
    for stream in range(checkpoint.config.streams - 1):
        layer = BlankLinear(checkpoint.config.hidden, checkpoint.config.hidden)
        layer.load_state_dict({"weight": checkpoint.tensor(f"{name}.{stream}.weight")})
        layers.append(layer.requires_grad_(False))
    return layers


class Passage:
    """Texts on their way through a model block by block, in parts: what each block reads beside their states.

    parts: the tokens of each part.  lent: keys and values of each part that later layers read; all are in memory.
    """

    def __init__(self, checkpoint: Checkpoint, parts: Sequence[Int[Tensor, "batch position"]]) -> None:
        self._checkpoint, self._parts = checkpoint, parts
        self.lent: list[Lent] = [{} for _ in parts]
        self._projection: tuple[int, Float[Tensor, "width hidden"]] | None = None

    def beside(self, index: int, part: int) -> Beside:
        """For one block and one part."""
        if not self._checkpoint.config.layer_input:
            return Beside(None, self.lent[part])
        return Beside(self.combined(*self.looked_up(index, part)), self.lent[part])

    def looked_up(
        self, index: int, part: int
    ) -> tuple[Float[Tensor, "batch position width"], Float[Tensor, "batch position width"]]:
        """Of one block and one part, in a model with embeddings per layer: from the table, and projected.

        Of the table only the rows of these tokens are read, and of these the block's slice.
        """
        ids, rows = self._parts[part], self._checkpoint.config.layer_input_rows
        found = self._checkpoint.gather(LAYER_EMBEDDING, rows_of(ids, rows), self._span(index))
        return found, functional.linear(embed_once(self._checkpoint, ids), self.projection(index))

    def projection(self, index: int) -> Float[Tensor, "width hidden"]:
        """What one block projects the embedding with."""
        if self._projection is None or self._projection[0] != index:
            self._projection = index, self._checkpoint.rows(PROJECTION, *self._span(index))
        return self._projection[1]

    def _span(self, index: int) -> tuple[int, int]:
        width = self._checkpoint.config.layer_input
        return index * width, (index + 1) * width

    def combined(
        self, looked_up: Float[Tensor, "batch position width"], projected: Float[Tensor, "batch position width"]
    ) -> Float[Tensor, "batch position width"]:
        """What the block reads of both."""
        norm = _norm(self._checkpoint, "layer_projection_norm")
        return combined(looked_up, projected, self._checkpoint.config.hidden, norm)


def load_block(checkpoint: Checkpoint, index: int) -> Block:
    """One block with its weights in float32."""
    block = Block(checkpoint.config.layers[index], checkpoint.config.hidden, checkpoint.config.norm_epsilon)
    block.load_state_dict(checkpoint.block(index), assign=True)
    return block


class Exit(nn.Module):
    """From what leaves the last block to what the output head reads: one stream, normed."""

    def __init__(self, streams: nn.ModuleList, norm: RMSNorm) -> None:
        super().__init__()
        self.streams, self.norm = streams, norm

    def forward(self, x: Float[Tensor, "*batch_streams hidden"]) -> Float[Tensor, "*batch hidden"]:
        """x: of a model with several streams, these are the dimension before the last."""
        return self.norm(gathered(x, self.streams) if self.streams else x)


def load_exit(checkpoint: Checkpoint) -> Exit:
    """What follows the last block."""
    return Exit(_squares(checkpoint, "streams_out"), load_final_norm(checkpoint))


def load_final_norm(checkpoint: Checkpoint) -> RMSNorm:
    """The norm before the output head."""
    return _norm(checkpoint, "final_norm")


def _norm(checkpoint: Checkpoint, name: str) -> RMSNorm:
    weight = checkpoint.tensor(f"{name}.weight")
    norm = RMSNorm(len(weight), checkpoint.config.norm_epsilon)
    norm.load_state_dict({"weight": weight})
    return norm


def head_name(config: ModelConfig) -> str:
    """Canonical name of the matrix that turns hidden states into logits."""
    return "embedding.weight" if config.tied_head else "head.weight"


def load_decoder(checkpoint: Checkpoint) -> Decoder:
    """The whole model in memory, float32."""
    decoder = Decoder(checkpoint.config)
    decoder.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()}, assign=True)
    return decoder
