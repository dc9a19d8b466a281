"""gpu-check: what one GPU makes of a step of training and of the transformers engine -> build/bench/gpu.json.

    make gpu-check                          with the GPU environment, at the shapes of LLaVA-1.5-7B, under 8 minutes
    python -m bench.gpu --tiny              on a CPU, seconds: only whether it runs

Weights and inputs are random. Each section stands alone: if one fails, its error is its result, and the others go on.
The card's own rate of matrix products is what MFU is measured against. Not covered: vLLM, ZeRO, NCCL.
"""

import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import gpu_attention
from bench.gpu_model import SEVEN_B, TINY, Shapes, adapted, batch_of, build, flops_of
from seva_ray.core.errors import line_of
from seva_ray.dpo.config import Loss
from seva_ray.dpo.logps import response_logps
from seva_ray.dpo.losses import ResponseLogps, losses_of
from seva_ray.dpo.policy import without_image_gradients
from seva_ray.runtime.cli import run

VARIANTS = (
    *(("plain", "mask"), ("plain", "causal")),
    *(("packed", "mask"), ("packed", "in_parts"), ("packed", "two_part"), ("packed", "flex")),
)
"""Layouts of a batch, and ways to compute attention. `packed in_parts` is what training does."""


@dataclass(frozen=True, kw_only=True)
class GpuCheck:
    """What is measured."""

    tiny: bool = False
    """Use small shapes, for a CPU."""
    out: str = "build/bench/gpu.json"
    """File of the results."""
    seconds: float = 400
    """After this time, in seconds, no new section begins."""


class Check:
    """The results so far, and the device on which they were measured."""

    def __init__(self, config: GpuCheck):
        self.config, self.began = config, time.monotonic()
        self.shapes: Shapes = TINY if config.tiny else SEVEN_B
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        name = torch.cuda.get_device_name() if self.on_gpu else "cpu"
        self.found: dict[str, Any] = {"torch": torch.__version__, "device": name, "tiny": config.tiny, "sections": {}}

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @contextmanager
    def section(self, name: str) -> Iterator[dict[str, Any]]:
        """A part of the check. Its results are written as soon as it ends."""
        result: dict[str, Any] = {}
        began = time.monotonic()
        try:
            if began - self.began > self.config.seconds:
                raise TimeoutError("left out, because there was no time")
            yield result
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {line_of(error)}"[:300]
            if not isinstance(error, TimeoutError):
                traceback.print_exc(limit=3)
        result["section s"] = round(time.monotonic() - began, 1)
        self.found["sections"][name] = result
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
        path = Path(self.config.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(result), flush=True)

    def timed(self, function: Callable[[], object], repeats: int = 4, warm: int = 2) -> tuple[float, float]:
        """Median seconds of a call, and the peak memory of the GPU meanwhile, in GiB."""
        for _ in range(warm):
            function()
        self.wait()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            function()
            self.wait()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken), (torch.cuda.max_memory_allocated() if self.on_gpu else 0) / 2**30

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def matrix_rate(check: Check, result: dict[str, Any]) -> float:
    """The card's rate of a matrix product in the dtype of training, operations per second."""
    side, shapes = 256 if check.config.tiny else 8192, check.shapes
    sizes = {"square": (side, side, side), "step": (2 * 822, shapes.intermediate, shapes.hidden)}
    rates = {}
    for name, (m, n, k) in sizes.items():
        left, right = (torch.randn(*size, device=check.device, dtype=shapes.dtype) for size in ((m, k), (k, n)))
        seconds, _ = check.timed(lambda a=left, b=right: a @ b, repeats=10)  # type: ignore[misc]
        rates[name] = 2 * m * n * k / seconds
        result[f"{name} {m}x{n}x{k}, TFLOP/s"] = round(rates[name] / 1e12, 3)
    return rates["square"]


