"""bench-methods: how long a step of each method takes, against SeVa's -> build/bench/methods.json, and a table.

    python -m bench.methods

The same model (LLaVA-1.5's shapes but small: 576 image tokens), pairs and precision (float32) for all, LoRA, batch of
two pairs. A step is data, forward, backward and optimiser. All methods make their steps by turns in one process, and
CPU time is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import Figure, keep, read, table
from bench.fresh import in_fresh_process
from bench.train_step import LORA, NUM_IMAGE_TOKENS, Case, Side, rows_of, trainer_of, viewer_of
from seva_ray.dpo.config import Train
from seva_ray.dpo.methods import METHODS, trained_by
from seva_ray.runtime.cli import run
from seva_ray.runtime.progress import say

RESULTS = Path("build/bench/methods.json")
COMMAND = "python -m bench.methods"
VIEW = "diffusion-500"
"""The view of every rejected response."""


@dataclass(frozen=True, kw_only=True)
class BenchMethods:
    """What is measured."""

    methods: tuple[str, ...] = ("anchor", "seva+image", "mdpo", "symmpo")
    """Methods to compare with SeVa."""
    num_tokens: int = 100
    """Tokens of every response."""
    rounds: int = 3
    """Number of steps of each method."""


def main(config: BenchMethods) -> None:
    case = Case(num_tokens=config.num_tokens, num_rejected=1)
    usual, *others = in_fresh_process(steps_of, ("seva", *config.methods), case, config.rounds)
    for name, found in zip(config.methods, others, strict=True):
        say(f"{name}: {found:.2f} s against {usual:.2f} s")
        figure = Figure(
            figure=f"time of a step of {name}, {case}",
            ratio=found / usual,
            target=1.9,
            better="lower",
            rival=f"SeVa: {found:.2f} over {usual:.2f} s; by operations {by_operations(name, case):.2f}",
            command=COMMAND,
        )
        keep(RESULTS, [figure])
    print(table(read(RESULTS)))


def by_operations(name: str, case: Case) -> float:
    """Operations of a step over those of SeVa's, in tokens of the language model."""
    loss = METHODS[name].loss
    prompt, response = NUM_IMAGE_TOKENS[case.workload.name] + 20, case.num_tokens
    on_view = prompt + (2 if loss.symmetric_weight else 1) * response if loss.reads_view else 0
    return 1 + on_view / (prompt + 2 * response)


def steps_of(names: Sequence[str], case: Case, rounds: int) -> list[float]:
    """CPU seconds of a step of each method, the least of all rounds after the first."""
    import torch

    torch.set_num_threads(1)
    sides = [side_of(name, case) for name in names]
    taken = [[side.step() for side in sides] for _ in range(1 + rounds)]
    return [min(of_side) for of_side in zip(*taken[1:], strict=True)]


def side_of(name: str, case: Case) -> Side:
    from seva_ray.dpo.batch import PreferenceCollator
    from seva_ray.dpo.on_view import with_view
    from seva_ray.stages.training.trainer import PreferenceTrainer

    config = trained_by(name, Train(lora=LORA, dtype="float32"))
    directory = case.workload.model.directory
    collate = with_view(PreferenceCollator(viewer=viewer_of(directory)), config.loss)
    rows = [seen(row) for row in rows_of(case)]
    return Side(trainer_of(PreferenceTrainer, directory, rows, config=config), collate, rows)


def seen(row: dict[str, Any]) -> dict[str, Any]:
    """The pair with the view of its rejected response, and its log-probabilities there."""
    return row | {"rejected": [{"view": VIEW, **item} for item in row["rejected"]], "view_ref_logps": [0.0, 0.0]}


if __name__ == "__main__":
    run(main, {"methods": BenchMethods()}, "The time of a training step by method.")
