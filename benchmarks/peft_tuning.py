"""LoRA by transformers and PEFT, on the very batches of `smidgen tune`: the other side of `benchmarks.adapters`.

    python -m benchmarks.peft_tuning original.gguf FOLDER --data learned.jsonl --questions held-out.jsonl --kinds A,B …

FOLDER is what `smidgen export original.gguf --to hf` wrote. Model, rotations and adapter are transformers' and PEFT's
own, in float32; examples, rows, steps, rank, matrices, optimizer and schedule are those of `smidgen tune`, so that only
the programs differ, and the random numbers that A begins with. The questions are put to what was tuned, in this
process. Prints scores and seconds as JSON.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from benchmarks.labelling import Questions, batches_of
from smidgen.distillation.loop.optimizer import schedule_factor
from smidgen.distillation.loop.trainer import TrainingOptions
from smidgen.distillation.text.batch import Batch
from smidgen.formats.opening import open_checkpoint

_BETAS = (0.9, 0.95)  # as in `smidgen.distillation.loop.optimizer`


def seen(batch: Batch) -> Tensor:
    """What each position may look at, [rows, 1, positions, positions]: its own document up to itself."""
    same = batch.documents[:, :, None] == batch.documents[:, None, :]
    return (same & torch.ones_like(same).tril())[:, None]


def places(batch: Batch) -> Tensor:
    """Positions from the beginning of each document, [rows, positions]."""
    numbers = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    begins = functional.pad(batch.documents[:, 1:] != batch.documents[:, :-1], (1, 0), value=True)
    return numbers - (numbers * begins).cummax(1).values


def loss_of(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the answers' tokens."""
    logits = model(
        input_ids=batch.ids, attention_mask=seen(batch), position_ids=places(batch), use_cache=False
    ).logits  # fmt: skip
    counts = batch.weights > 0
    return functional.cross_entropy(logits[counts], batch.targets[counts])


def tuned(options: argparse.Namespace) -> tuple[PeftModel, list[float]]:
    """The model with its trained adapter, and the losses of all steps."""
    torch.manual_seed(options.seed)
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32)
    rank = options.rank
    model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    with open_checkpoint(options.original) as checkpoint:
        batches = batches_of(checkpoint, options.data, options)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, betas=_BETAS, weight_decay=0.0)
    usual, losses = TrainingOptions(options.steps, learning_rate=options.lr), []
    model.train()
    for step in range(options.steps):
        loss = loss_of(model, batches.batch(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, usual.clip)
        share = (step + 1) / options.steps
        for group in optimizer.param_groups:
            group["lr"] = options.lr * schedule_factor(usual.schedule, share, usual.warmup, usual.floor)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return model.eval(), losses


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("original", type=Path, help="GGUF file: its tokenizer and template")
    parser.add_argument("folder", type=Path, help="the same model for transformers")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--kinds", required=True, help="with commas")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the adapter")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    model, losses = tuned(options)
    seconds = time.monotonic() - began
    model.save_pretrained(options.output)
    with open_checkpoint(options.original) as checkpoint:
        questions = Questions(checkpoint, options.questions, options.kinds.split(","))
    inner, head = model.get_base_model().model, model.get_output_embeddings()
    scores = questions.ask(
        lambda ids, rows, places: head(inner(input_ids=ids, use_cache=False).last_hidden_state[rows, places])
    )
    print(json.dumps({**scores.described(), "tuning_seconds": seconds, "last_loss": losses[-1]}))


if __name__ == "__main__":
    main()
