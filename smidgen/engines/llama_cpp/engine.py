"""Text generation with llama.cpp: prompts and conversations in, a stream of text out.

The engine talks to a `LlamaServer` of its own (see server.py). Conversations are rendered by our own sandbox
(model/chat.py) and texts are encoded by our own tokenizer, the ones that calibration, training and the card use. So a
model is run with the very tokens that it was measured with; llama.cpp gets token ids. Only where a file's tokenizer is
of a kind that we do not know, llama.cpp's encodes, and that is said.

A prompt that does not fit the context is refused before any computing, and there is exactly one BOS: a template or a
person may write one that the tokenizer then adds once more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from smidgen import progress
from smidgen.bounds import within
from smidgen.closing import Closing
from smidgen.engines.llama_cpp.reply import Reply, Written
from smidgen.engines.llama_cpp.server import BUILT_IN_TEMPLATE, DEFAULT_CONTEXT, LlamaServer
from smidgen.errors import SmidgenError, Unsupported
from smidgen.formats.gguf.contents import refuse_damaged
from smidgen.formats.gguf.kept import kept_of
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.model.chat import Message, chat_template, chat_templates, render_chat, takes_system_role
from smidgen.model.kept import AS_USUAL, KeptLayer, KVType
from smidgen.model.tokenizer import Tokenizer

_LEAST_CONTEXT = 16  # llama.cpp ends its process at next to nothing
LARGEST_SEED = 2**32 - 2  # llama.cpp's are 32 bits wide, and the last one means "any"


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; None leaves llama.cpp's default (temperature 0.8, top-k 40, top-p 0.95, min-p 0.05).

    temperature: 0 takes the likeliest token always.  top_k, top_p: draw from the k likeliest, from the share p.
    seed: fixes the draw.  stop: texts that end the reply and are not part of it.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises SmidgenError for what llama.cpp would take for something else."""
        within("temperature", self.temperature, 0, 1e6, whole=False)
        within("top_k", self.top_k, 0)
        within("top_p", self.top_p, 0, 1, whole=False)
        within("seed", self.seed, 0, LARGEST_SEED)
        if not all(self.stop):
            raise SmidgenError("an empty text cannot end a reply; leave it out.")

    def as_request(self) -> dict[str, Any]:
        """The fields of llama.cpp's request that were set; texts that end a reply are looked for in `Reply`."""
        fields = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p, "seed": self.seed}
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Facts:
    """What the engine must know of a model before llama.cpp opens it.

    context_length: positions it was trained for.
    tokenizer: None where it is of a kind that only llama.cpp knows.  foreign: why it is None.
    appends_eos: whether the file asks that texts end in EOS: a trainer left that on, and no answer follows it.
    metadata: of the file.  kept: what each layer keeps of a token.
    """

    context_length: int
    tokenizer: Tokenizer | None
    foreign: str | None
    appends_eos: bool
    metadata: Mapping[str, Any]
    kept: tuple[KeptLayer, ...] = ()

    @property
    def has_chat_template(self) -> bool:
        """Whether there is one at all, its default or another."""
        return bool(chat_templates(self.metadata))


def read_facts(path: Path) -> Facts:
    """Check a GGUF file, and the model in it, with our own bounded reader. Raises BadFile or Unsupported."""
    with GGUFFile.open(path) as file:
        refuse_damaged(file)
        architecture = file.metadata.get("general.architecture")
        context = file.metadata.get(f"{architecture}.context_length")
        tokenizer, foreign = _read_tokenizer(file.metadata)
        return Facts(
            context_length=context if isinstance(context, int) and context > 0 else DEFAULT_CONTEXT,
            tokenizer=tokenizer,
            foreign=foreign,
            appends_eos=file.metadata.get("tokenizer.ggml.add_eos_token") is True,
            metadata=dict(file.metadata),
            kept=kept_of(file),
        )


def _read_tokenizer(metadata: Mapping[str, Any]) -> tuple[Tokenizer | None, str | None]:
    """The file's tokenizer as ours, or None and the reason."""
    try:
        return Tokenizer.from_gguf(metadata), None
    except Unsupported as error:
        return None, str(error)


