"""A model that is to be served: checked before any engine sees it, and what people may be told of it."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from smidgen.engines.llama_cpp.engine import Facts, choose_context, read_facts, require_chat_template
from smidgen.engines.llama_cpp.server import BUILT_IN_TEMPLATE, LlamaServer
from smidgen.errors import Unsupported
from smidgen.formats.convert import gguf_of
from smidgen.formats.gguf.adapter import adapter_file
from smidgen.formats.gguf.contents import parts_of
from smidgen.formats.gguf.kept import refuse_kv_of
from smidgen.formats.hub.catalogue import ModelName, origin_of
from smidgen.formats.hub.notices import stated_licence
from smidgen.formats.hub.origin import Origin
from smidgen.model.chat import chat_templates, refuse_hostile_template
from smidgen.model.kept import AS_USUAL, KVType, cache_bytes

_WORKING_BYTES = 150_000_000  # of an engine beside weights and cache: buffers, the program itself
_BATCH_BYTES, _SHORTEST_BATCH = 800_000_000, 512  # of logits of one batch, and tokens in it


@dataclass(frozen=True)
class Hosted:
    """A checked model.

    name: what clients call it.  path: its GGUF file.
    template: the name of the chat template in use, None for the default.
    context: tokens of each of `parallel` requests.  embeds: its engine makes vectors of texts instead of answers.
    kv: how keys and values are kept.
    """

    name: str
    path: Path
    origin: Origin
    facts: Facts
    context: int
    parallel: int
    template: str | None = None
    draft: Path | None = None
    lora: Path | None = None
    embeds: bool = False
    kv: KVType = AS_USUAL

    @classmethod
    def check(
        cls, model: ModelName, *, ctx_size: int | None = None, parallel: int = 1, template: str | None = None,
        draft: ModelName | None = None, lora: str | os.PathLike[str] | None = None, kv: KVType = AS_USUAL,
    ) -> "Hosted":  # fmt: skip
        """Raises SmidgenError for a model that cannot be served, without loading it."""
        origin = origin_of(model)
        path = gguf_of(origin)
        facts = read_facts(path)
        refuse_for_serving(facts)
        refuse_kv_of(path, kv)
        for text in chat_templates(facts.metadata).values():
            refuse_hostile_template(text)
        if facts.has_chat_template:
            require_chat_template(facts, template)
        return cls(
            origin.name, path, origin, facts, choose_context(facts, ctx_size), parallel, template,
            None if draft is None else gguf_of(draft), None if lora is None else adapter_file(Path(lora)), kv=kv,
        )  # fmt: skip

    @property
    def key(self) -> str:
        """Of its engine, among those of one server."""
        return f"{self.name}\0embeds" if self.embeds else self.name

    def for_embeddings(self) -> "Hosted":
        """The same model with an engine that makes vectors of texts.

        A text is read in one batch, for whose logits llama.cpp takes memory: that bounds its length.
        """
        vocabulary = 1 if self.facts.tokenizer is None else len(self.facts.tokenizer)
        longest = max(_SHORTEST_BATCH, _BATCH_BYTES // (4 * vocabulary))
        return replace(self, draft=None, parallel=1, embeds=True, context=min(self.context, longest))

    def start(self, threads: int | None) -> LlamaServer:
        """Its engine, loaded."""
        return LlamaServer(
            self.path, ctx_size=self.context, threads=threads, parallel=self.parallel, name=self.name,
            draft=self.draft, lora=self.lora, template=self.engine_template(), embeddings=self.embeds,
            kv=self.kv,
        )  # fmt: skip

    def engine_template(self) -> str | None:
        """What llama.cpp shall render with: None for the templates of the file."""
        if not self.facts.has_chat_template:
            return BUILT_IN_TEMPLATE
        chosen = require_chat_template(self.facts, self.template)
        # With the file's own default, llama.cpp also takes the file's template for tools, where there is one.
        default = self.facts.metadata.get("tokenizer.chat_template")
        return None if self.template is None and default == chosen else chosen

    @cached_property
    def bytes(self) -> int:
        """Memory that its engine is expected to take: weights, keys and values, and buffers."""
        files = [*parts_of(self.path), *([] if self.draft is None else parts_of(self.draft))]
        weights = sum(file.stat().st_size for file in files)
        return weights + self.parallel * cache_bytes(self.facts.kept, self.context, self.kv) + _WORKING_BYTES

    @cached_property
    def longest_text(self) -> int:
        """Bytes: more cannot fit the context."""
        tokenizer = self.facts.tokenizer
        longest = 1 if tokenizer is None else max(len(tokenizer.piece(token)) for token in range(len(tokenizer)))
        return (self.context + 1) * max(longest, 1)

    @cached_property
    def card_folder(self) -> Path:
        """Where its report card would be."""
        return self.path.parent

    def as_object(self) -> dict[str, Any]:
        """Its entry in the list of models, as OpenAI's, with what people ask for first."""
        licence = stated_licence(self.facts.metadata, self.origin.folder)
        return {
            "id": self.name,
            "object": "model",
            "created": int(self.path.stat().st_mtime),
            "owned_by": "smidgen",
            "bytes": sum(file.stat().st_size for file in parts_of(self.path)),
            "context_length": self.context,
            "trained_context_length": self.facts.context_length,
            "licence": self.origin.licence or str(licence) or None,
            "chat": self.facts.has_chat_template,
            **({} if self.kv == AS_USUAL else {"kv": self.kv}),
        }


def refuse_for_serving(facts: Facts) -> None:
    """Raises Unsupported for a model that llama.cpp's server would answer wrongly or might not survive."""
    if facts.appends_eos:
        raise Unsupported(
            "this file asks for an end-of-text token behind each prompt (tokenizer.ggml.add_eos_token), so that chats "
            "would get empty answers; `smidgen export MODEL --to gguf -o FILE` writes one without."
        )
