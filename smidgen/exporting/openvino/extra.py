"""OpenVINO, from the extra `openvino`, prepared before it is imported: so that it sends nothing anywhere."""

import sys
from importlib import import_module
from typing import Any

from smidgen.errors import SmidgenError

_PACKAGES = ("openvino", "openvino_tokenizers", "transformers")


def prepare_openvino() -> None:
    """To be called before it is imported.

    Raises SmidgenError where it is not installed, or half of it.
    """
    # It reports to Google Analytics that it was imported, unless this package, on which it depends, is not there.
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)
    for package in _PACKAGES:
        try:
            import_module(package)
        except ImportError as error:
            name = package.replace("_", "-")
            raise SmidgenError(f"--to openvino needs the package {name}: pip install 'smidgen[openvino]'.") from error
