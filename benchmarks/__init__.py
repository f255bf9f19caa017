"""Comparisons with other tools and with our own past, each one command; results are committed in results/."""
