"""Gradio, from the extra `ui`, prepared before it is imported: so that it sends nothing anywhere."""

import os
from importlib import import_module
from pathlib import Path

from smidgen.errors import SmidgenError

_SILENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # neither figures of use nor a look for a newer version
    "GRADIO_SHARE": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_RUN_HISTORY": "False",  # it would keep conversations in the browser
    "GRADIO_VIBE_MODE": "",
    "GRADIO_WATCH_DIRS": "",
    "GRADIO_ROOT_PATH": "",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def prepare_gradio(folder: Path) -> None:
    """To be called before it is imported. folder: for its own files.

    Raises SmidgenError where it is not installed or too old.
    """
    os.environ.update(_SILENT | {"GRADIO_TEMP_DIR": str(folder)})
    try:
        module = import_module("gradio")
    except ImportError as error:
        raise SmidgenError("smidgen ui needs the package gradio: pip install 'smidgen[ui]'.") from error
    if int(module.__version__.partition(".")[0]) < 6:
        raise SmidgenError(f"smidgen ui needs gradio 6, here is {module.__version__}: pip install 'smidgen[ui]'.")
