"""Batches in which the student's tokens have the teacher's tokens of the same text beside them.

A row is cut into documents, and these at control tokens, which are the same in both vocabularies. The text between is
tokenized anew by the teacher; wherever a token of both ends at one byte of it, both have read the same. A row may begin
in the middle of a word; then so does the teacher's. Bytes that are no text, as a model that writes may leave, are
byte tokens for both. Where the teacher cannot express the same bytes, it has no position from there to the next
control token. Positions that have neither a teacher nor a next token count no more.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from smidgen.data.text import padded
from smidgen.distill.batch import NO_TARGET, Batch, Batches
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.respelling import Respelling
from smidgen.shapes import Int

NO_POSITION = -1
_NO_TEXT = re.compile("([\udc80-\udcff])")  # how Python writes a byte that is not UTF-8


class Paired:
    """The same batches, each with `teacher_ids` and `teacher_positions`."""

    def __init__(self, batches: Batches, student: Tokenizer, teacher: Tokenizer, respelling: Respelling) -> None:
        self._batches, self._student, self._respelling = batches, student, respelling
        self._teacher = _Speller(teacher)

    def batch(self, step: int) -> Batch:
        """That of a step."""
        return self.pair(self._batches.batch(step))

    def pair(self, batch: Batch) -> Batch:
        """A batch of the student's tokens with the teacher's."""
        documents = batch.documents if batch.documents is not None else torch.zeros_like(batch.ids)
        rows = [
            self._row(ids[:last], targets[last - 1] if last else NO_TARGET, numbers[:last])
            for ids, targets, numbers, last in zip(
                batch.ids.tolist(), batch.targets.tolist(), documents.tolist(), _lengths(batch), strict=True
            )
        ]
        teacher_ids, _ = padded([ids for ids, _ in rows], max(1, *(len(ids) for ids, _ in rows)))
        positions = torch.full_like(batch.ids, NO_POSITION)
        for row, (_, found) in enumerate(rows):
            positions[row, : len(found)] = torch.from_numpy(found).to(positions)
        lost = (positions == NO_POSITION) & (batch.targets == NO_TARGET)
        return replace(
            batch, weights=batch.weights.masked_fill(lost, 0), teacher_ids=teacher_ids.to(batch.ids),
            teacher_positions=positions,
        )  # fmt: skip

    def _row(self, ids: list[int], last_target: int, documents: list[int]) -> tuple[list[int], Int[np.ndarray, " n"]]:
        """The teacher's tokens of a row, and at which of them it has read what the student has at each place."""
        read, spelled = len(ids), [*ids, last_target] if last_target != NO_TARGET else ids
        numbers = [*documents, documents[-1]] if last_target != NO_TARGET else documents
        tokens: list[int] = []
        positions = np.full(len(spelled), NO_POSITION, dtype=np.int64)
        for start, stop in self._stretches(spelled, numbers):
            if stop - start == 1 and spelled[start] in self._student.control:
                positions[start] = len(tokens)
                tokens.append(int(self._respelling.kept[spelled[start]]))
                continue
            pieces = [self._student.piece(token) for token in spelled[start:stop]]
            others, ends = self._teacher.spell(b"".join(pieces), self._student.decode(spelled[start:stop]))
            _, here, there = np.intersect1d(np.cumsum([len(piece) for piece in pieces]), ends, return_indices=True)
            positions[start + here] = len(tokens) + there
            tokens += others
        return tokens, positions[:read]

    def _stretches(self, ids: list[int], documents: list[int]) -> Iterator[tuple[int, int]]:
        """Where the control tokens stand, and the runs of text of one document between them."""
        start = 0
        for place, token in enumerate(ids):
            control = token in self._student.control
            if place > start and (control or documents[place] != documents[start]):
                yield start, place
                start = place
            if control:
                yield place, place + 1
                start = place + 1
        if start < len(ids):
            yield start, len(ids)


def _lengths(batch: Batch) -> list[int]:
    """Of each row: places up to the last one that counts."""
    places = torch.arange(1, batch.ids.shape[1] + 1, device=batch.ids.device)
    return ((batch.weights != 0) * places).amax(1).tolist()


class _Speller:
    """Bytes in a tokenizer's tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Of two tokens for one byte the later is the plain one, the earlier <0xNN>.
        pieces = ((tokenizer.piece(token), token) for token in range(len(tokenizer)))
        self._bytes = {piece: token for piece, token in pieces if len(piece) == 1}

    def spell(self, data: bytes, decoded: str) -> tuple[list[int], Int[np.ndarray, " tokens"]]:
        """Tokens, and after how many of the bytes each one ends, up to the first byte that cannot be expressed.

        decoded: the same as a text, without the spaces that some tokenizers put before it and after special tokens.
        """
        tokens: list[int] = []
        ends: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        done = 0
        parts = _NO_TEXT.split(data.decode("utf-8", "surrogateescape"))
        for number, part in enumerate(parts):
            wanted = part.encode("utf-8", "surrogateescape")
            texts = [decoded] if len(parts) == 1 else [part, part.removeprefix(" ")]
            found = self._text(texts, wanted) if number % 2 == 0 else self._byte(wanted)
            if found is None:
                break
            tokens += found
            sizes = np.cumsum([len(self._tokenizer.piece(token)) for token in found], dtype=np.int64)
            if len(sizes):  # less the space that some tokenizers put before a text that has none
                ends.append(done + sizes - (int(sizes[-1]) - len(wanted)))
            done += len(wanted)
        return tokens, np.concatenate(ends)

    def _text(self, texts: list[str], wanted: bytes) -> list[int] | None:
        """Tokens of one of the texts whose bytes are `wanted`, or a space more in front of them."""
        for spelled in (wanted, b" " + wanted):
            for text in texts:
                found = self._tokenizer.encode(text)
                if b"".join(self._tokenizer.piece(token) for token in found) == spelled:
                    return found
        return None

    def _byte(self, byte: bytes) -> list[int] | None:
        return [self._bytes[byte]] if byte in self._bytes else None
