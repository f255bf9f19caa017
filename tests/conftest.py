"""Shared fixtures: the real small models that install from PyPI. And what is done once for all tests.

Shapes are checked where they are the matter, and files are put in order where two processes run.
"""

import gc
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import config as shape_checks
from jaxtyping import install_import_hook

import smidgen  # noqa: F401 - first of all, because it sets up OpenMP before torch is loaded

# Shapes in annotations are checked while tests run: everywhere that tensors are made and taken apart. (Tokenizers have
# no tensors, and millions of small calls.)
_MODEL = ["attention", "decoder", "feed_forward", "norms", "rope"]
_DISTILLATION = ["text.batch", "students.fresh", "students.lattice", "students.lora", "objectives.slopes"]
install_import_hook(
    [*(f"smidgen.model.{name}" for name in _MODEL), "smidgen.numerics", "smidgen.pruning", "smidgen.quantization"]
    + ["smidgen.calibration", *(f"smidgen.distillation.{name}" for name in _DISTILLATION)],
    "beartype.beartype",
)
#: Folders of tests that compute on tensors themselves. Others call the same functions by whole cuts, where a second
#: check of every small call would be two fifths of the time.
_ABOUT_TENSORS = {"calibration", "distillation", "model", "numerics", "oracle", "parity", "pruning", "quantization"}
#: Files there that run the same kernels for hundreds of cases, whose shapes others check.
_HUNDREDS_OF_TIMES = {"test_writable_types.py", "test_damage_measured.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    checked = folder in _ABOUT_TENSORS and item.path.name not in _HUNDREDS_OF_TIMES
    shape_checks.update("jaxtyping_disable", not checked)


def pytest_collection_finish() -> None:
    """All that is loaded by now stays: a full collection, which some of our functions ask for, need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Who gets which file next, for `--dist loadfile`."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.two_at_once import LongestFirst

    return LongestFirst(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process that gets its files from another."""
    if hasattr(config, "workerinput"):
        from tests.two_at_once import place_in_line

        items.sort(key=lambda item: place_in_line(item.nodeid))


@pytest.fixture(autouse=True)
def talkative() -> None:
    """Progress is heard in every test, whatever an earlier one has asked for."""
    from smidgen.progress import set_quiet

    set_quiet(False)


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    """Gemma 3 270M as packaged (Q5_0, Q4_K, Q6_K, Q8_0)."""
    from smidgen.formats.hub.catalogue import locate

    return locate("gemma-3-270m")


@pytest.fixture(scope="session")
def smollm_path() -> Path:
    """SmolLM2 135M Instruct as packaged (Q4_1, Q8_0)."""
    from smidgen.formats.hub.catalogue import locate

    return locate("smollm2-135m-instruct")
