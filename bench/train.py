"""bench-train: how fast a DPO step is, against TRL's DPOTrainer as it comes -> build/bench/train.json, and a table.

    python -m bench.train

Same model (LLaVA-1.5's shapes but small: 576 image tokens), same pairs with the same exact tokens, same precision
(float32), LoRA, batch of two pairs. Both sides make their steps by turns in one process on one core, and CPU time is
counted. A step is data, forward, backward and optimiser. Then what the output head takes of memory with the
vocabularies of LLaVA and Qwen, and the stage itself, on one and on two Ray Train workers of one core each.

TRL 1.16 has taken Liger's fused DPO loss out: it computes log-probabilities in chunks by itself, and that is the rival.
Liger's other kernels need a GPU.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.figures import Figure, keep, read, table
from bench.fresh import in_fresh_process
from bench.head_memory import VOCABULARIES, WAYS, growth_mb
from bench.train_step import Case, Compared, compared, ours, peak_of, stock
from bench.train_workers import Steps, steps_of
from bench.workload import QWEN_SHAPED
from seva_ray.runtime.cli import run
from seva_ray.runtime.progress import say

RESULTS = Path("build/bench/train.json")
COMMAND = "python -m bench.train"
TARGETS = {25: 2.6, 100: 2.5, 300: 2.0}
TARGETS_BY_IMAGE = {25: 3.5, 100: 3.4, 300: 2.5}
TARGETS_MANY = {4: 8.0}
"""Targets, by the number of rejected responses."""
SHOWN = Case(num_tokens=100)
"""The case whose memory and cost with the reference pass are reported too."""


@dataclass(frozen=True, kw_only=True)
class BenchTrain:
    """Which cases are measured."""

    lengths: tuple[int, ...] = (25, 100, 300)
    """Tokens of every response, with one rejected response."""
    by_image: tuple[int, ...] = (25, 100, 300)
    """The same, with two questions about each image, whose pairs share a row."""
    rejected: tuple[int, ...] = (2, 4)
    """Numbers of rejected responses, at 100 tokens."""
    qwen_lengths: tuple[int, ...] = (100,)
    """The same as `lengths`, for a model of Qwen2.5-VL's shape and pictures of different sizes."""
    rounds: int = 4
    """Number of steps of each side."""
    memory: bool = True
    """Also measure peak memory."""
    workers: bool = True
    """Also compare one worker with two."""


def main(config: BenchTrain) -> None:
    cases = [(Case(num_tokens=length), TARGETS.get(length, 2.0)) for length in config.lengths]
    cases += [(Case(num_tokens=length, by_image=True), TARGETS_BY_IMAGE.get(length, 2.5)) for length in config.by_image]
    cases += [(Case(num_tokens=100, num_rejected=number), TARGETS_MANY.get(number, 2.0)) for number in config.rejected]
    cases += [(Case(num_tokens=length, workload=QWEN_SHAPED), 2.0) for length in config.qwen_lengths]
    for case, target in cases:
        found = in_fresh_process(compared, case, config.rounds)
        say(f"{case}: {found.own_s:.2f} s against {found.rival_s:.2f} s")
        keep(RESULTS, of_step(case, found, target))
    if config.memory:
        keep(RESULTS, [of_memory(), *of_heads()])
    if config.workers:
        one, two = (in_fresh_process(steps_of, number) for number in (1, 2))
        say(f"workers: {one.step_s:.2f} s alone, {two.step_s:.2f} s by two")
        keep(RESULTS, shared(one, two))
    print(table(read(RESULTS)))


def of_step(case: Case, found: Compared, target: float) -> list[Figure]:
    def figure(name: str, ratio: float, target: float, rival: str, better: Literal["higher", "lower"]) -> Figure:
        return Figure(figure=f"{name}, {case}", ratio=ratio, target=target, better=better, rival=rival, command=COMMAND)

    trl = "TRL's DPOTrainer"
    seconds = f"{trl}: {found.rival_s:.2f} over {found.own_s:.2f} s; counted operations allow {case.bound:.2f}"
    figures = [
        figure("speed of a step", found.rival_s / found.own_s, target, seconds, "higher"),
        figure("difference of the loss", found.loss_off, 1e-5, f"{trl}, the same weights", "lower"),
        figure("difference of the gradient", found.gradient_off, 1e-6, f"{trl}, over its norm", "lower"),
    ]
    if case == SHOWN:
        with_reference = found.own_s + found.reference_s / 2
        seconds = f"{trl}: {found.rival_s:.2f} over {with_reference:.2f} s"
        name = "the same with the reference pass, once for the paper's two epochs"
        figures.append(figure(name, found.rival_s / with_reference, 2.0, seconds, "higher"))
    return figures


def of_memory() -> Figure:
    own, rival = (in_fresh_process(peak_of, side, SHOWN) for side in (ours, stock))
    return Figure(
        figure=f"peak memory, {SHOWN}",
        ratio=own / rival,
        target=1.0,
        better="lower",
        rival=f"TRL's DPOTrainer: {own:.0f} over {rival:.0f} MB, model and libraries included",
        command=COMMAND,
    )


def of_heads() -> list[Figure]:
    figures = []
    for vocabulary in VOCABULARIES:
        mb = {way: in_fresh_process(growth_mb, way, vocabulary) for way in WAYS}
        say(f"head, {vocabulary:,} words: " + ", ".join(f"{way} {value:.0f} MB" for way, value in mb.items()))
        figures.append(
            Figure(
                figure=f"memory of the head, {vocabulary:,} words",
                ratio=mb["ours"] / mb["all logits"],
                target=0.25,
                better="lower",
                rival=f"all logits: {mb['ours']:.0f} over {mb['all logits']:.0f} MB; TRL's head {mb['trl']:.0f} MB",
                command=COMMAND,
            )
        )
    return figures


def shared(one: Steps, two: Steps) -> list[Figure]:
    command = f"{COMMAND} --lengths --by-image --rejected --qwen-lengths --no-memory"
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
