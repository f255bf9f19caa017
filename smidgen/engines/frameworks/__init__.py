"""Models in formats of other frameworks, run by these themselves, so that what is measured is what people load.

Each framework runs in a process of its own (`process.py`), by a Python that has it (`environment.py`), and answers
token ids with logits (`scripts/`).
"""
