"""A program for a Python that has transformers and compressed-tensors: logits of folders, saved beside them."""

import sys

import numpy as np
import torch
import transformers

ids = torch.from_numpy(np.load(sys.argv[1]))
for folder in sys.argv[2:]:
    model, said = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", attn_implementation="eager", output_loading_info=True
    )
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
    with torch.no_grad():
        np.save(f"{folder}.npy", model.eval()(ids).logits.float().numpy())
