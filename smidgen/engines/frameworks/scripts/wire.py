"""How a framework's program and smidgen talk: token ids come in, logits go out, in binary with bounds on both sides.

All numbers are little-endian; a header is four letters and three uint32.

    → `here`, 0, 0, size; JSON               when the model is loaded: "runtime", {package: version}, "vocabulary", and
                                             "context" where the folder does not say how long a text may be
    ← `read`, afresh, count, wanted; ids     uint32 each. afresh: 1 begins a text, 0 goes on with it. The last `wanted`
                                             of them are answered
    → `give`, wanted, vocabulary, 0; logits  float32, position by position
    → `fail`, 0, 0, size; text               in place of either, and the program ends

The end of standard input ends the program, and so does the end of the one that started it, in the midst of a
computation too. What a framework prints goes to standard error.
"""

import json
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import BinaryIO, Protocol

import numpy as np

HEADER = struct.Struct("<4sIII")
MOST_IDS, MOST_TEXT = 2**20, 2**16
_LOOK_EVERY_S = 1


class Model(Protocol):
    """A loaded model with the text that it has read. runtime: packages whose versions decide what it computes."""

    runtime: tuple[str, ...]
    vocabulary: int

    def begin(self) -> None:
        """Forget what was read."""
        ...

    def read(self, ids: list[int], wanted: int) -> np.ndarray:
        """Go on with the text: logits after each of the last `wanted` of these tokens, [wanted, vocabulary]."""
        ...


def serve(load: Callable[[str], Model]) -> None:
    """Load the model in the folder that the command line names, and answer until nobody asks any more."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    try:
        model = load(sys.argv[1])
        told = {"runtime": {name: _version(name) for name in model.runtime}, "vocabulary": model.vocabulary}
        if (context := getattr(model, "context", None)) is not None:
            told["context"] = context
        _send_text(answers, b"here", json.dumps(told))
        while header := requests.read(HEADER.size):
            _answer(model, header, requests, answers)
    except BaseException as error:
        _send_text(answers, b"fail", f"{type(error).__name__}: {' '.join(str(error).split())}")
        raise


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os._exit(1)


def _answer(model: Model, header: bytes, requests: BinaryIO, answers: BinaryIO) -> None:
    word, afresh, count, wanted = HEADER.unpack(header)
    if word != b"read" or not 0 < wanted <= count <= MOST_IDS:
        raise ValueError(f"a request that means nothing: {word!r}, {count} ids, {wanted} wanted")
    ids = np.frombuffer(requests.read(4 * count), "<u4")
    if len(ids) < count or ids.max() >= model.vocabulary:
        raise ValueError(f"{len(ids)} of {count} token ids came, below {model.vocabulary} each")
    if afresh:
        model.begin()
    logits = np.ascontiguousarray(model.read(ids.tolist(), wanted), "<f4")
    if logits.shape != (wanted, model.vocabulary):
        raise ValueError(f"the framework gave logits of shape {logits.shape} for {wanted} positions")
    answers.write(HEADER.pack(b"give", wanted, model.vocabulary, 0))
    answers.write(logits.data)
    answers.flush()


def _send_text(answers: BinaryIO, word: bytes, text: str) -> None:
    data = text.encode("utf-8", "replace")[:MOST_TEXT]
    answers.write(HEADER.pack(word, 0, 0, len(data)) + data)
    answers.flush()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
