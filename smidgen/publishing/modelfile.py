"""`Modelfile`: how Ollama makes a model of model.gguf: chat template, end tokens, context, licence. Torch-free.

The form is Ollama's (https://docs.ollama.com/modelfile). It has templates of its own, in Go's language, and no Jinja.
Without TEMPLATE it compares the file's template with those that it knows, takes one that is nearly the same with all
its differences, and says so in one line; else Ollama 0.30 and later runs the file's own, and earlier versions hand on
bare text. So TEMPLATE is written wherever it can be written exactly, and where it cannot, the file says what happens.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smidgen.atomic import write_whole
from smidgen.errors import SmidgenError
from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.hub.origin import MODEL_FILE
from smidgen.model.chat import chat_template, chat_templates
from smidgen.model.tokenizer import Tokenizer
from smidgen.publishing.licence import Licensed
from smidgen.publishing.turns import NotFixed, Turns

MODELFILE = "Modelfile"
_CONTEXT = 4096  # tokens at most, as of `smidgen serve`: more takes more memory, and a person may set it
_QUOTES = '"""'
_BARE = (
    "# The model has no chat template: it continues text.",
    f"TEMPLATE {_QUOTES}{{{{ .Prompt }}}}{_QUOTES}",
)


def write_modelfile(output: Path, licences: Sequence[Licensed]) -> None:
    """Write it beside `output/model.gguf`. licences: of all models whose terms go along."""
    with GGUFFile.open(output / MODEL_FILE) as file:
        write_whole(output / MODELFILE, modelfile(file.metadata, _licences(output, licences)))


def modelfile(metadata: Mapping[str, Any], licences: Sequence[str]) -> str:
    """The whole file, for a model with this GGUF metadata. licences: their texts."""
    lines = ["# For Ollama, in this folder:  ollama create my-model && ollama run my-model", f"FROM ./{MODEL_FILE}", ""]
    lines += [*_template(metadata), ""] if chat_templates(metadata) else [*_BARE, ""]
    trained = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    if isinstance(trained, int) and trained > 0:
        lines += [f"# Tokens of context. The model was made for {trained}; more takes more memory."]
        lines += [f"PARAMETER num_ctx {min(trained, _CONTEXT)}", ""]
    for text in licences:
        lines += [f"LICENSE {_QUOTES}{text}{_QUOTES}", ""]
    return "\n".join(lines)


def _template(metadata: Mapping[str, Any]) -> list[str]:
    """TEMPLATE, or why there is none, and the end tokens."""
    try:
        template = chat_template(metadata)
    except SmidgenError:
        return _without("it has several, and none is the default")
    tokenizer = Tokenizer.from_gguf(metadata)
    begins_with = tokenizer.special_texts.get("bos_token", "") if tokenizer.adds_bos else ""
    try:
        turns = Turns.of(template, tokenizer.special_texts, begins_with)
    except NotFixed as error:
        lines = _without(str(error))
    else:
        lines = ["# What the chat template in model.gguf writes, as Ollama's own template."]
        if turns.trims:
            lines.append("# (That one also takes blanks and line ends from both ends of each message.)")
        if "tools" in template:
            lines.append("# Tools are not in it: Ollama 0.30 and later takes the one in model.gguf for them.")
        lines.append(f"TEMPLATE {_QUOTES}{_in_go(turns)}{_QUOTES}")
    ends = {tokenizer.token_text(token): token for token in sorted(tokenizer.eos_ids)}
    stops = [text for text, token in ends.items() if token == tokenizer.eos_id or text in template]
    return [*lines, "", *(f'PARAMETER stop "{text}"' for text in stops if text.isprintable() and '"' not in text)]


def _without(why: str) -> list[str]:
    return [
        f"# The chat template in model.gguf cannot be written as Ollama's own: {' '.join(why.split())}.",
        "# Ollama 0.30 and later reads it from model.gguf, unless `ollama create` says that it uses a template that it",
        "# detected; OLLAMA_GO_TEMPLATE=0, set for `ollama serve`, turns that off. Earlier versions hand on bare text.",
    ]


def _in_go(turns: Turns) -> str:
    """As a Go template over all messages. Ollama merges messages of one role that follow each other."""
    text = {meeting: _go_text(found) for meeting, found in turns.between.items()}
    return "\n".join(
        [
            '{{- $before := "" }}',
            "{{- range .Messages }}",
            '{{- if eq .Role "system" }}'
            f'{{{{ if eq $before "" }}}}{text["", "system"]}{{{{ else }}}}{text["assistant", "system"]}{{{{ end }}}}'
            "{{ .Content }}",
            '{{- else if eq .Role "user" }}'
            f'{{{{ if eq $before "" }}}}{text["", "user"]}{{{{ else if eq $before "system" }}}}{text["system", "user"]}'
            f'{{{{ else }}}}{text["assistant", "user"]}{{{{ end }}}}'
            "{{ .Content }}",
            f'{{{{- else if eq .Role "assistant" }}}}{text["user", "assistant"]}{{{{ .Content }}}}',
            "{{- end }}",
            "{{- $before = .Role }}",
            "{{- end }}",
            f'{{{{- if ne $before "assistant" }}}}{text["user", "end"]}{{{{ end -}}}}',
        ]
    )  # fmt: skip


def _go_text(text: str) -> str:
    """A fixed text as an action that writes it: whatever it holds, neither Go nor the Modelfile's parser reads it."""
    if not text:
        return ""
    escaped = "".join(_escaped(character) for character in text)
    return f'{{{{ "{escaped}" }}}}'


def _escaped(character: str) -> str:
    known = {"\n": "\\n", "\t": "\\t", '"': '\\"', "\\": "\\\\"}.get(character)
    if known is not None or character.isprintable():
        return known or character
    return f"\\U{ord(character):08x}"


def _licences(output: Path, licences: Sequence[Licensed]) -> list[str]:
    """The texts of all licence and notice files in `output`; where there is none, what is known of the licence."""
    names = dict.fromkeys(name for licence in licences for name in licence.notices)
    texts = [_licence_text(output / name) for name in names]
    return texts or list(dict.fromkeys(text for licence in licences if (text := str(licence.stated).replace('"', "'"))))


def _licence_text(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    return f"{path.name}, in the folder of the model." if _QUOTES in text else text
