"""A model in another framework answers the questions of a task: logits come from there, the rest is done here.

Answers are written a token at a time, the likeliest always, with the framework's own cache of what came before.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from smidgen.engines.base import Ids, Score
from smidgen.engines.frameworks.engine import FrameworkEngine
from smidgen.model.chat import chat_template, render_chat
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.vocabulary import MetadataValue
from smidgen.progress import Task
from smidgen.shapes import Float

_LONGEST_CONTEXT = 4096  # tokens: no task in use needs more


class FrameworkAnswers:
    """Satisfies `engines.base.Answering`.

    metadata: of the model's tokenizer, with its chat template.
    """

    def __init__(self, engine: FrameworkEngine, metadata: Mapping[str, MetadataValue]) -> None:
        self._engine, self._metadata = engine, metadata
        self.tokenizer = Tokenizer.from_gguf(metadata)
        self.context = min(engine.config.context_length, _LONGEST_CONTEXT)

    def ask(self, question: str) -> list[int]:
        """See `Answering`."""
        template = chat_template(self._metadata)
        text = render_chat(template, [{"role": "user", "content": question}], self.tokenizer.special_texts)
        return self.tokenizer.encode(text, add_bos=self.tokenizer.adds_bos, parse_special=True)

    def score(self, pairs: Sequence[tuple[Ids, Ids]], progress: Task) -> list[Score]:
        """See `Answering`. Beginnings are read again for each continuation, but for those of a single token."""
        found, read = [], None
        first = torch.empty(0)
        for begin, rest in pairs:
            if read != (*begin,):
                first = self._engine.next_logits(begin, afresh=True)
            found.append(self._score(first, rest))
            read = (*begin,) if len(rest) == 1 else None  # else the model has read on
            progress.advance()
        return found

    def _score(self, logits: Float[Tensor, " vocab"], rest: Ids) -> Score:
        """Of a continuation, after a beginning that gave these logits and was read just now."""
        total, greedy = 0.0, True
        for place, token in enumerate(rest):
            if place > 0:
                logits = self._engine.next_logits([rest[place - 1]], afresh=False)
            total += float(logits.double().log_softmax(dim=0)[token])
            greedy &= int(logits.argmax()) == token
        return Score(total, greedy)

    def write(self, prompts: Sequence[Ids], stops: Sequence[str], tokens: int, progress: Task) -> list[str]:
        """See `Answering`."""
        found = []
        for prompt in prompts:
            found.append(self._written(prompt, stops, min(tokens, self.context - len(prompt))))
            progress.advance()
        return found

    def _written(self, prompt: Ids, stops: Sequence[str], tokens: int) -> str:
        written, text = list[int](), ""
        while len(written) < tokens:
            logits = self._engine.next_logits(written[-1:] or prompt, afresh=not written)
            token = int(logits[: len(self.tokenizer)].argmax())
            if token in self.tokenizer.eos_ids:
                break
            written.append(token)
            text = self.tokenizer.decode(written, skip_special=True)
            ends = [place for stop in stops if (place := text.find(stop)) >= 0]
            if ends:
                return text[: min(ends)]
        return text
