"""How to run an exported model with OpenVINO GenAI, for the README.md beside it."""

from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.chat import chat_templates

_QUESTION, _BEGINNING = "Why is the sky blue?", "Once upon a time"
_PROGRAM = """\
import openvino_genai

pipeline = openvino_genai.LLMPipeline(".", "CPU", INFERENCE_PRECISION_HINT="f32")  # this folder
print(pipeline.generate("{prompt}", max_new_tokens=256))"""
_PRECISION = (
    "OpenVINO rounds activations and the cache of keys and values to 8 bits unless told otherwise. This folder tells it: "
    "`runtime_options` in `openvino_model.xml` turn the first off and keep the cache in 16 bits. What no file can say is "
    '`INFERENCE_PRECISION_HINT`: processors that multiply in bfloat16 do so without `"f32"`. For speed rather than the '
    "very predictions that were measured, leave it out, and give `DYNAMIC_QUANTIZATION_GROUP_SIZE=32` and "
    '`KV_CACHE_PRECISION="u8"`.'
)


def how_to_run(checkpoint: Checkpoint) -> list[str]:
    """A section of Markdown, in lines. GenAI itself applies the chat template, and puts BOS before other text."""
    prompt = _QUESTION if chat_templates(checkpoint.tokenizer_metadata) else _BEGINNING
    program = _PROGRAM.format(prompt=prompt).splitlines()
    return ["## Run it", "", "`pip install openvino-genai`, then in this folder:", "", "```python", *program, "```", "",
            _PRECISION, ""]  # fmt: skip
