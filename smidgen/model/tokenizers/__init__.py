"""The parts behind `smidgen.model.tokenizer.Tokenizer`.

vocabulary.py reads and checks the metadata, special_tokens.py cuts text at special tokens, and
sentencepiece.py and byte_level.py turn the stretches between them into token ids. subset.py makes a
tokenizer with fewer tokens.
"""
