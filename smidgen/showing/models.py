"""The models on the page: each with an engine in a process of its own, its place in line, and its report card."""

import hashlib
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from smidgen.closing import Closing
from smidgen.engines.llama_cpp.engine import LlamaCppEngine, Message, choose_context, read_facts
from smidgen.engines.llama_cpp.reply import Reply
from smidgen.errors import SmidgenError, printable
from smidgen.formats.convert import gguf_of
from smidgen.formats.gguf.contents import parts_of
from smidgen.formats.gguf.kept import refuse_kv_of
from smidgen.formats.hub.catalogue import CATALOGUE, ModelName, is_ready, origin_of
from smidgen.model.kept import AS_USUAL, KVType
from smidgen.showing.settings import Settings
from smidgen.showing.writing import Line, Writing

CARD = "card.html"
_LARGEST_CARD = 64 << 20  # bytes


class ShownModel(Closing):
    """One model, checked; it is loaded with the first answer, or by `load`.

    name: for people.  given: what names it again.  chats: whether it has a chat template; else it continues texts.
    context: tokens of prompt and answer.  Raises SmidgenError, BadFile and Unsupported as `LlamaCppEngine`.
    kv: how it keeps keys and values.
    """

    def __init__(
        self, model: ModelName, ctx_size: int | None, threads: int | None, parallel: int, kv: KVType = AS_USUAL
    ) -> None:
        origin = origin_of(model)
        self.name, self.given = origin.name, origin.given
        self.path = gguf_of(origin)
        facts = read_facts(self.path)
        refuse_kv_of(self.path, kv)
        self._kv: KVType = kv
        self.chats, self.context = facts.has_chat_template, choose_context(facts, ctx_size)
        self._folder = origin.folder
        self._threads, self._parallel = threads, parallel
        self._line = Line(parallel)
        self._lock = threading.Lock()
        self._engine: LlamaCppEngine | None = None

    @property
    def threads(self) -> int | None:
        """As asked for; None for the engine's own choice."""
        return self._threads

    @property
    def card(self) -> Path | None:
        """The report card in its folder, None where there is none."""
        card = None if self._folder is None else self._folder / CARD
        return card if card is not None and card.is_file() and card.stat().st_size <= _LARGEST_CARD else None

    @property
    def bytes(self) -> int:
        """Size of its files."""
        return sum(file.stat().st_size for file in parts_of(self.path))

    @cached_property
    def sha256(self) -> str:
        """Of the model's file; of one in parts, of all of them one after the other. Reads every byte, once.

        Raises SmidgenError where they are gone.
        """
        digest = hashlib.sha256()
        try:
            for part in parts_of(self.path):
                with part.open("rb") as file:
                    while piece := file.read(1 << 20):
                        digest.update(piece)
        except OSError as error:
            raise SmidgenError(f"{printable(self.path)} cannot be read any more: {error.strerror}.") from error
        return digest.hexdigest()

    def load(self) -> LlamaCppEngine:
        """Its engine."""
        with self._lock:
            if self._engine is None:
                self._engine = LlamaCppEngine(self.path, self.context, self._threads, self._parallel, kv=self._kv)
            return self._engine

    def write(self, messages: Sequence[Message], settings: Settings) -> Writing:
        """An answer to the last message; where there is no chat template, how the model continues it as a text."""
        said = list(messages)

        def begin() -> Reply:
            engine = self.load()
            if self.chats:
                return engine.chat(settings.conversation(said), settings.max_tokens, settings.sampling)
            return engine.stream(said[-1]["content"], settings.max_tokens, settings.sampling)

        return Writing(begin, self._line)

    def close(self) -> None:
        """End its engine; an answer under way breaks off."""
        with self._lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None


class Shelf(Closing):
    """All models that the page shows: those that were given, and after them at most one that was cut on the page."""

    def __init__(
        self, models: Sequence[ModelName], ctx_size: int | None, threads: int | None, parallel: int,
        kv: KVType = AS_USUAL,
    ) -> None:  # fmt: skip
        self.kv: KVType = kv
        self._made = ctx_size, threads, parallel, kv
        self.given = [ShownModel(model, *self._made) for model in models]
        self._cut: ShownModel | None = None
        _name_apart(self.given)

    @property
    def all(self) -> list[ShownModel]:
        """In the order of the page."""
        return [*self.given, *([] if self._cut is None else [self._cut])]

    @property
    def names(self) -> list[str]:
        """Of all."""
        return [model.name for model in self.all]

    def find(self, name: object) -> ShownModel:
        """Raises SmidgenError for a name that the page does not offer."""
        found = next((model for model in self.all if model.name == name), None)
        if found is None:
            raise SmidgenError("this model is not shown any more; choose another, or load the page again.")
        return found

    def show_cut(self, folder: Path) -> ShownModel:
        """Put a model that was just cut on the shelf, in place of an earlier one."""
        cut = ShownModel(folder, *self._made)
        if cut.name in [model.name for model in self.given]:
            cut.name = f"{cut.name} (new)"
        before, self._cut = self._cut, cut
        if before is not None:
            before.close()
        return cut

    def to_cut(self) -> dict[str, str]:
        """What can be cut without a download: name on the page → what names it for the command."""
        here = {model.name: model.given for model in self.given}
        return here | {name: name for name, entry in CATALOGUE.items() if name not in here and is_ready(entry)}

    def file_to_cut(self, name: object) -> Path:
        """The file of one of these. Raises SmidgenError for a name that is none of them, and for a damaged file."""
        given = self.to_cut().get(str(name))
        if given is None:
            raise SmidgenError("choose a model from the list.")
        shown = next((model.path for model in self.given if model.name == name), None)
        return gguf_of(origin_of(given)) if shown is None else shown

    def close(self) -> None:
        """End all engines."""
        for model in self.all:
            model.close()


def _name_apart(models: Sequence[ShownModel]) -> None:
    """Two files of one name are called by their paths. Raises SmidgenError where they are one and the same file."""
    if len(models) != 2:
        return
    one, other = models
    if one.path.samefile(other.path):
        raise SmidgenError(f"both models are {printable(one.path)}; give two different ones to compare, or only one.")
    if one.name == other.name:
        one.name, other.name = one.given, other.given
