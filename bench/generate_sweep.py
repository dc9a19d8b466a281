"""Sweep: four augmented views in one generate() call, which is five passes, over four runs of clean and one view each,
as a script per strength would do, which is eight. The toy model and real vLLM.

The ratio leaves out the start of the engines, which is once against four times: its share depends on the run's size.
"""

from dataclasses import replace

from bench.figures import Figure
from bench.fresh import in_fresh_process
from bench.paced import run_stage
from bench.workload import TOY
from seva_ray.runtime.progress import say

VIEWS = ("diffusion-200", "diffusion-400", "diffusion-600", "diffusion-800")
WORKLOAD = replace(TOY, num_prompts=1024, shard_size=128)


def measure(command: str, full: bool) -> list[Figure]:
    together = in_fresh_process(run_stage, WORKLOAD, ["clean", *VIEWS])
    apart = [in_fresh_process(run_stage, WORKLOAD, ["clean", view]) for view in VIEWS]
    seconds = sum(pace.seconds for pace in apart)
    passes = (len(VIEWS) + 1) / (2 * len(VIEWS))
    whole = together.whole_seconds / sum(pace.whole_seconds for pace in apart)
    say(f"sweep: {together.seconds:.0f} s over {seconds:.0f} s; {whole:.3f} with the engines' start")
    return [
        Figure(
            figure=f"time of {len(VIEWS)} views in one call, engine start left out",
            ratio=together.seconds / seconds,
            target=0.7,
            better="lower",
            rival=f"a run for each view: {together.seconds:.0f} over {seconds:.0f} s; passes {passes:.3f}, with engine "
            f"start {whole:.3f}",
            command=command,
        )
    ]
