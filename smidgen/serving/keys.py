"""Who may use a server: keys, each with a budget of tokens where its owner set one.

A file of keys is TOML:

    [[key]]
    name = "anna"              # for people and figures; never secret
    key = "a long secret"      # or sha256 = "…" of it
    tokens = 100000            # prompt and answer together; without it there is no limit
    per = "day"                # hour, day or month (UTC); without it the budget is for ever

What was used is kept in a file beside smidgen's cache, so that a budget outlives a restart.
"""

import hashlib
import hmac
import json
import re
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from smidgen.atomic import write_whole
from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.serving.refusals import Refusal

PERIODS = ("hour", "day", "month")
_LARGEST_FILE = 2**20  # bytes
_MOST_KEYS = 10_000
_FIELDS = {"name", "key", "sha256", "tokens", "per"}
_NAME = re.compile(r"[\w.@-]{1,64}")
_SENDABLE = re.compile(r"[!-~]{1,512}")
_SAVE_EVERY_S = 10.0


@dataclass(frozen=True)
class Key:
    """name: of its owner.  digest: SHA-256 of the secret.  tokens: its budget, in each period where there is one."""

    name: str
    digest: bytes
    tokens: int | None = None
    per: str | None = None

    @classmethod
    def of_secret(cls, secret: str, name: str = "key", tokens: int | None = None, per: str | None = None) -> "Key":
        """Raises SmidgenError for a secret that no client can send in a header."""
        if not _SENDABLE.fullmatch(secret):
            raise SmidgenError(
                "the API key has characters that cannot be sent; use letters, digits and signs without spaces."
            )
        return cls(name, hashlib.sha256(secret.encode()).digest(), tokens, per)


def read_keys(path: Path) -> list[Key]:
    """The keys in a file. Raises BadFile, which names the entry, for anything that is not as described above."""
    shown = printable(path)
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise BadFile(f"{shown} has more than {_LARGEST_FILE} bytes, too many for a file of keys.")
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFile(f"{shown} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFile(f"{shown} is no TOML ({printable(error, 80)}).") from error
    entries = found.get("key")
    if set(found) != {"key"} or not isinstance(entries, list) or not 0 < len(entries) <= _MOST_KEYS:
        raise BadFile(f"{shown} must have one or more entries [[key]], and nothing else.")
    keys = [_read_key(entry, f"{shown}, key {place + 1}") for place, entry in enumerate(entries)]
    for name in ("name", "digest"):
        seen = [getattr(key, name) for key in keys]
        if len(set(seen)) < len(seen):
            raise BadFile(f"{shown} has two entries of the same {'name' if name == 'name' else 'key'}.")
    return keys


def _read_key(entry: Any, where: str) -> Key:
    if not isinstance(entry, dict) or not set(entry) <= _FIELDS:
        raise BadFile(f"{where} may have {', '.join(sorted(_FIELDS))}, and nothing else.")
    name, tokens, per = entry.get("name"), entry.get("tokens"), entry.get("per")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadFile(f"{where} needs a name of letters, digits and . _ @ -, at most 64.")
    if tokens is not None and (type(tokens) is not int or not 0 < tokens < 2**53):
        raise BadFile(f"{where} ({name}): tokens must be a whole number above 0.")
    if per is not None and (per not in PERIODS or tokens is None):
        raise BadFile(f"{where} ({name}): per must be {', '.join(PERIODS)}, and goes with tokens.")
    secret, digest = entry.get("key"), entry.get("sha256")
    if (secret is None) == (digest is None):
        raise BadFile(f"{where} ({name}) needs either key or sha256.")
    if secret is None:
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise BadFile(f"{where} ({name}): sha256 must have 64 hexadecimal digits.")
        return Key(name, bytes.fromhex(digest), tokens, per)
    if not isinstance(secret, str):
        raise BadFile(f"{where} ({name}): key must be a text.")
    return Key.of_secret(secret, name, tokens, per)


def find_key(keys: Sequence[Key], secret: str) -> Key | None:
    """The key that was sent. Every key is compared, in constant time, whatever was found before."""
    sent = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, sent):
            found = key
    return found


@dataclass
class Budgets:
    """What each key has used in its present period.

    file: where that is kept; None keeps it in memory only.
    """

    file: Path | None = None
    _used: dict[str, tuple[str, int]] = field(default_factory=dict)  # key → period and tokens
    _saved_at: float = 0.0

    def __post_init__(self) -> None:
        if self.file is None:
            return
        try:
            kept = json.loads(self.file.read_text())
            self._used = {str(name): (str(period), int(tokens)) for name, (period, tokens) in kept.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise BadFile(
                f"{printable(self.file)}, which keeps what keys have used, is damaged; remove it to begin anew."
            ) from error

    def refuse_spent(self, key: Key | None) -> None:
        """Raises Refusal with status 429 for a key whose budget is used up. An answer under way may exceed it."""
        if key is None or key.tokens is None:
            return
        used = self.used(key)
        if used < key.tokens:
            return
        wait = _seconds_left(key.per)
        until = f"a new {key.per} begins in {wait:.0f} s" if wait is not None else "there will be no other"
        raise Refusal(
            f"the key of {key.name} has used {used} of its {key.tokens} tokens"
            f"{f' of this {key.per}' if key.per else ''}; {until}.",
            429, code="insufficient_quota", kind="insufficient_quota", retry_after=wait,
        )  # fmt: skip

    def used(self, key: Key) -> int:
        """Tokens that a key has used in its present period."""
        period, tokens = self._used.get(key.name, ("", 0))
        return tokens if period == _period(key.per) else 0

    def charge(self, key: Key | None, tokens: int) -> None:
        """Count what a request used."""
        if key is None or key.tokens is None or tokens <= 0:
            return
        self._used[key.name] = (_period(key.per), self.used(key) + tokens)
        if time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Keep what was used. A disk that is full loses the last of it, not the server."""
        self._saved_at = time.monotonic()
        if self.file is None or not self._used:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, json.dumps(self._used))
        except (OSError, SmidgenError):
            pass


def _period(per: str | None) -> str:
    """The present one, such as `2026-11-29` of a budget per day."""
    form = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m", None: "ever"}[per]
    return datetime.now(UTC).strftime(form)


def _seconds_left(per: str | None) -> float | None:
    now = datetime.now(UTC)
    start = now.replace(minute=0, second=0, microsecond=0)
    if per is None:
        return None
    if per == "hour":
        return (start + timedelta(hours=1) - now).total_seconds()
    start = start.replace(hour=0)
    if per == "day":
        return (start + timedelta(days=1) - now).total_seconds()
    return ((start.replace(day=1) + timedelta(days=32)).replace(day=1) - now).total_seconds()
