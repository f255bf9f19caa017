"""The decoder, filled from a checkpoint: part by part for all who walk through a model, or whole."""

from torch import Tensor

from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.config import ModelConfig
from smidgen.model.decoder import Block, Decoder
from smidgen.model.norms import RMSNorm
from smidgen.shapes import Float, Int


def embed(checkpoint: Checkpoint, ids: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position hidden"]:
    """What enters the first block. Only the rows of the embedding that occur are decoded."""
    return checkpoint.gather("embedding.weight", ids) * checkpoint.config.embedding_scale


def load_block(checkpoint: Checkpoint, index: int) -> Block:
    """One block with its weights in float32."""
    block = Block(checkpoint.config.layers[index], checkpoint.config.hidden, checkpoint.config.norm_epsilon)
    block.load_state_dict(checkpoint.block(index), assign=True)
    return block


def load_final_norm(checkpoint: Checkpoint) -> RMSNorm:
    """The norm before the output head."""
    norm = RMSNorm(checkpoint.config.hidden, checkpoint.config.norm_epsilon)
    norm.load_state_dict({"weight": checkpoint.tensor("final_norm.weight")})
    return norm


def head_name(config: ModelConfig) -> str:
    """Canonical name of the matrix that turns hidden states into logits."""
    return "embedding.weight" if config.tied_head else "head.weight"


def load_decoder(checkpoint: Checkpoint) -> Decoder:
    """The whole model in memory, float32."""
    decoder = Decoder(checkpoint.config)
    decoder.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names()}, assign=True)
    return decoder
