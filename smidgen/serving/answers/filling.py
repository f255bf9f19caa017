"""The log-probabilities that llama.cpp did not tell: of tokens that are only a part of a character.

The engine is asked once more, for one token behind the text up to there. A bias makes that token a whole character, so
that llama.cpp reports on the place; what it reports are the logits without the bias.
"""

from collections.abc import Sequence
from dataclasses import replace

from smidgen.serving.answers.logprobs import TokenEntry, alternatives_of
from smidgen.serving.answers.model import AnsweringModel
from smidgen.serving.answers.upstream_calls import call

_MOST = 256  # places of one answer that are asked for; the others stay unknown
_CANDIDATES = 200  # tokens to look for the right one among; a sampler does not often draw a rarer one
_ANY_WHOLE = (b"\n", b" ", b"a", b".")
_BIAS = 1000.0


async def filled(
    model: AnsweringModel, prompt: Sequence[int | str], entries: Sequence[TokenEntry], alternatives: int
) -> list[TokenEntry]:
    """The entries of an answer to this prompt, those without a log-probability with theirs, as far as it can be had.

    prompt: token ids, or a rendered conversation.  Raises as any request to the engine.
    """
    whole = next((model.tokens_by_bytes[one] for one in _ANY_WHOLE if one in model.tokens_by_bytes), None)
    found, before, asked = list(entries), list(prompt), 0
    for place, entry in enumerate(entries):
        if entry.id is None or whole is None or asked == _MOST:
            break
        if entry.logprob is None:
            found[place] = await _asked_for(model, before, entry, whole, alternatives)
            asked += 1
        before.append(entry.id)
    return found


async def _asked_for(
    model: AnsweringModel, before: list[int | str], entry: TokenEntry, whole: int, alternatives: int
) -> TokenEntry:
    request = {
        "prompt": [*before], "n_predict": 1, "n_probs": _CANDIDATES, "temperature": 0, "logit_bias": [[whole, _BIAS]],
    }  # fmt: skip
    told = (await call(model, "/completion", request)).get("completion_probabilities")
    if not told:
        return entry
    logprob = next((one["logprob"] for one in told[0]["top_logprobs"] if one["id"] == entry.id), None)
    return replace(entry, logprob=logprob, top=alternatives_of(model, told[0], alternatives))
