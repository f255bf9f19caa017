"""A first prompt for a model that was just written: a question where it answers, a beginning where it continues text.

Torch-free.
"""

from pathlib import Path

from smidgen.formats.gguf.reader import GGUFFile
from smidgen.formats.hf.folder import TEMPLATE_FILE, member, template_files
from smidgen.formats.hub.catalogue import model_word
from smidgen.formats.hub.origin import MODEL_FILE
from smidgen.model.chat import chat_templates

_QUESTION, _BEGINNING = "Why is the sky blue?", "Once upon a time"


def can_chat(written: Path) -> bool:
    """Whether a model that smidgen wrote has a chat template: a GGUF file, or a folder as `cut` or `export` leaves it.

    Raises BadFile where there is no such model.
    """
    file = written / MODEL_FILE if (written / MODEL_FILE).is_file() else written
    if file.is_dir():
        return member(file, TEMPLATE_FILE) is not None or bool(template_files(file))
    with GGUFFile.open(file) as opened:
        return bool(chat_templates(opened.metadata))


def run_command(model: str, chats: bool) -> str:
    """`smidgen run` with such a prompt. model: as one word of a command."""
    return f'smidgen run {model} "{_QUESTION if chats else _BEGINNING}"'


def elsewhere(program: str, written: Path, chats: bool) -> str:
    """The same for a folder that another program runs: "mlx" or "vllm"."""
    folder, prompt = model_word(written), _QUESTION if chats else _BEGINNING
    commands = {
        "mlx": f'mlx_lm.generate --model {folder} --prompt "{prompt}"   (pip install mlx-lm)',
        "vllm": f"vllm serve {folder}",
    }
    return f"Run it: {commands[program]}"


def try_it(written: Path, chats: bool) -> str:
    """The line that ends what a verb says. written: the model, or its folder."""
    return f"Try it: {run_command(model_word(written), chats)}"
