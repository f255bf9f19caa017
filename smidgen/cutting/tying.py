"""One matrix, written once: the model that a cut begins with, and what it costs where its head is its embedding.

A file that stores the embedding a second time as the head (`formats.stored_twice`) pays a tenth of its bytes for that,
and more. A cut to a size keeps the finer of the two for both, unless told not to (`keep_head`), or unless everything
fits as it is. What the second copy cost then goes into bits for all matrices.

The cost is measured: KL(as stored ‖ tied) on the first tokens of the calibration text. It is how much the stored file
owes to the coarser of its two roundings; the matrix that both came of is nearer to the finer one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from smidgen.cutting.plan import fits_as_it_is
from smidgen.cutting.recipe import CutOptions
from smidgen.data.held_out import CalibrationText
from smidgen.data.text import beginning, window_length
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.parts import Passage, embed, head_name, load_block, load_exit
from smidgen.formats.stored_twice import stored_once, stored_twice
from smidgen.model.tokenizer import Tokenizer
from smidgen.numerics.divergence import NO_TARGET, StreamedDivergence, soft_cap_
from smidgen.progress import track
from smidgen.shapes import Float, Int

_MEASURED_ON = 256  # tokens: enough for a small cost
_CHARACTERS = 2**13  # that these come out of
_HEAD_ROWS = 4096  # vocabulary entries at a time


def with_one_matrix(checkpoint: Checkpoint, options: CutOptions) -> Checkpoint:
    """The model that the first step takes: with its head tied where it is the embedding and bytes count, else as it is.

    A view of `checkpoint`, of use as long as that is open.
    """
    if options.keep_head or "quantize" not in options.chain or checkpoint.config.tied_head:
        return checkpoint
    only_bits = set(options.chain) <= {"quantize", "heal"}
    if only_bits and options.fit is not None and fits_as_it_is(checkpoint, options.fit, options.kinds):
        return checkpoint
    twice = stored_twice(checkpoint)
    return checkpoint if twice is None else stored_once(checkpoint, twice)


@torch.no_grad()
def cost_of_tying(
    original: Checkpoint, tied: Checkpoint, texts: Sequence[CalibrationText], tokenizer: Tokenizer
) -> float:
    """KL(original ‖ tied) in nats per token, on the beginning of the calibration text. They differ in these ends only.

    Cost: one walk through the blocks with some hundred tokens.
    """
    text, first = "\n".join(piece for text in texts for piece in text.pieces)[:_CHARACTERS], beginning(tokenizer)
    room = min(_MEASURED_ON, window_length(original.config.context_length)) - len(first)
    ids = torch.tensor([first + tokenizer.encode(text)[:room]])
    before, after = (hidden[len(first) :] for hidden in _read_by_the_head(original, tied, ids))
    divergence = StreamedDivergence(torch.full((len(before),), NO_TARGET))
    for start in range(0, original.config.vocabulary, _HEAD_ROWS):
        stop = min(start + _HEAD_ROWS, original.config.vocabulary)
        logits = [
            soft_cap_(hidden @ model.rows(head_name(model.config), start, stop).T, model.config.logit_cap)
            for model, hidden in ((original, before), (tied, after))
        ]
        divergence.add(slice(None), start, logits[0], logits[1])
        original.release()
    return float(divergence.finish().kl.mean())


def _read_by_the_head(
    original: Checkpoint, tied: Checkpoint, ids: Int[Tensor, "one position"]
) -> Float[Tensor, "two position hidden"]:
    """What the heads of both models read. The blocks are the same, and decoded once."""
    both = torch.cat([ids, ids])
    states, passage = torch.cat([embed(original, ids), embed(tied, ids)]), Passage(original, [both])
    layers = range(len(original.config.layers))
    with track("Measuring what tying the head costs", len(layers)) as task:
        for index in layers:
            states = load_block(original, index)(states, beside=passage.beside(index, 0))
            original.release()
            task.advance()
    return load_exit(original)(states)
