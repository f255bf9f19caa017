"""As much of a terminal as the tests need: lines that scroll away, and a cursor that moves up and erases."""

import re

_CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class Screen:
    """What a person sees, with all that has scrolled away."""

    def __init__(self, rows: int, columns: int) -> None:
        self._rows, self._columns = rows, columns
        self._lines = [""]
        self._row = self._column = 0

    def write(self, output: str) -> None:
        """Carry out what a program has written."""
        place = 0
        for code in _CODE.finditer(output):
            self._print(output[place : code.start()])
            self._carry_out(code[1], code[2])
            place = code.end()
        self._print(output[place:])

    def text(self) -> list[str]:
        """All lines from the first one on, without blanks at their ends."""
        return [line.rstrip() for line in self._lines]

    def _print(self, text: str) -> None:
        for character in text:
            if character == "\n":
                self._row, self._column = self._row + 1, 0
                self._lines += [""] * (self._row + 1 - len(self._lines))
            elif character == "\r":
                self._column = 0
            else:
                if self._column >= self._columns:
                    self._print("\n")
                line = self._lines[self._row].ljust(self._column)
                self._lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
                self._column += 1

    def _carry_out(self, numbers: str, letter: str) -> None:
        count = int(numbers or 1) if numbers.isdigit() or not numbers else 0
        if letter == "A":  # what has scrolled away is out of reach
            self._row = max(self._row - count, len(self._lines) - self._rows, 0)
        elif letter == "K" and numbers in ("2", ""):
            self._lines[self._row] = "" if numbers == "2" else self._lines[self._row][: self._column]
