"""Rivals: the generate stage against the official loop (transformers' `generate`, one prompt at a time) and against
`ray.data.llm`, on the same rows of the toy model.

The loop is timed on prepared requests, on as many threads as suit it; `ray.data.llm` reads, augments, generates and
writes the same rows, and both it and the stage are timed in steady state.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray

from bench.figures import Figure
from bench.fresh import in_fresh_process, own_cluster
from bench.generate_engine import AS_GIVEN, prepared_requests, with_one
from bench.paced import run_stage, shards, steady_rate
from bench.workload import DECODING, TOY, VIEW, Workload
from seva_ray.core.artifacts import Store
from seva_ray.core.storage import read_table
from seva_ray.engines import TransformersEngine
from seva_ray.runtime.progress import say
from seva_ray.stages.prepare import Prepare, prepare, shards_of
from seva_ray.vlm.views import Viewer

LOOP_PROMPTS = 48


def loop_rate(workload: Workload, num_threads: int) -> float:
    """Rows/s of the official loop."""
    import torch

    torch.set_num_threads(num_threads)
    requests = prepared_requests(workload, LOOP_PROMPTS)
    generator = TransformersEngine(batch_size=1).load(workload.model.directory, DECODING)
    generator.generate(requests[:2])
    started = time.monotonic()
    responses = generator.generate(requests)
    seconds = time.monotonic() - started
    assert {len(response.token_ids) for response in responses} == {DECODING.max_new_tokens}
    return len(responses) / seconds


@cache
def viewer(workload: Workload) -> Viewer:
    encoder = workload.engine.encoder(workload.model.directory, "")
    return Viewer(encoder=encoder, image_root=None, max_pixels=10**7, seed=0)


def rows_of(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for prompt in read_table(row["uri"]).to_pylist():
        yield {key: prompt[key] for key in ("prompt_id", "question", "image_path", "image_bytes")}


def request_of(row: dict[str, Any], workload: Workload) -> dict[str, Any]:
    """The settings of our stage for vLLM, as `ray.data.llm` names them."""
    read = viewer(workload).row(row, VIEW)
    return {
        "prompt_id": row["prompt_id"],
        "prompt": "",
        "tokenized_prompt": with_one(viewer(workload).encoder.image_token_id, read.ids),
        "multimodal_data": {"image": read.features["pixel_values"][0]},
        "multimodal_uuids": {"image": row["prompt_id"]},
        "sampling_params": {"max_tokens": DECODING.max_new_tokens, "temperature": 0.0, "detokenize": False},
    }


def response_of(row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt_id": row["prompt_id"], "token_ids": list(row["generated_tokens"])}


def ray_data_llm_rate(workload: Workload) -> float:
    """Rows/s of `ray.data.llm`, from its first written file on."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    engine = workload.engine
    with tempfile.TemporaryDirectory() as root, own_cluster(num_cpus=2):
        prompts = prepare(Prepare(shard_size=workload.shard_size), Store(root), "bench", workload.source)
        config = vLLMEngineProcessorConfig(
            model_source=workload.model.directory,
            engine_kwargs={
                "dtype": engine.dtype,
                "max_model_len": engine.max_model_len,
                "max_num_seqs": engine.max_num_seqs,
                "enforce_eager": engine.enforce_eager,
                "enable_prefix_caching": engine.prefix_cache,
                "limit_mm_per_prompt": {"image": 1},
                "mm_processor_kwargs": AS_GIVEN,
                "mm_processor_cache_gb": 0,
                "disable_log_stats": True,
            },
            batch_size=64,
            max_concurrent_batches=8,
            concurrency=1,
            placement_group_config={"bundles": [{"CPU": 1}]},  # otherwise it waits for a GPU
            log_engine_metrics=False,
            prepare_multimodal_stage=False,
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
        )
        processor = build_processor(
            config,
            preprocess=lambda row: request_of(row, workload),
            postprocess=response_of,
        )
        uris = [{"uri": prompts.path(shard)} for shard in shards_of(prompts)]
        rows = ray.data.from_items(uris, override_num_blocks=len(uris)).flat_map(rows_of)
        written = Path(root, "written")
        processor(rows).write_parquet(str(written))
        files = sorted((file.stat().st_mtime, pq.read_metadata(file).num_rows) for file in shards(str(written)))
    assert sum(count for _, count in files) == workload.num_prompts
    return steady_rate(files)


def measure(command: str, full: bool) -> list[Figure]:
    pace = in_fresh_process(run_stage, TOY, [VIEW])
    loops = {threads: in_fresh_process(loop_rate, TOY, threads) for threads in sorted({1, os.cpu_count() or 1})}
    threads, loop = max(loops.items(), key=lambda item: item[1])
    rival = in_fresh_process(ray_data_llm_rate, TOY)
    say(f"rivals: stage {pace.rate:.1f} rows/s, loop {loop:.1f}, ray.data.llm {rival:.1f}")
    return [
        Figure(
            figure="rows/s of the generate stage over the official loop, toy",
            ratio=pace.rate / loop,
            target=10,
            better="higher",
            rival=f"transformers generate, batch 1, {threads} threads: {pace.rate:.1f} over {loop:.1f} rows/s",
            command=command,
        ),
        Figure(
            figure="rows/s of the generate stage over ray.data.llm, toy",
            ratio=pace.rate / rival,
            target=1.2,
            better="higher",
            rival=f"ray.data.llm, same rows and engine options: {pace.rate:.1f} over {rival:.1f} rows/s",
            command=command,
        ),
    ]
