"""bench-train: how fast a DPO step is, against TRL's DPOTrainer as it comes -> build/bench/train.json, and a table.

    python -m bench.train

Same model (LLaVA-1.5's shapes but small: 576 image tokens), same pairs with the same exact tokens, same precision
(float32), LoRA, batch of two pairs, one process on all cores. Each side runs in a process of its own. A step is data,
forward, backward and optimiser. Then the stage itself, on one and on two Ray Train workers of one core each.
"""

from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, keep, read, table
from bench.fresh import in_fresh_process
from bench.train_step import Case, Measured, ours, stock
from bench.train_workers import Steps, steps_of
from bench.workload import QWEN_SHAPED
from seva_ray.runtime.cli import run
from seva_ray.runtime.progress import say

RESULTS = Path("build/bench/train.json")
COMMAND = "python -m bench.train"
SHOWN = Case(num_tokens=100, num_rejected=1)
"""The case whose memory and cost with the reference pass are reported too."""


@dataclass(frozen=True, kw_only=True)
class BenchTrain:
    """Which cases are measured."""

    lengths: tuple[int, ...] = (25, 100, 300)
    """Tokens of every response, with one rejected response."""
    rejected: tuple[int, ...] = (2, 4)
    """Numbers of rejected responses, at 100 tokens."""
    qwen_lengths: tuple[int, ...] = (100,)
    """The same as `lengths`, for a model of Qwen2.5-VL's shape and pictures of different sizes."""
    workers: bool = True
    """Also one worker against two."""


def main(config: BenchTrain) -> None:
    cases = [Case(num_tokens=length, num_rejected=1) for length in config.lengths]
    cases += [Case(num_tokens=100, num_rejected=number) for number in config.rejected]
    cases += [Case(num_tokens=length, num_rejected=1, workload=QWEN_SHAPED) for length in config.qwen_lengths]
    for case in cases:
        sides = in_fresh_process(ours, case), in_fresh_process(stock, case)
        say(f"{case}: {sides[0].step_s:.2f} s against {sides[1].step_s:.2f} s")
        keep(RESULTS, compared(case, *sides))
    if config.workers:
        one, two = (in_fresh_process(steps_of, number) for number in (1, 2))
        say(f"workers: {one.step_s:.2f} s alone, {two.step_s:.2f} s by two")
        keep(RESULTS, shared(one, two))
    print(table(read(RESULTS)))


def compared(case: Case, own: Measured, rival: Measured) -> list[Figure]:
    seconds = f"{rival.step_s:.2f} over {own.step_s:.2f} s"
    found = [
        Figure(
            figure=f"speed of a step, {case}",
            ratio=rival.step_s / own.step_s,
            target=2.0,
            better="higher",
            rival=f"TRL's DPOTrainer: {seconds}; counted operations allow {case.bound:.2f}",
            command=COMMAND,
        )
    ]
    if case == SHOWN:
        with_reference = own.step_s + own.reference_s / 2
        found += [
            Figure(
                figure=f"the same with the reference pass, once for the paper's two epochs, {case}",
                ratio=rival.step_s / with_reference,
                target=2.0,
                better="higher",
                rival=f"TRL's DPOTrainer: {rival.step_s:.2f} over {with_reference:.2f} s",
                command=COMMAND,
            ),
            Figure(
                figure=f"peak memory, {case}",
                ratio=own.peak_mb / rival.peak_mb,
                target=1.0,
                better="lower",
                rival=f"TRL's DPOTrainer: {own.peak_mb:.0f} over {rival.peak_mb:.0f} MB, model and libraries included",
                command=COMMAND,
            ),
        ]
    return found


def shared(one: Steps, two: Steps) -> list[Figure]:
    command = f"{COMMAND} --lengths --rejected"
    found = [
        Figure(
            figure="speed of a step with two workers, ZeRO-2, the same global batch",
            ratio=one.step_s / two.step_s,
            target=1.3,
            better="higher",
            rival=f"one worker, on one of the two cores: {one.step_s:.2f} over {two.step_s:.2f} s; 2 would be ideal",
            command=command,
        )
    ]
    for steps, name, parts in (
        (one, "one worker", "data, figures, optimiser and callbacks"),
        (two, "two workers", "these, communication and waiting for the other"),
    ):
        outside_s = steps.step_s - steps.model_s
        found.append(
            Figure(
                figure=f"share of a step outside forward and backward, {name}",
                ratio=steps.outside,
                target=0.1,
                better="lower",
                rival=f"the whole step: {outside_s:.2f} of {steps.step_s:.2f} s for {parts}",
                command=command,
            )
        )
    return found


if __name__ == "__main__":
    run(main, {"all": BenchTrain()}, "Benchmarks of training.")
