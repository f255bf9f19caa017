"""What the files beside tokenizer.json and tokenizer.model say: which token has which role, and the chat templates.

tokenizer_config.json comes first, then special_tokens_map.json, added_tokens.json, config.json and
generation_config.json. Templates in files of their own go before those in tokenizer_config.json, as in transformers.
Templates are only carried here; they run in the sandbox of `smidgen.model.chat` and nowhere else.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.errors import BadFile, printable
from smidgen.formats.hf.folder import (
    TEMPLATE_ENDING,
    TEMPLATE_FILE,
    TEMPLATES,
    member,
    read_json,
    template_files,
)
from smidgen.formats.hf.tokenizer.tokenizer_json import AddedToken, added_token, token_id
from smidgen.model.chat import DEFAULT_TEMPLATE, LONGEST_TEMPLATE
from smidgen.model.templates import MOST_TEMPLATES

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
_SPECIAL = ("additional_special_tokens", "extra_special_tokens")  # until and since transformers 5
LONGEST_TEMPLATE_NAME = 64


@dataclass(frozen=True)
class Settings:
    """roles: texts of the tokens named bos_token and so on. ids: the same by id, from the model's own configs, all
    that they name.
    end_ids: all ids at which generation_config.json stops. added: further tokens by text. add_bos: None where
    nothing is said. legacy: what transformers calls the space prefix before every stretch. templates: by name.
    special: texts that are special tokens without a role. tokenizer_class, model_type: names of transformers' classes,
    None where nothing is said."""

    roles: dict[str, str]
    ids: dict[str, list[int]]
    end_ids: list[int]
    added: list[AddedToken]
    add_bos: bool | None
    legacy: bool
    add_prefix_space: bool | None
    templates: dict[str, str]
    special: list[str]
    tokenizer_class: str | None
    model_type: str | None


def read_settings(folder: Path) -> Settings:
    """Read all of them; each file may be missing. Raises BadFile for one of another shape than transformers writes."""
    config = _object(folder, "tokenizer_config.json")
    generation, model = _object(folder, "generation_config.json"), _object(folder, "config.json")
    ends = _ids(generation.get("eos_token_id")) or _ids(model.get("eos_token_id"))
    ids = {role: [*_ids(model.get(f"{role}_id")), *_ids(generation.get(f"{role}_id"))] for role in ROLES}
    named = _object(folder, "special_tokens_map.json")
    return Settings(
        roles=_roles(named) | _roles(config),
        ids=ids,
        end_ids=ends,
        added=_added(config, _object(folder, "added_tokens.json")),
        add_bos=_flag(config, "add_bos_token"),
        legacy=_flag(config, "legacy") is not False,
        add_prefix_space=_flag(config, "add_prefix_space"),
        templates=_templates(folder, config),
        special=[text for file in (named, config) for key in _SPECIAL for text in _texts(file.get(key))],
        tokenizer_class=_text(config.get("tokenizer_class")) or _text(model.get("tokenizer_class")),
        model_type=_text(model.get("model_type")),
    )


def templates_in(folder: Path) -> dict[str, str]:
    """The chat templates of a folder by name, "default" for the one that is used; nothing else of it is read.

    Raises BadFile where they are damaged.
    """
    return _templates(folder, _object(folder, "tokenizer_config.json"))


def _object(folder: Path, name: str) -> dict[str, Any]:
    path = member(folder, name)
    value = read_json(path) if path else {}
    if not isinstance(value, dict):
        raise BadFile(f"{name} is not a JSON object; download or copy the model again.")
    return value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(listed: Any) -> list[str]:
    """The texts of tokens in a list, or by name in an object; each a string or an object with its content."""
    values = list(listed.values()) if isinstance(listed, dict) else listed if isinstance(listed, list) else []
    texts = [_text(value.get("content") if isinstance(value, dict) else value) for value in values]
    return [text for text in texts if text is not None]


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
    """Chat templates by name; the one that is used is called "default".

    As transformers' tokenizers read them: where there are files of templates, these alone count. chat_template.json is
    for processors, and tokenizers do not read it; here it counts where nothing else is said.
    """
    files = {} if member(folder, TEMPLATE_FILE) is None else {DEFAULT_TEMPLATE: TEMPLATE_FILE}
    for file in template_files(folder):
        files[file.removeprefix(f"{TEMPLATES}/").removesuffix(TEMPLATE_ENDING)] = file
    if files:
        return _checked({name: _template(folder, file) for name, file in files.items()})
    found = config.get("chat_template") or _object(folder, "chat_template.json").get("chat_template")
    if found is None or found == "":
        return {}
    if isinstance(found, str):
        return _checked({DEFAULT_TEMPLATE: found})
    entries = [{"name": name, "template": text} for name, text in found.items()] if isinstance(found, dict) else found
    if not isinstance(entries, list) or len(entries) > MOST_TEMPLATES:
        raise BadFile(f"the chat template is neither a text nor a list of at most {MOST_TEMPLATES} templates.")
    templates: dict[str, str] = {}
    for entry in entries:
        name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str) or name in templates:
            raise BadFile("the list of chat templates holds one without a text or a name of its own.")
        templates[name] = template
    return _checked(templates)


def _template(folder: Path, name: str) -> str:
    path = member(folder, name)
    if path is None:
        raise BadFile(f"{printable(name)} was there and is gone; download or copy the model again.")
    with path.open("rb") as file:
        raw = file.read(4 * LONGEST_TEMPLATE + 1)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadFile(f"{printable(name)} is not UTF-8 text; download or copy the file again.") from error


def _checked(templates: dict[str, str]) -> dict[str, str]:
    for name, template in templates.items():
        if not 0 < len(name) <= LONGEST_TEMPLATE_NAME or not name.isprintable():
            raise BadFile(f"a chat template is named {printable(name, 64)!r}, which is no name; get the model anew.")
        if len(template) > LONGEST_TEMPLATE:
            raise BadFile(f"the chat template has more than {LONGEST_TEMPLATE} characters, which no real one needs.")
    return templates