def choose_context(facts: Facts, wanted: int | None) -> int:
    """Tokens of context: as wanted, else the model's own but at most 4096. SmidgenError above the model's own."""
    if wanted is None:
        return min(facts.context_length, DEFAULT_CONTEXT)
    if isinstance(wanted, bool) or wanted < _LEAST_CONTEXT:
        raise SmidgenError(f"a context of {wanted} tokens is too small; give --ctx-size {_LEAST_CONTEXT} or more.")
    if wanted > facts.context_length:
        raise SmidgenError(
            f"--ctx-size {wanted} is more than the {facts.context_length} tokens that this model was trained for."
        )
    return wanted


_CONTINUES = "`smidgen run` continues text, without --system and --template"


def require_chat_template(facts: Facts, name: str | None = None, instead: str = _CONTINUES) -> str:
    """The model's chat template of this name, or its default. Raises Unsupported for a model that cannot chat.

    instead: what does work with such a model, where the person is.
    """
    if not facts.has_chat_template:
        raise Unsupported(f"this model has no chat template (a base model): it cannot answer messages. {instead}.")
    return chat_template(facts.metadata, name)


class LlamaCppEngine(Closing):
    """One loaded model; close it, best with a `with` statement.

    ctx_size: tokens of context, prompt and reply together; default the model's own, at most 4096.
    threads: default the physical cores.  parallel: requests at a time, each with the whole context.
    draft: a smaller model of the same vocabulary that proposes tokens: quicker where it guesses well.
    lora: an adapter, as `smidgen tune` writes it to adapter.gguf.
    kv: how keys and values are kept; q8_0 and q4_0 take less memory (see server.py).
    Raises BadFile or Unsupported for a file that our reader refuses, before llama.cpp sees it, for a draft with another
    vocabulary, for an adapter of another model, and for a model that `kv` does not fit.
    """

    def __init__(
        self,
        path: Path,
        ctx_size: int | None = None,
        threads: int | None = None,
        parallel: int = 1,
        draft: Path | None = None,
        verbose: bool = False,
        lora: Path | None = None,
        kv: KVType = AS_USUAL,
    ) -> None:
        self.facts = read_facts(path)
        self.ctx_size = choose_context(self.facts, ctx_size)
        self._end_ids = frozenset() if self.facts.tokenizer is None else self.facts.tokenizer.eos_ids
        if self.facts.foreign is not None:
            progress.say(f"llama.cpp's own tokenizer is used: {self.facts.foreign.partition(';')[0]}.")
        self._server = LlamaServer(
            path,
            ctx_size=self.ctx_size,
            threads=threads,
            parallel=parallel,
            draft=draft,
            lora=lora,
            template=BUILT_IN_TEMPLATE,
            verbose=verbose,
            kv=kv,
        )

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a prompt: special tokens recognised, the model's BOS in front, once, and no EOS behind.

        Raises SmidgenError for one that is far too long for the context, without reading it.
        """
        tokenizer = self.facts.tokenizer
        if tokenizer is not None:
            return _prompt_ids(tokenizer, text, self.ctx_size)
        request = {"content": text, "add_special": True, "parse_special": True}
        ids: list[int] = self._server.call("/tokenize", request)["tokens"]
        bos_id, eos_id = (self.facts.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
        if self.facts.appends_eos and ids[-1:] == [eos_id]:
            ids = ids[:-1]
        return ids[1:] if ids[:2] == [bos_id] * 2 else ids

    def stream(
        self, prompt: str | Sequence[int], max_tokens: int | None = None, sampling: Sampling | None = None
    ) -> Reply:
        """Continue a prompt, text or token ids.

        max_tokens: None for no limit but the model's own end and the context.
        Raises SmidgenError if the prompt leaves no room in the context for at least one token.
        """
        ids = self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)
        room = self.ctx_size - len(ids)
        if not ids:
            raise SmidgenError("the prompt is empty; give at least one character.")
        if max_tokens is not None and max_tokens < 1:
            raise SmidgenError(f"a reply of {max_tokens} tokens is none; give 1 or more, or no limit.")
        if room < 1:
            raise self._too_long(len(ids))
        fits = max_tokens is not None and max_tokens <= room
        drawn = sampling or Sampling()
        request = drawn.as_request() | {"prompt": ids, "n_predict": max_tokens if fits else room}
        events = self._server.events(
            "/completion", request | {"stream": True, "return_tokens": True, "timings_per_token": True}
        )
        held_back = None if self.facts.tokenizer is None else partial(self._held_back, request)
        return Reply(events, len(ids), "max_tokens" if fits else "context", self._end_ids, drawn.stop, held_back)

    def chat(
        self,
        messages: Sequence[Message],
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        template: str | None = None,
    ) -> Reply:
        """Answer the last message of a conversation, in the model's own chat template.

        template: the name of one of its templates, where it has several.
        Raises Unsupported for a model without a template, SmidgenError for a template that it does not have and if the
        conversation does not fit the context.
        """
        return self.stream(self.chat_prompt(messages, template), max_tokens, sampling)

    def chat_prompt(self, messages: Sequence[Message], template: str | None = None) -> list[int]:
        """Token ids of a conversation up to where its next answer begins.

        A message that spells a control token has its letters, not the token: tokens come from the template alone.
        (Not where only llama.cpp knows the tokenizer.)  Raises as `chat`.
        """
        chosen = require_chat_template(self.facts, template)
        if self.facts.tokenizer is None:
            return self.tokenize(render_chat(chosen, messages))
        return conversation_ids(self.facts.tokenizer, chosen, messages, self.ctx_size)

    def takes_system_role(self, template: str | None = None) -> bool:
        """Whether the chat template has a place for a system message; `chat` puts it into the first message if not."""
        tokenizer = self.facts.tokenizer
        specials = {} if tokenizer is None else tokenizer.special_texts
        return takes_system_role(require_chat_template(self.facts, template), specials)

    def close(self) -> None:
        """Stop what is being written and free the model. Safe to call twice."""
        self._server.close()

    def _held_back(self, request: Mapping[str, Any], written: Sequence[Written], tokens: int) -> str:
        """The text of the last tokens of a reply, which a stream of llama.cpp's leaves out where a byte is missing.

        They are drawn once more, and are the same ones at temperature 0.
        """
        assert self.facts.tokenizer is not None
        ids = list(request["prompt"])
        for part in written:
            ids += self.facts.tokenizer.encode(part) if isinstance(part, str) else part
        if len(ids) + tokens > self.ctx_size:  # read anew, a text can have more tokens than it was written with
            return "\ufffd"
        return self._server.call("/completion", {**request, "prompt": ids, "n_predict": tokens})["content"]

    def _too_long(self, tokens: int) -> SmidgenError:
        wanted = tokens + 256
        if wanted <= self.facts.context_length:
            advice = f"shorten it or use --ctx-size {wanted}"
        else:
            advice = f"shorten it: this model allows --ctx-size {self.facts.context_length} at most"
        return SmidgenError(f"the prompt has {tokens} tokens: no room in a context of {self.ctx_size}; {advice}.")


def conversation_ids(
    tokenizer: Tokenizer, template: str, messages: Sequence[Message], context: int | None = None
) -> list[int]:
    """A conversation as the model reads it, up to where its next answer begins.

    template: the text of a chat template. Control tokens come from it alone: what people spell stays text.
    context: tokens; one that is far longer is not encoded, but a SmidgenError.
    """
    plain = [_with_plain_text(message, tokenizer) for message in messages]
    return _prompt_ids(tokenizer, render_chat(template, plain, tokenizer.special_texts), context, disarmed=True)


def _prompt_ids(tokenizer: Tokenizer, text: str, context: int | None, disarmed: bool = False) -> list[int]:
    """Raises SmidgenError for what cannot fit: to encode megabytes takes minutes."""
    if context is not None and (fewest := tokenizer.fewest_tokens(text)) > context:
        raise SmidgenError(
            f"the prompt has {fewest} tokens at least: no room in a context of {context}; shorten it, or use a larger "
            "--ctx-size where the model allows that."
        )
    return tokenizer.encode(text, add_bos=tokenizer.adds_bos, parse_special=True, disarmed=disarmed)


def _with_plain_text(message: Message, tokenizer: Tokenizer) -> Message:
    """The message with its text kept from becoming control tokens."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": tokenizer.disarm(content)}
    if isinstance(content, list | tuple):  # the parts of a message to a multimodal model
        parts = [
            {**part, "text": tokenizer.disarm(part["text"])} if isinstance(part, Mapping) and "text" in part else part
            for part in content
        ]
        return {**message, "content": parts}
    return message
