"""The tokenizer of a model in Hugging Face layout, as the GGUF metadata that the rest of smidgen reads, and back.

pipeline.py recognises the steps of a tokenizer.json, tokenizer_json.py reads that file and sentencepiece_model.py
SentencePiece's tokenizer.model, vocab_and_merges.py GPT-2's two files; settings.py has what tokenizer_config.json and
its neighbours add, layout.py lays the tokens out by id, read.py puts all of it together, and write.py makes such a
folder from GGUF metadata. kind.py says at a glance which kind it is. Torch-free.
"""

from smidgen.formats.hf.tokenizer.kind import tokenizer_kind
from smidgen.formats.hf.tokenizer.read import tokenizer_metadata
from smidgen.formats.hf.tokenizer.write import write_tokenizer

__all__ = ["tokenizer_kind", "tokenizer_metadata", "write_tokenizer"]
