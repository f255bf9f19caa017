"""The tokenizer as two OpenVINO graphs, text → ids and ids → text, beside the files that they are made from.

openvino-tokenizers makes them from a tokenizer of transformers. It takes tokenizer.json as it stands: the classes of
the families would build some steps anew.
"""

import logging
from pathlib import Path

import openvino as ov

from smidgen.errors import SmidgenError
from smidgen.exporting.openvino.names import DETOKENIZER, TOKENIZER
from smidgen.formats.checkpoint import Checkpoint
from smidgen.formats.hf.tokenizer import write_tokenizer
from smidgen.formats.hf.writer import write_tokenizer_files


def write_tokenizers(checkpoint: Checkpoint, folder: Path) -> None:
    """Write all of the tokenizer's files. Raises SmidgenError where openvino-tokenizers cannot take it."""
    write_tokenizer_files(checkpoint, folder)
    if not (folder / "tokenizer.json").exists():  # a folder that has tokenizer.model alone
        write_tokenizer(folder, checkpoint.tokenizer_metadata)
    from openvino_tokenizers import convert_tokenizer
    from transformers import PreTrainedTokenizerFast

    logging.getLogger("openvino_tokenizers").setLevel(logging.ERROR)
    try:
        both = convert_tokenizer(PreTrainedTokenizerFast.from_pretrained(folder), with_detokenizer=True)
    except Exception as error:  # whatever it stumbles over in a tokenizer that it does not know
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise SmidgenError(f"openvino-tokenizers cannot convert this model's tokenizer: {last[0]}") from error
    assert isinstance(both, tuple)
    for graph, name in zip(both, (TOKENIZER, DETOKENIZER), strict=True):
        ov.save_model(graph, folder / name)
