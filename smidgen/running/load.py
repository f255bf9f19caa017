"""A model at hand in Python: what it is, its tokenizer, its decoder, and the text that it writes.

    model = smidgen.load("gemma-3-270m")
    ids = torch.tensor([[model.tokenizer.bos_id, *model.tokenizer.encode("The capital of France is")]])
    model.decoder(ids)[0, -1].argmax()

Two engines stand behind it. `decoder` is our own, in PyTorch and float32, for those who look inside; `generate` and
`chat` go through llama.cpp. Each is loaded when it is first asked for, so `load` itself reads headers only.
"""

from collections.abc import Sequence
from copy import copy
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from smidgen.closing import Closing
from smidgen.formats.hub.catalogue import ModelName, origin_of
from smidgen.formats.opening import open_checkpoint, read_config
from smidgen.model.config import ModelConfig
from smidgen.model.parameters import parameter_shapes

if TYPE_CHECKING:
    from smidgen.engines.llama_cpp.engine import LlamaCppEngine, Message, Reply, Sampling
    from smidgen.formats.checkpoint import Checkpoint
    from smidgen.model.decoder import Decoder
    from smidgen.model.tokenizer import Tokenizer

_MAX_TOKENS = 256


def load(model: ModelName, *, ctx_size: int | None = None, threads: int | None = None) -> "Model":
    """A model by its catalogue name, its path, or its repository on the Hugging Face hub.

    ctx_size: tokens of context for `generate` and `chat`; default the model's own, at most 4096.
    threads: CPU threads for these two; default the physical cores.
    Raises SmidgenError where there is no such model, BadFile or Unsupported for one that the decoder cannot run.
    """
    return Model(model, ctx_size=ctx_size, threads=threads)


