"""Engine: rows/s of the whole generate stage over those of a bare `vllm.LLM.generate`.

The bare engine is given the same requests, already prepared, all at once: the same tokens, pixels and sampling, the
same engine options, in-process like ours, on the same one core.
"""

import os
import tempfile
import time
from dataclasses import replace

from bench.figures import Figure
from bench.fresh import in_fresh_process
from bench.paced import run_stage
from bench.workload import DECODING, LLAVA_SHAPED, TOY, VIEW, Workload
from seva_ray.core.artifacts import Store
from seva_ray.engines import Request
from seva_ray.engines.units import Unit, encode
from seva_ray.engines.vllm import load
from seva_ray.runtime.progress import say
from seva_ray.stages.prepare import Prepare, prepare, shard_name
from seva_ray.vlm.views import Viewer


def prepared_requests(workload: Workload, limit: int | None = None) -> list[Request]:
    """What the stage makes of the workload's prompts."""
    viewer = Viewer(
        encoder=workload.engine.encoder(workload.model.directory, ""), image_root=None, max_pixels=10**7, seed=0
    )
    requests: list[Request] = []
    with tempfile.TemporaryDirectory() as root:
        prompts = prepare(Prepare(shard_size=workload.shard_size), Store(root), "bench", workload.source)
        for index in range(prompts.counts["num_shards"]):
            unit = Unit(
                model="",
                model_directory="",
                prompts_uri=prompts.path(shard_name(index)),
                responses_uri="",
                view=VIEW,
                system="",
                image_root=None,
                num_rows=workload.shard_size,
            )
            requests += encode(unit, viewer).requests()
            if limit and len(requests) >= limit:
                return requests[:limit]
    return requests


def bare_rate(workload: Workload) -> float:
    """Rows/s of `LLM.generate`."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    prompts = [
        {
            "prompt_token_ids": list(request.prompt_ids),
            "multi_modal_data": {"image": request.pixels},
            "multi_modal_uuids": {"image": request.pixels_id},
        }
        for request in prepared_requests(workload)
    ]
    llm, sampling = load(workload.engine, workload.model.directory, DECODING)
    started = time.monotonic()
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    seconds = time.monotonic() - started
    assert {len(output.outputs[0].token_ids) for output in outputs} == {DECODING.max_new_tokens}
    return len(outputs) / seconds


def measure(command: str, full: bool) -> list[Figure]:
    figures = []
    for workload in (replace(TOY, num_prompts=6144), LLAVA_SHAPED):
        stage = in_fresh_process(run_stage, workload, [VIEW]).rate
        bare = in_fresh_process(bare_rate, workload)
        say(f"engine, {workload.name}: stage {stage:.2f} rows/s, bare {bare:.2f} rows/s")
        figures.append(
            Figure(
                figure=f"rows/s of the generate stage, {workload.name}, one core for vLLM",
                ratio=stage / bare,
                target=0.95,
                better="higher",
                rival=f"bare vllm.LLM.generate on prepared requests, one core: {stage:.2f} over {bare:.2f} rows/s",
                command=command,
            )
        )
    return figures
