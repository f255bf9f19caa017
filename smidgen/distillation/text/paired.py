"""Batches in which the student's tokens have the teacher's tokens of the same text beside them.

A row is cut into documents, and these at control tokens, each of which is one of the teacher's. The text between is
tokenized anew by the teacher; wherever a token of both ends at one byte of it, both have read the same. A row may begin
in the middle of a word; then so does the teacher's. Bytes that are no text, as a model that writes may leave, are
byte tokens for both. Where the teacher cannot express the same bytes, it has no position from there to the next
control token. Positions that have neither a teacher nor a next token count no more.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from smidgen.data.text import padded
from smidgen.distillation.text.batch import NO_TARGET, Batch, Batches
from smidgen.errors import SmidgenError, printable
from smidgen.model.tokenizer import Tokenizer
from smidgen.model.tokenizers.respelling import Respelling
from smidgen.shapes import Int

NO_POSITION = -1
_NO_TEXT = re.compile("([\udc80-\udcff])")  # how Python writes a byte that is not UTF-8


class Paired:
    """The same batches, each with `teacher_ids` and `teacher_positions`.

    controls: the student's control tokens → what the teacher reads there, None for nothing. Others are refused.
    opening: what the teacher reads before every document, unless it begins with just that.
    """

    def __init__(
        self,
        batches: Batches,
        student: Tokenizer,
        teacher: Tokenizer,
        controls: Mapping[int, int | None],
        opening: int | None = None,
    ) -> None:
        self._batches, self._student, self._controls, self._opening = batches, student, controls, opening
        self._teacher = _Speller(teacher)

    @classmethod
    def respelled(cls, batches: Batches, student: Tokenizer, teacher: Tokenizer, respelling: Respelling) -> "Paired":
        """For a student whose vocabulary is a part of the teacher's."""
        return cls(batches, student, teacher, {token: int(respelling.kept[token]) for token in student.control})

    def batch(self, step: int) -> Batch:
        """That of a step."""
        return self.pair(self._batches.batch(step))

    def pair(self, batch: Batch) -> Batch:
        """A batch of the student's tokens with the teacher's."""
        rows = [
            self._row(ids[:last], targets[last - 1] if last else NO_TARGET, numbers[:last], batch.name)
            for ids, targets, numbers, last in zip(
                batch.ids.tolist(), batch.targets.tolist(), batch.documents.tolist(), _lengths(batch), strict=True
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

    def _row(
        self, ids: list[int], last_target: int, documents: list[int], name: str
    ) -> tuple[list[int], Int[np.ndarray, " n"]]:
        """The teacher's tokens of a row, and at which of them it has read what the student has at each place."""
        read, spelled = len(ids), [*ids, last_target] if last_target != NO_TARGET else ids
        numbers = [*documents, documents[-1]] if last_target != NO_TARGET else documents
        tokens: list[int] = []
        positions = np.full(len(spelled), NO_POSITION, dtype=np.int64)
        for start, stop in self._stretches(spelled, numbers):
            begins = start == 0 or numbers[start] != numbers[start - 1]
            control = self._counterpart(spelled[start], name) if spelled[start] in self._student.control else None
            if begins and self._opening is not None and control != self._opening:
                tokens.append(self._opening)
            if control is not None:
                positions[start] = len(tokens)
                tokens.append(control)
            elif spelled[start] not in self._student.control:
                others, ends = self._teacher.spell(*self._text(spelled[start:stop]))
                _, here, there = np.intersect1d(self._ends(spelled[start:stop]), ends, return_indices=True)
                positions[start + here] = len(tokens) + there
                tokens += others
        return tokens, positions[:read]

    def _counterpart(self, control: int, name: str) -> int | None:
        if control not in self._controls:
            where = f" in {printable(name)}" if name else ""
            raise SmidgenError(
                f"The teacher has none like the control token {printable(self._student.token_text(control))}{where}, "
                "and so cannot read such a text. Take plain text."
            )
        return self._controls[control]

    def _text(self, ids: list[int]) -> tuple[bytes, str]:
        """The bytes of tokens, and the same as a text."""
        return b"".join(self._student.piece(token) for token in ids), self._student.decode(ids)

    def _ends(self, ids: list[int]) -> Int[np.ndarray, " n"]:
        """After how many of the bytes each token ends."""
        return np.cumsum([len(self._student.piece(token)) for token in ids])

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
            if len(sizes):  # less the space that only one of the two tokenizers puts before a text
                ends.append(done + sizes - (int(sizes[-1]) - len(wanted)))
            done += len(wanted)
        return tokens, np.concatenate(ends)

    def _text(self, texts: list[str], wanted: bytes) -> list[int] | None:
        """Tokens of one of the texts whose bytes are `wanted`, but for a space in front of them."""
        for spelled in (wanted, b" " + wanted, wanted.removeprefix(b" ")):
            for text in texts:
                found = self._tokenizer.encode(text)
                if b"".join(self._tokenizer.piece(token) for token in found) == spelled:
                    return found
        return None

    def _byte(self, byte: bytes) -> list[int] | None:
        return [self._bytes[byte]] if byte in self._bytes else None
