"""A sandbox for chat templates in which everything that runs is paid for from a budget."""

MOST_TEMPLATES = 32  # that a model may have
