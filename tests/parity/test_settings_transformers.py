"""What a key that config.json leaves out means: the same to us as to transformers' configuration classes."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from smidgen.errors import BadFile, SmidgenError
from tests.family_models import FAMILY_MODELS
from tests.family_settings import read_settings, settings_of

# What the tiny models leave off and files may turn on: windows by number of layers, and where positions are missing.
_WINDOWED = {"use_sliding_window": True, "sliding_window": 7, "layer_types": None}
SETTINGS = {label: settings_of(label) for label in FAMILY_MODELS if label != "openelm"}
SETTINGS |= {f"{label}, window": SETTINGS[label] | _WINDOWED for label in ("qwen2", "qwen3", "smollm3")}
SETTINGS["qwen2, window"]["max_window_layers"] = SETTINGS["qwen3, window"]["max_window_layers"] = 2
SETTINGS["mixtral, window"] = SETTINGS["mixtral"] | {"sliding_window": 7}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_keys_left_out(settings: dict[str, Any]) -> None:
    """Or it is refused as missing. Where transformers itself cannot make sense of the rest, neither need we."""
    compared = 0
    for key in (None, *settings):
        some = {name: value for name, value in settings.items() if name != key and value is not None}
        if "model_type" not in some:
            continue
        try:
            theirs = CONFIG_MAPPING[some["model_type"]].from_dict(dict(some)).to_dict()
        except Exception:  # of several kinds, for a model whose sizes no longer go together
            continue
        try:
            ours = read_settings(some)[1]
        except BadFile as error:
            assert f"{key} is missing" in str(error) or "do not divide" in str(error)
            with_theirs = {name: value for name, value in theirs.items() if value is not None}
            if "do not divide" in str(error):
                with pytest.raises(SmidgenError, match="do not divide"):
                    read_settings(with_theirs)
            continue
        assert ours == read_settings(theirs)[1], key
        compared += 1
    assert compared > 20
