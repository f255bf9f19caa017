"""How to run an exported model with OpenVINO GenAI, for the README.md beside it."""

from smidgen.formats.checkpoint import Checkpoint
from smidgen.model.chat import chat_templates

_QUESTION, _BEGINNING = "Why is the sky blue?", "Once upon a time"
_PRECISION = """\
OpenVINO rounds activations (where the processor is quick at that), and the keys and values that it keeps, to 8 bits
unless told otherwise. This folder tells it: `runtime_options` in `openvino_model.xml` turn the first off and keep the
others in 16 bits. A file cannot say
`INFERENCE_PRECISION_HINT`, without which some processors multiply in bfloat16. For speed rather than what the weights
say, leave it out and give `DYNAMIC_QUANTIZATION_GROUP_SIZE=32, KV_CACHE_PRECISION="u8"`."""


def how_to_run(checkpoint: Checkpoint) -> list[str]:
    """A section of Markdown, in lines. GenAI itself applies the chat template, and puts BOS before other text."""
    prompt = _QUESTION if chat_templates(checkpoint.tokenizer_metadata) else _BEGINNING
    options = 'INFERENCE_PRECISION_HINT="f32"'
    if any(layer.attention_cap is not None for layer in checkpoint.config.layers):
        options += ', ATTENTION_BACKEND="SDPA"'  # or GenAI tries the other first, and warns
    program = [
        "import openvino_genai", "",
        f'pipeline = openvino_genai.LLMPipeline(".", "CPU", {options})  # this folder',
        f'print(pipeline.generate("{prompt}", max_new_tokens=256))',
    ]  # fmt: skip
    return ["## Run it", "", "`pip install openvino-genai`, then in this folder:", "", "```python", *program, "```", "",
            *_PRECISION.splitlines(), ""]  # fmt: skip
