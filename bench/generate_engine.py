"""Engine: rows/s of the whole generate stage over those of a bare `vllm.LLM.generate`.

The bare engine is given the same requests, already prepared, all at once: the same tokens, pixels and sampling, the
same engine options, in-process like ours, on the same one core.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace

from bench.figures import Figure
from bench.fresh import in_fresh_process
from bench.paced import run_stage
from bench.workload import DECODING, LLAVA_SHAPED, TOY, VIEW, Workload
from seva_ray.core.artifacts import Store
from seva_ray.core.shards import shard_name
from seva_ray.engines import Request
from seva_ray.engines.encoded import encode, encoded_of
from seva_ray.engines.units import Unit
from seva_ray.engines.vllm import options_of, sampling_of
from seva_ray.runtime.progress import say
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.views import Viewer

AS_GIVEN = {
    "do_resize": False,
    "do_center_crop": False,
    "do_rescale": False,
    "do_normalize": False,
    "do_convert_rgb": False,
}
"""Settings of vLLM's image processor for pixels that are prepared already."""


def prepared_requests(workload: Workload, limit: int | None = None) -> list[Request]:
    """The requests that the stage makes from the workload's prompts."""
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
            (encoded,) = encoded_of(*encode([unit], viewer))
            requests += [replace(item, row=viewer.encoder.finished(item.row)) for item in encoded.requests()]
            if limit and len(requests) >= limit:
                return requests[:limit]
    return requests


def bare_rate(workload: Workload) -> float:
    """Rows/s of `LLM.generate`."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    from vllm import LLM

    llm = LLM(**options_of(workload.engine, workload.model.directory, DECODING), mm_processor_kwargs=AS_GIVEN)
    image_token = workload.engine.encoder(workload.model.directory, "").image_token_id
    prompts = [
        {
            "prompt_token_ids": with_one(image_token, request.row.ids),
            "multi_modal_data": {"image": request.row.features["pixel_values"][0]},
            "multi_modal_uuids": {"image": request.image_id},
        }
        for request in prepared_requests(workload)
    ]
    sampling = sampling_of(DECODING)
    started = time.monotonic()
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    seconds = time.monotonic() - started
    assert {len(output.outputs[0].token_ids) for output in outputs} == {DECODING.max_new_tokens}
    return len(outputs) / seconds


def with_one(image_token: int, ids: Sequence[int]) -> list[int]:
    """The prompt with one token in place of all that stand for its image: vLLM's own processor wants it so."""
    first = list(ids).index(image_token)
    return [*ids[: first + 1], *(token for token in ids[first + 1 :] if token != image_token)]


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
