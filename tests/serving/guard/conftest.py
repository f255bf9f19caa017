"""The vocabulary that pretended guards have."""

from pathlib import Path

import pytest

from smidgen.engines.llama_cpp.engine import Facts, read_facts


@pytest.fixture(scope="session")
def facts(smollm_path: Path) -> Facts:
    return read_facts(smollm_path)
