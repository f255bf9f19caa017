"""Programs for the Pythons of other frameworks: each needs its framework, numpy and `wire.py`, and nothing of ours."""
