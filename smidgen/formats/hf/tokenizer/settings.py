"""What the files beside tokenizer.json and tokenizer.model say: which token has which role, and the chat templates.

tokenizer_config.json comes first, then special_tokens_map.json, added_tokens.json, config.json and
generation_config.json. A template in chat_template.jinja goes before one in tokenizer_config.json, as in transformers.
Templates are only carried here; they run in the sandbox of `smidgen.model.chat` and nowhere else.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.errors import BadFile, printable
from smidgen.formats.hf.folder import member, read_json
from smidgen.formats.hf.tokenizer.tokenizer_json import AddedToken, added_token, token_id
from smidgen.model.chat import LONGEST_TEMPLATE

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
MOST_TEMPLATES = 32
DEFAULT_TEMPLATE = "default"


@dataclass(frozen=True)
class Settings:
    """roles: texts of the tokens named bos_token and so on. ids: the same by id, from the model's own configs.
    end_ids: all ids at which generation_config.json stops. added: further tokens by text. add_bos: None where
    nothing is said. legacy: what transformers calls the space prefix before every stretch. templates: by name."""

    roles: dict[str, str]
    ids: dict[str, int]
    end_ids: list[int]
    added: list[AddedToken]
    add_bos: bool | None
    legacy: bool
    add_prefix_space: bool | None
    templates: dict[str, str]


def read_settings(folder: Path) -> Settings:
    """Read all of them; each file may be missing. Raises BadFile for one of another shape than transformers writes."""
    config = _object(folder, "tokenizer_config.json")
    generation, model = _object(folder, "generation_config.json"), _object(folder, "config.json")
    ends = _ids(generation.get("eos_token_id")) or _ids(model.get("eos_token_id"))
    ids = {
        role: found[0]
        for role in ROLES
        if (found := _ids(model.get(f"{role}_id")) or _ids(generation.get(f"{role}_id")))
    }
    return Settings(
        roles=_roles(_object(folder, "special_tokens_map.json")) | _roles(config),
        ids=ids,
        end_ids=ends,
        added=_added(config, _object(folder, "added_tokens.json")),
        add_bos=_flag(config, "add_bos_token"),
        legacy=_flag(config, "legacy") is not False,
        add_prefix_space=_flag(config, "add_prefix_space"),
        templates=_templates(folder, config),
    )


def _object(folder: Path, name: str) -> dict[str, Any]:
    path = member(folder, name)
    value = read_json(path) if path else {}
    if not isinstance(value, dict):
        raise BadFile(f"{name} is not a JSON object; download or copy the model again.")
    return value


def _roles(settings: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the special tokens, each a string or an object with its content."""
    found: dict[str, str] = {}
    for role in ROLES:
        value = settings.get(role)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text:
            found[role] = text
        elif text is not None and text != "":
            raise BadFile(f"{role} in the tokenizer's settings is {printable(text, 40)}, which is not a text.")
    return found


def _added(config: Mapping[str, Any], plain: Mapping[str, Any]) -> list[AddedToken]:
    """added_tokens.json maps texts to ids; tokenizer_config.json's added_tokens_decoder, ids to descriptions."""
    decoder = config.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict):
        raise BadFile("tokenizer_config.json: added_tokens_decoder is not an object; download or copy the file again.")
    found = {text: AddedToken(token_id(value, text), text, special=False) for text, value in plain.items() if text}
    for key, entry in decoder.items():
        if not re.fullmatch("[0-9]{1,9}", key):
            raise BadFile(f"tokenizer_config.json: added_tokens_decoder names {printable(key, 40)!r}, which is no id.")
        token = added_token(entry, int(key))
        if found.get(token.text, token).id != token.id:
            raise BadFile(f"added_tokens.json and tokenizer_config.json give {printable(token.text, 40)!r} two ids.")
        found[token.text] = token
    return list(found.values())


def _flag(config: Mapping[str, Any], name: str) -> bool | None:
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadFile(f"tokenizer_config.json: {name} is {printable(value, 40)}, which is not true or false.")
    return value


def _ids(value: Any) -> list[int]:
    """An id or a list of ids as configs have them; what is neither counts as nothing said."""
    listed = value if isinstance(value, list) else [value]
    return [item for item in listed if isinstance(item, int) and not isinstance(item, bool) and item >= 0]


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; the one that is used is called "default"."""
    path = member(folder, "chat_template.jinja")
    if path:
        with path.open("rb") as file:
            raw = file.read(4 * LONGEST_TEMPLATE + 1)
        try:
            return _checked({DEFAULT_TEMPLATE: raw.decode()})
        except UnicodeDecodeError as error:
            raise BadFile("chat_template.jinja is not UTF-8 text; download or copy the file again.") from error
    found = _object(folder, "chat_template.json").get("chat_template") or config.get("chat_template")
    if found is None or found == "":
        return {}
    if isinstance(found, str):
        return _checked({DEFAULT_TEMPLATE: found})
    if not isinstance(found, list) or len(found) > MOST_TEMPLATES:
        raise BadFile(f"the chat template is neither a text nor a list of at most {MOST_TEMPLATES} templates.")
    templates: dict[str, str] = {}
    for entry in found:
        name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str) or not 0 < len(name) <= 64 or name in templates:
            raise BadFile("the list of chat templates holds one without a text or a name of its own.")
        templates[name] = template
    return _checked(templates)


def _checked(templates: dict[str, str]) -> dict[str, str]:
    longest = max(len(template) for template in templates.values()) if templates else 0
    if longest > LONGEST_TEMPLATE:
        raise BadFile(f"the chat template has more than {LONGEST_TEMPLATE} characters, which no real one needs.")
    return templates
