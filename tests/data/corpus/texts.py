"""Documents that look like text: made of words, with and without repetition."""

import random

WORDS = (
    "river town letter morning window garden winter music bridge kitchen question answer summer stone paper silver "
    "mountain forest harbour candle market doctor teacher station journey evening shadow blanket corner pocket"
).split()
STOP_WORDS = "the of and to that with have be".split()


def essay(seed: int, words: int = 120) -> str:
    """English words in a random order: passes every rule."""
    chooser = random.Random(seed)
    lines, line = [], []
    for _ in range(words):
        line.append(chooser.choice(WORDS + STOP_WORDS * 3))
        if len(line) == 12:
            lines.append(" ".join(line) + f" {chooser.randrange(10**6)}.")
            line = []
    return "\n".join([*lines, " ".join(line)])


def changed(text: str, seed: int) -> str:
    """The same text with one of its words replaced."""
    words = text.split(" ")
    words[random.Random(seed).randrange(len(words))] = "otherwise"
    return " ".join(words)