class Model(Closing):
    """One model; close it, best with a `with` statement, to free its memory. See `load`.

    Every verb (`smidgen.cut`, `measure`, `distill`, `tune`, `export`, `serve`) takes a `Model` where it takes a name.

    path: its GGUF file, or its folder in Hugging Face layout.  config: its shape, layer by layer.
    """

    def __init__(self, model: ModelName, *, ctx_size: int | None = None, threads: int | None = None) -> None:
        self._ctx_size, self._threads = ctx_size, threads
        origin = origin_of(model)
        self.path: Path = origin.path.absolute()
        self._name = origin.given  # of a path, the same one after a change of the working directory
        self.config: ModelConfig = read_config(self.path)

    @cached_property
    def checkpoint(self) -> "Checkpoint":
        """The files as weights under their canonical names, decoded on demand (`names`, `tensor`, `rows`, `kind`)."""
        return open_checkpoint(self.path)

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """`encode(text)` gives ids without BOS, `decode(ids)` the text."""
        from smidgen.model.tokenizer import Tokenizer

        return Tokenizer.from_gguf(self.checkpoint.tokenizer_metadata)

    @cached_property
    def decoder(self) -> "Decoder":
        """The whole model as a PyTorch module in float32: `decoder(ids[batch, position])` gives logits.

        4 bytes a parameter. Weights do not ask for gradients until you say so (`decoder.requires_grad_()`).
        """
        from smidgen.formats.parts import load_decoder

        return load_decoder(self.checkpoint).requires_grad_(False)

    @overload
    def generate(
        self, prompt: str, max_tokens: int = ..., *, temperature: float | None = ..., top_k: int | None = ...,
        top_p: float | None = ..., seed: int | None = ..., stop: Sequence[str] = ..., stream: Literal[False] = ...,
    ) -> str: ...  # fmt: skip
    @overload
    def generate(
        self, prompt: str, max_tokens: int = ..., *, temperature: float | None = ..., top_k: int | None = ...,
        top_p: float | None = ..., seed: int | None = ..., stop: Sequence[str] = ..., stream: Literal[True],
    ) -> "Reply": ...  # fmt: skip
    def generate(
        self, prompt: str, max_tokens: int = _MAX_TOKENS, *, temperature: float | None = None, top_k: int | None = None,
        top_p: float | None = None, seed: int | None = None, stop: Sequence[str] = (), stream: bool = False,
    ) -> "str | Reply":  # fmt: skip
        """What the model adds to a prompt: as text, or piece by piece as it is written (`stream`).

        max_tokens: the longest reply.  temperature: 0 takes the likeliest token always; None is llama.cpp's 0.8.
        top_k, top_p: draw from the k likeliest, from the share p.  seed: fixes the draw.
        stop: texts that end the reply and are not part of it.
        Raises SmidgenError if the prompt does not fit the context.
        """
        drawn = _sampling(temperature, top_k, top_p, seed, stop)
        reply = self._engine.stream(prompt, max_tokens, drawn)
        return reply if stream else reply.text()

    @overload
    def chat(
        self, messages: "str | Sequence[Message]", max_tokens: int | None = ..., *, temperature: float | None = ...,
        top_k: int | None = ..., top_p: float | None = ..., seed: int | None = ..., stop: Sequence[str] = ...,
        template: str | None = ..., stream: Literal[False] = ...,
    ) -> str: ...  # fmt: skip
    @overload
    def chat(
        self, messages: "str | Sequence[Message]", max_tokens: int | None = ..., *, temperature: float | None = ...,
        top_k: int | None = ..., top_p: float | None = ..., seed: int | None = ..., stop: Sequence[str] = ...,
        template: str | None = ..., stream: Literal[True],
    ) -> "Reply": ...  # fmt: skip
    def chat(
        self, messages: "str | Sequence[Message]", max_tokens: int | None = None, *, temperature: float | None = None,
        top_k: int | None = None, top_p: float | None = None, seed: int | None = None, stop: Sequence[str] = (),
        template: str | None = None, stream: bool = False,
    ) -> "str | Reply":  # fmt: skip
        """The answer to a conversation, in the model's own chat template; the other arguments are those of `generate`.

        messages: `{"role": "user", "content": "…"}` and so on, or the user's one message as text.
        max_tokens: None for no limit but the context.  template: the name of one of several templates that it has.
        Raises Unsupported for a model without a template, SmidgenError if the conversation does not fit the context.
        """
        conversation = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        drawn = _sampling(temperature, top_k, top_p, seed, stop)
        self._require_chat_template(template)
        reply = self._engine.chat(conversation, max_tokens, drawn, template)
        return reply if stream else reply.text()

    @cached_property
    def _engine(self) -> "LlamaCppEngine":
        from smidgen.running.open import open_engine

        return open_engine(self.path, ctx_size=self._ctx_size, threads=self._threads)

    def _require_chat_template(self, name: str | None) -> None:
        """Raises Unsupported where there is none, with what this class does instead."""
        from smidgen.engines.llama_cpp.engine import require_chat_template

        require_chat_template(self._engine.facts, name, "`Model.generate` continues text")

    def close(self) -> None:
        """Free the engines and let go of the files; what is asked for afterwards is loaded again."""
        for name in ("_engine", "checkpoint"):
            if name in vars(self):
                vars(self).pop(name).close()
        vars(self).pop("decoder", None)

    def __copy__(self) -> "Model":
        """The same model with engines of its own: two cannot share one, since either may close it."""
        return Model(self._name, ctx_size=self._ctx_size, threads=self._threads)

    def __deepcopy__(self, memo: dict[int, object]) -> "Model":
        """As `copy`."""
        return copy(self)

    def __fspath__(self) -> str:
        """What the person named it, so that a verb treats a `Model` as it would treat its name."""
        return self._name

    def __repr__(self) -> str:
        config = self.config
        parameters = sum(prod(shape) for shape in parameter_shapes(config).values())
        shape = f"{len(config.layers)} layers of width {config.hidden}, {config.vocabulary:,} tokens"
        return f"Model({self._name!r}: {config.family}, {parameters / 1e6:.1f} million parameters, {shape})"


def _sampling(
    temperature: float | None, top_k: int | None, top_p: float | None, seed: int | None, stop: Sequence[str]
) -> "Sampling":
    from smidgen.engines.llama_cpp.engine import Sampling

    return Sampling(temperature, top_k, top_p, seed, (stop,) if isinstance(stop, str) else tuple(stop))
