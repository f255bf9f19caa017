"""How long a text may be in an exported model. Torch-free."""

from smidgen.model.config import ModelConfig

#: Tokens of a prompt that are read together, by one graph each.
AT_ONCE = (128, 16)
_MOST_TOKENS = 2048  # room for their keys and values is taken at the beginning, and looked through for each token


def most_tokens(config: ModelConfig) -> int:
    """How many tokens of a text, prompt and answer together, the graphs read."""
    return min(config.context_length, _MOST_TOKENS)
