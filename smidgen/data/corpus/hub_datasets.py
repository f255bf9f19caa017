"""Data sets on the Hugging Face hub, read over the network row by row: `hf:org/name[:config][:split]`.

The `datasets` library reads HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE itself; with HF_HUB_OFFLINE=1 only what its cache
has is found. Data sets that bring code of their own are not run (the library has dropped them), and nothing is counted:
its request that reports a download is switched off.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from smidgen.data.corpus.extra import needed
from smidgen.errors import SmidgenError, printable

PREFIX = "hf:"
_PART = r"[A-Za-z0-9][\w.-]*"
_ADDRESS = re.compile(rf"hf:(?P<name>{_PART}(/{_PART})?)(:(?P<config>{_PART}))?(:(?P<split>[\w.-]+(\[[\w:%]*\])?))?")


@dataclass(frozen=True)
class Address:
    """A data set's name on the hub, which of its configurations (None: its only one), and which split."""

    name: str
    config: str | None
    split: str


def address_of(argument: str) -> Address:
    """Take an argument apart; one word after the name is the configuration. Raises SmidgenError for another form."""
    found = _ADDRESS.fullmatch(argument)
    if found is None:
        raise SmidgenError(
            f"{printable(argument)} names no data set. Write hf:org/name, with :config or :config:split behind it."
        )
    return Address(found["name"], found["config"], found["split"] or "train")


def rows(address: Address, field: str) -> Iterator[dict[str, Any]]:
    """The rows of a data set in its order. Raises SmidgenError where it cannot be opened or the network breaks."""
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    datasets: Any = needed("datasets")
    number = 0
    try:
        stream = datasets.load_dataset(address.name, address.config, split=address.split, streaming=True)
        if field in (stream.column_names or ()):
            stream = stream.select_columns([field])  # spares the others' bytes where the files are Parquet
        for row in stream:
            number += 1
            yield row
    except (OSError, ValueError, RuntimeError, LookupError) as error:  # all of the library's and the network's errors
        offline = " HF_HUB_OFFLINE is set: unset it to read from the hub." if os.environ.get("HF_HUB_OFFLINE") else ""
        where = f"after row {number}" if number else "at its beginning"
        reason = printable(" ".join(str(error).split()), 200)
        raise SmidgenError(f"{PREFIX}{address.name} cannot be read {where}: {reason}.{offline}") from error
