"""Which of several models do people (or a judge model) prefer? See arena.py."""
