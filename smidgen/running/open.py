"""From what a person names to a loaded engine: the model, and what may be beside it."""

import os
from pathlib import Path

from smidgen.engines.llama_cpp.engine import LlamaCppEngine, read_facts, require_chat_template
from smidgen.formats.convert import gguf_of
from smidgen.formats.gguf.adapter import adapter_file
from smidgen.formats.hub.catalogue import ModelName
from smidgen.model.kept import AS_USUAL, KVType, kept_in_words
from smidgen.progress import say


def open_engine(
    model: ModelName, *, ctx_size: int | None = None, threads: int | None = None, draft: ModelName | None = None,
    lora: str | os.PathLike[str] | None = None, chatting: bool = False, template: str | None = None,
    verbose: bool = False, kv: KVType = AS_USUAL,
) -> LlamaCppEngine:  # fmt: skip
    """Load a model into llama.cpp; a folder in Hugging Face layout is converted into the cache first.

    draft: a smaller model of the same vocabulary that proposes tokens.  lora: an adapter, as `smidgen tune` writes it.
    chatting: refuse a model without a chat template, or without one of the name `template`, before it is loaded.
    verbose: llama.cpp's own log on stderr.  kv: how keys and values are kept; what that saves is said.
    Raises SmidgenError, BadFile and Unsupported as `LlamaCppEngine`.
    """
    path, helper = gguf_of(model), None if draft is None else gguf_of(draft)
    adapter = None if lora is None else adapter_file(Path(lora))
    if chatting:
        require_chat_template(read_facts(path), template)
    engine = LlamaCppEngine(path, ctx_size, threads, draft=helper, verbose=verbose, lora=adapter, kv=kv)
    if kv != AS_USUAL:
        say(kept_in_words(kv, engine.facts.kept, engine.ctx_size))
    return engine
