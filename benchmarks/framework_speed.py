"""How quick one folder is in its framework, run by a Python that has it (and none of smidgen).

    PYTHON framework_speed.py mlx|onnx|openvino|transformers|litert FOLDER THREADS ids.json

Reads a prompt of these token ids and writes DECODE more, as the framework's own examples do. Prints JSON: seconds to
load, tokens a second of the prompt and of what is written after its first token, and the largest resident set in bytes.
LiteRT-LM takes no ids: its own benchmark reads as many of its choice.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DECODE = 64
Writer = Callable[[list[int]], Iterator[object]]  # tokens, each as soon as it is there


def mlx(folder: str, threads: int) -> Writer:
    """mlx-lm; on a CPU in float32, since its 16-bit arithmetic there is emulated."""
    import mlx.core as core
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(folder))
    if core.default_device().type == core.DeviceType.cpu:
        model.set_dtype(core.float32)
    core.eval(model.parameters())  # computes what mlx has only noted down: the weights are read here
    return lambda ids: generate_step(core.array(ids), model, max_tokens=DECODE + 1)


def onnx(folder: str, threads: int) -> Writer:
    """onnxruntime-genai."""
    import onnxruntime_genai as og

    config = og.Config(folder)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = og.Model(config)

    def write(ids: list[int]) -> Iterator[object]:
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=len(ids) + DECODE + 1, min_length=len(ids) + DECODE + 1)
        generator = og.Generator(model, parameters)
        generator.append_tokens(ids)
        for _ in range(DECODE + 1):
            generator.generate_next_token()
            yield generator.get_next_tokens()[0]

    return write


def openvino(folder: str, threads: int) -> Writer:
    """OpenVINO, by the graph itself: the state is in it."""
    modules: dict[str, Any] = sys.modules
    modules["openvino_telemetry"] = None  # else the import is reported to Google Analytics
    import numpy as np
    import openvino as ov

    compiled = ov.Core().compile_model(Path(folder) / "openvino_model.xml", "CPU", {"INFERENCE_NUM_THREADS": threads})
    names = {name for one in compiled.inputs for name in one.get_names()}
    request = compiled.create_infer_request()

    def write(ids: list[int]) -> Iterator[object]:
        request.reset_state()
        read, new = 0, ids
        for _ in range(DECODE + 1):
            whole = read + len(new)
            given = {
                "input_ids": np.array([new], np.int64), "attention_mask": np.ones((1, whole), np.int64),
                "position_ids": np.arange(read, whole, dtype=np.int64)[None], "beam_idx": np.zeros(1, np.int32),
            }  # fmt: skip
            request.infer({name: value for name, value in given.items() if name in names})
            read, new = whole, [int(request.get_tensor("logits").data[0, -1].argmax())]
            yield new[0]

    return write


def transformers(folder: str, threads: int) -> Writer:
    """transformers with compressed-tensors, which unpacks the weights before it begins."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()

    def write(ids: list[int]) -> Iterator[object]:
        cache, new = None, ids
        for _ in range(DECODE + 1):
            with torch.inference_mode():
                found = model(torch.tensor([new]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, new = found.past_key_values, [int(found.logits[0, -1].argmax())]
            yield new[0]

    return write


WRITERS = {"mlx": mlx, "onnx": onnx, "openvino": openvino, "transformers": transformers}


def timed(writer: Callable[[str, int], Writer], folder: str, threads: int, ids: list[int]) -> dict[str, float]:
    """Seconds and rates of a framework that writes token by token."""
    started = time.perf_counter()
    write = writer(folder, threads)
    loaded = time.perf_counter()
    for _, _ in zip(range(2), write(ids[:8]), strict=False):  # what is made at the first use belongs to neither rate
        pass
    begun = time.perf_counter()
    times = [time.perf_counter() for _ in write(ids)]
    return {
        "load_seconds": loaded - started,
        "prompt_tokens_per_s": len(ids) / (times[0] - begun),
        "decode_tokens_per_s": (len(times) - 1) / (times[-1] - times[0]),
    }


def litert_lm(folder: str, threads: int, tokens: int) -> dict[str, float]:
    """What LiteRT-LM says of itself, when it does not load for the first time."""
    import litert_lm

    model = str(Path(folder) / "model.litertlm")
    measured = litert_lm.Benchmark(
        model, litert_lm.Backend.CPU(thread_count=threads), prefill_tokens=tokens, decode_tokens=DECODE
    )
    measured.run()  # writes its cache of packed weights beside the file, if it is not there
    found = measured.run()
    return {
        "load_seconds": found.init_time_in_second,
        "prompt_tokens_per_s": found.last_prefill_tokens_per_second,
        "decode_tokens_per_s": found.last_decode_tokens_per_second,
    }


def peak_bytes() -> int:
    """The largest resident set of this process so far. Linux only."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def main() -> None:
    """The command."""
    framework, folder, threads, prompt = sys.argv[1:]
    ids = json.loads(Path(prompt).read_text())
    if framework == "litert":
        found = litert_lm(folder, int(threads), len(ids))
    else:
        found = timed(WRITERS[framework], folder, int(threads), ids)
    print(json.dumps({**found, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