def measure_steps(check: Check, model: Any, peak: float, pairs: int, response: int, result: dict[str, Any]) -> None:
    """A step forward and backward in every variant: ms, memory, MFU, and whether all compute the same."""
    truth: tuple[torch.Tensor, torch.Tensor] | None = None
    reference: torch.Tensor | None = None
    for kind, attention in VARIANTS:
        row: dict[str, Any] = {}
        result[f"{kind} {attention}"] = row
        try:
            packed = kind == "packed"
            batch = batch_of(check.shapes, pairs, response, packed, check.device)
            gpu_attention.use(model, attention, batch, response, packed)
            if reference is None:
                with torch.no_grad(), model.disable_adapter():
                    reference = response_logps(model, batch)
            if attention == "flex" and not check.on_gpu:  # FlexAttention has no backward pass on a CPU
                with torch.no_grad():
                    row["log-probabilities differ by"] = difference(response_logps(model, batch), truth)
                continue
            step = step_of(model, batch, reference)
            seconds, memory = check.timed(step)
            loss, logps = step()
            with torch.no_grad(), model.disable_adapter():
                of_reference, _ = check.timed(lambda b=batch: response_logps(model, b))  # type: ignore[misc]
            grad = torch.cat([w.grad.float().flatten()[:4096] for w in model.parameters() if w.grad is not None])
            truth = truth or (logps, grad)
            row |= {
                "ms": round(1000 * seconds, 1),
                "peak GiB": round(memory, 2),
                "MFU": round(flops_of(check.shapes, pairs, response, packed) / seconds / peak, 3),
                "reference ms": round(1000 * of_reference, 1),
                "loss": float(loss),
                "log-probabilities differ by": difference(logps, truth),
                "gradients differ by": float((grad - truth[1]).norm() / truth[1].norm()),
            }
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {line_of(error)}"[:200]
        if check.on_gpu:
            torch.cuda.empty_cache()


def difference(logps: torch.Tensor, truth: tuple[torch.Tensor, torch.Tensor] | None) -> float | None:
    return None if truth is None else float((logps - truth[0]).abs().max())


def step_of(model: Any, batch: dict[str, torch.Tensor], reference: torch.Tensor) -> Callable[[], Any]:
    """One step without the optimiser; it returns the loss and the log-probabilities."""

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        logps = response_logps(model, batch)
        answers = ResponseLogps(logps=logps, ref_logps=reference, num_tokens=batch["num_tokens"])
        loss = losses_of(Loss(), answers, 0.1).mean()
        loss.backward()
        return loss.detach(), logps.detach()

    return step


def measure_generation(check: Check, result: dict[str, Any]) -> None:
    """Rows per second of transformers' `generate` in batches: the floor that an engine has to beat."""
    shapes = check.shapes
    num_tokens = 4 if check.config.tiny else 64
    model = build(shapes, torch.float32 if check.config.tiny else torch.float16, check.device)
    model.generation_config.eos_token_id = None
    for size in (2,) if check.config.tiny else (1, 16, 64):
        rows = batch_of(shapes, size, 1, packed=True, device=check.device)
        ids = rows["input_ids"][:, : shapes.image_tokens + shapes.text_tokens]
        pixels = rows["pixel_values"].to(model.dtype)

        def answer(ids: torch.Tensor = ids, pixels: torch.Tensor = pixels) -> None:
            with torch.inference_mode():
                model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=num_tokens, do_sample=False)

        seconds, memory = check.timed(answer, repeats=1, warm=1)
        result[f"batch {size}"] = {"rows/s": round(size / seconds, 2), "peak GiB": round(memory, 1)}


def main(config: GpuCheck) -> None:
    check = Check(config)
    peak = 1e12
    with check.section("matrix product") as result:
        peak = matrix_rate(check, result)
    model: Any = None
    with check.section("model") as result:
        start = build(check.shapes, check.shapes.dtype, check.device)
        without_image_gradients(start)
        model = adapted(start, check.shapes.rank)
        if check.on_gpu:
            result["GiB"] = round(torch.cuda.memory_allocated() / 2**30, 2)
    for pairs, response in ((1, 9),) if config.tiny else ((2, 100), (8, 100), (2, 400)):
        with check.section(f"step of {pairs} pairs, responses of {response} tokens") as result:
            measure_steps(check, model, peak, pairs, response, result)
    model = start = None
    with check.section("transformers' generate") as result:
        measure_generation(check, result)
    print(f"gpu-check: {config.out}, {time.monotonic() - check.began:.0f} s", flush=True)


if __name__ == "__main__":
    run(main, {"gpu": GpuCheck()}, "What one GPU makes of a step of training.")
