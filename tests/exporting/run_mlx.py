"""A program for a Python that has mlx-lm: logits of its models, saved beside their folders.

Half of the tokens at once, the others one by one, as when it writes: its caches are in use.
"""

import sys
from pathlib import Path

import mlx.core as mx  # pyright: ignore[reportMissingImports]
import numpy as np
from mlx_lm.models.cache import make_prompt_cache  # pyright: ignore[reportMissingImports]
from mlx_lm.utils import load_model  # pyright: ignore[reportMissingImports]

mx.disable_compile()  # on processors it needs a C++ compiler
ids = mx.array(np.load(sys.argv[1]))
half = ids.shape[1] // 2
for folder in sys.argv[2:]:
    model, _ = load_model(Path(folder))
    cache = make_prompt_cache(model)
    parts = [model(ids[:, :half], cache=cache)]
    parts += [model(ids[:, at : at + 1], cache=cache) for at in range(half, ids.shape[1])]
    np.save(f"{folder}.npy", np.array(mx.concatenate(parts, axis=1).astype(mx.float32)))
