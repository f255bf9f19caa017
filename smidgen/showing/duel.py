"""One prompt, answered by two models whose names nobody knows until they voted.

A is the model that is shown first, and which one that is, is drawn. Both answers are drawn with one seed, which is kept
with the vote. They are written one after the other, so that neither takes the processors from the other.
"""

import random
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

from smidgen.engines.llama_cpp.engine import LARGEST_SEED
from smidgen.engines.llama_cpp.wheel import engine_version
from smidgen.errors import SmidgenError
from smidgen.showing.ballots import Ballot, BallotBox
from smidgen.showing.models import ShownModel
from smidgen.showing.settings import TOP_K, Settings
from smidgen.showing.writing import Writing
from smidgen.version import __version__
from smidgen.votes import WINNERS, Winner, now


@dataclass
class Duel:
    """models, writings: A and B.  settings: with the seed of both.  ballot: the vote, once one is kept.

    vote_id: of the one vote on these answers, so that a file never has two.
    """

    prompt: str
    settings: Settings
    models: tuple[ShownModel, ShownModel]
    writings: list[Writing] = field(default_factory=list)
    ballot: Ballot | None = None
    stopped: bool = False
    vote_id: str = field(default_factory=lambda: uuid4().hex)
    _voting: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def draw(cls, prompt: str, settings: Settings, models: Sequence[ShownModel]) -> "Duel":
        """With the two models in an order that nobody can foresee, and a seed where none was given."""
        one, other = models
        order = (one, other) if secrets.randbelow(2) else (other, one)
        seed = random.SystemRandom().randint(0, LARGEST_SEED) if settings.seed is None else settings.seed
        return cls(prompt, replace(settings, seed=seed), order)

    def begin_next(self) -> Writing:
        """The answer of A, then the one of B."""
        model = self.models[len(self.writings)]
        writing = model.write([{"role": "user", "content": self.prompt}], self.settings)
        self.writings.append(writing)
        return writing

    def stop(self) -> None:
        """End what is being written; there will be no vote."""
        self.stopped = True
        for writing in self.writings:
            writing.stop()

    @property
    def complete(self) -> bool:
        """Whether there are two whole answers."""
        return not self.stopped and [writing.state for writing in self.writings] == ["done", "done"]

    def vote(self, winner: Winner, box: BallotBox) -> int:
        """Keep a vote, the only one on these answers; returns how many the file has now.

        Raises SmidgenError where there is nothing to vote on, and where it cannot be kept: then it may be tried again.
        """
        if winner not in WINNERS:
            raise SmidgenError("that is no vote.")
        with self._voting:  # two clicks may come at once
            if self.ballot is not None:
                raise SmidgenError("you have voted on these answers already; ask something new.")
            if not self.complete:
                raise SmidgenError("two whole answers are needed for a vote.")
            ballot = self._ballot(winner)
            votes = box.add(ballot)
            self.ballot = ballot
            return votes

    def _ballot(self, winner: Winner) -> Ballot:
        (a, b), (first, second) = self.models, self.writings
        assert first.reply is not None and second.reply is not None and self.settings.seed is not None
        return Ballot(
            vote_id=self.vote_id, time=now(), model_a=a.name, model_b=b.name, winner=winner, judge="person",
            prompt=self.prompt, system=self.settings.system, answer_a=first.text, answer_b=second.text,
            sha256_a=a.sha256, sha256_b=b.sha256, chat_a=int(a.chats), chat_b=int(b.chats),
            temperature=self.settings.temperature, top_k=TOP_K, top_p=self.settings.top_p,
            max_tokens=self.settings.max_tokens, seed=self.settings.seed, context_a=a.context, context_b=b.context,
            threads=a.threads, tokens_a=first.reply.generated_tokens, tokens_b=second.reply.generated_tokens,
            stop_a=first.reply.stop, stop_b=second.reply.stop, smidgen=__version__, engine=engine_version(),
        )  # fmt: skip
