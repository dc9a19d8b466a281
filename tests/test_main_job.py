"""The main job, run as a user runs it: real Ray, vLLM, TRL and DeepSpeed on a small world."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import read_table
from seva_ray.engines import Decoding, Request, TransformersEngine
from seva_ray.pairs.verdicts import VERDICTS
from seva_ray.stages.prepare import shards_of
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.views import Viewer
from tests.environment import pythonpath
from tests.kept import read_pairs
from tests.listeners import beyond_loopback, run_watched

JOBS = Path(__file__).parent.parent / "jobs"
NUM_IMAGES = 30
VIEW = "diffusion-600"  # strong enough for two pairs from an image


def command(root: Path, model: str, *extra: str) -> list[str]:
    return [
        sys.executable, str(JOBS / "full.py"), "--root", str(root), "--model", model, "--views", VIEW,
        "--benchmarks.toy-images", "10", "--prepare.shard-size", "64", "--train.num-pairs", "48",
        "--train.save-steps", "2", "--train.num-repeats", "8", "--controls", "control-batch",
        "--generate.max-engines", "1", *extra,
        "source:toy-world", "--source.num-images", str(NUM_IMAGES),
    ]  # fmt: skip


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(words, capture_output=True, text=True, timeout=600)


def run_and_kill(words: list[str], when: Callable[[], bool]) -> None:
    """SIGKILL for the driver and all that it started, as soon as `when` holds."""
    victim = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 400
    while not when():
        assert victim.poll() is None, victim.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.communicate()


@pytest.fixture(scope="module")
def finished(trained_toy: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run that was killed in the middle of training, and then run to its end."""
    root = tmp_path_factory.mktemp("runs")
    words = command(root, trained_toy)
    saved = root / "policies" / "toy" / "run" / "checkpoint_manager_snapshot.json"
    run_and_kill(words, saved.exists)
    before = {path: path.stat().st_mtime_ns for path in (root / "responses").rglob("shard-*.parquet")}
    assert before
    assert not (root / "policies" / "toy" / "record.json").exists()
    again, listeners = run_watched(words)
    assert again.returncode == 0, again.stderr
    assert {"gcs_server", "raylet"} <= {name for name, _ in listeners}
    assert not beyond_loopback(listeners), "nothing of the job can be reached from another machine"
    assert "train: resumed at step" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before, "units that were done are not done again"
    return Store(str(root))


def test_a_killed_job_resumes_and_every_prompt_has_one_response(finished: Store, trained_toy: str):
    prompts = finished.find("prompts/toy")
    for view in ("clean", VIEW):
        responses = finished.find(f"responses/{Path(trained_toy).name}/toy/{view}")
        for name in shards_of(prompts):
            ids = [read_table(item.path(name))["prompt_id"].to_pylist() for item in (prompts, responses)]
            assert ids[0] == ids[1]


def test_verdicts_add_up_and_kept_pairs_are_in_every_export(finished: Store, trained_toy: str):
    pairs = finished.find(f"pairs/{Path(trained_toy).name}/toy/{VIEW}")
    prompts = finished.find("prompts/toy")
    verdicts = pairs.counts["verdicts"]
    assert set(verdicts) == set(VERDICTS)
    assert sum(verdicts.values()) == prompts.counts["num_prompts"] == pairs.counts["num_prompts"]
    rows = read_pairs(pairs).to_pylist()
    assert len(rows) == verdicts["kept"] > 25
    assert all([item["view"] for item in row["rejected"]] == [VIEW] for row in rows)
    texts = [(row["chosen"], row["rejected"][0]["text"]) for row in rows]
    assert all(chosen != rejected for chosen, rejected in texts)
    official = json.loads(Path(pairs.path("pairs.json")).read_text())
    assert [(*pair, row["question"], row["image_id"]) for pair, row in zip(texts, rows, strict=True)] == [
        (row["chosen"], row["reject"], row["question"], row["image_id"]) for row in official
    ]


def test_the_second_run_does_no_work(finished: Store, trained_toy: str):
    root = Path(finished.root)
    before = {
        path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and "reports" not in path.parts
    }
    again = run(*command(root, trained_toy))
    assert again.returncode == 0, again.stderr
    after = {
        path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and "reports" not in path.parts
    }
    assert after == before
    assert not re.search(r"^(prepare|generate|pair|train|evaluate)", again.stderr, re.MULTILINE), again.stderr
    reused = "reused: prompts, 5 responses, 2 pairs, policy, 2 scores"
    said = [line for line in again.stderr.splitlines() if not line.endswith("so far")]  # the machine may be busy
    unchanged = f"report: {root}/reports/toy/index.html (unchanged)"
    assert said == [f"full toy: root {root}", reused, unchanged]
    trained = run(*command(root, trained_toy, "--until", "train"))
    assert (trained.returncode, trained.stdout) == (0, f"toy, train:\n  {root}/policies/toy\n"), trained.stderr
    assert trained.stderr.splitlines()[1:] == ["reused: prompts, 3 responses, 2 pairs, policy"]
    head, deployment, clean, page = again.stdout.splitlines()
    assert head == f"toy, aligned from {Path(trained_toy).name}:"
    value, difference = r"\d+\.\d", r"[+-]\d+\.\d"
    found = rf": {value} -> {value}, {difference} \[{difference}, {difference}\](: not distinguishable .*)?$"
    assert re.match(r"  VQA accuracy on toy-test-clean-\d+-10" + found, clean)
    assert re.match(r"  VQA accuracy on toy-test-deployment-\d+-10" + found, deployment)
    assert page.strip() == finished.uri("reports/toy/index.html")
    html = Path(page.strip()).read_text()
    assert html.index(clean.strip().partition(":")[0]) < html.index("<nav"), "the page begins with what was found"


def test_training_learns_to_prefer_the_chosen_responses(finished: Store):
    trained = finished.find("policies/toy")
    log = [row for row in json.loads(Path(trained.path("log.json")).read_text()) if "loss" in row]
    assert [row["step"] for row in log] == list(range(1, trained.counts["num_steps"] + 1)), "also across the kill"
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "policy and reference are one model at the start"
    assert log[-1]["rewards/margins"] > 0.05
    assert log[-1]["loss"] < log[0]["loss"]


def test_vllm_and_transformers_give_the_same_answers_on_the_same_noised_tensors(finished: Store, trained_toy: str):
    assert agreement(finished, Path(trained_toy).name, trained_toy, "toy", VIEW) >= 0.95


def test_the_exported_policy_answers_the_same_in_vllm_and_transformers(finished: Store):
    directory = finished.find("policies/toy").path("model")
    tests = next(name for name in finished.names("prompts") if "deployment" in name).removeprefix("prompts/")
    assert agreement(finished, "toy", directory, tests, "clean") >= 0.95


def agreement(store: Store, model: str, directory: str, prompts_name: str, view: str, num_prompts: int = 50) -> float:
    """Share of prompts where transformers emits the very token ids that vLLM emitted in the run.

    Both compute in float32 but sum in other orders, so an answer may differ where two tokens are nearly tied.
    """
    prompts = store.find(f"prompts/{prompts_name}")
    responses = store.find(f"responses/{model}/{prompts_name}/{view}")
    names = shards_of(prompts)
    rows = [row for name in names for row in read_table(prompts.path(name)).to_pylist()][:num_prompts]
    emitted = {
        row["prompt_id"]: row["token_ids"] for name in names for row in read_table(responses.path(name)).to_pylist()
    }
    viewer = Viewer(encoder=Encoder(directory), image_root=None, max_pixels=10**6)
    requests = [
        Request(prompt_id=row["prompt_id"], row=viewer.row(row, view), image_id=row["prompt_id"]) for row in rows
    ]
    decoding = Decoding(max_new_tokens=responses.recipe["config"]["decoding"]["max_new_tokens"])
    generator = TransformersEngine(dtype="float32").load(directory, decoding)
    same = [list(answer.token_ids) == emitted[answer.prompt_id] for answer in generator.generate(requests)]
    assert len(same) == num_prompts
    return sum(same) / num_prompts


ADAPTER_IN_VLLM = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from seva_ray.vlm.encoding import Encoder
from seva_ray.engines import Decoding, VllmEngine
from seva_ray.engines.vllm import options_of
from seva_ray.private import vllm as private_vllm
from seva_ray.core.storage import read_table
from seva_ray.vlm.views import Viewer

start, adapter, prompts, number, limit = sys.argv[1:]
viewer = Viewer(encoder=Encoder(start), image_root=None, max_pixels=10**6)
options = options_of(VllmEngine(dtype="float32", max_model_len=256, enforce_eager=True), start, Decoding())
llm = LLM(**options, enable_lora=True, max_lora_rank=16)
private_vllm.pass_rows(llm)
greedy, policy = SamplingParams(temperature=0, max_tokens=int(limit)), LoRARequest("policy", 1, adapter)
for name, prompt in enumerate(read_table(prompts).to_pylist()[: int(number)]):
    row = viewer.row(prompt)
    given = private_vllm.rendered(llm, row.ids, row.features, row.size, str(name), viewer.encoder.image_token_id)
    llm.llm_engine.add_request(str(name), given, greedy, lora_request=policy)
outputs = {}
while llm.llm_engine.has_unfinished_requests():
    outputs |= {int(output.request_id): output for output in llm.llm_engine.step() if output.finished}
print(json.dumps([list(outputs[name].outputs[0].token_ids) for name in sorted(outputs)]))
"""


def test_the_exported_adapter_in_vllm_answers_as_the_merged_policy(finished: Store, trained_toy: str, tmp_path: Path):
    words = ["--name", "toy", "--root", finished.root, "--export.what", "adapter", "--export.to", str(tmp_path / "out")]
    done = run(sys.executable, str(JOBS / "export.py"), *words)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json"} <= names
    assert "model.safetensors" not in names
    prompts = next(name for name in finished.names("prompts") if "deployment" in name)
    base, responses = (
        finished.find(f"responses/{name}/{prompts.removeprefix('prompts/')}/clean")
        for name in (Path(trained_toy).name, "toy")
    )
    limit = responses.recipe["config"]["decoding"]["max_new_tokens"]
    shard, number = finished.find(prompts).path(shard_name(0)), 60
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    answered = subprocess.run(
        [sys.executable, "-c", ADAPTER_IN_VLLM, trained_toy, str(tmp_path / "out"), shard, str(number), str(limit)],
        env=os.environ | environment | {"PYTHONPATH": pythonpath()},
        capture_output=True,
        text=True,
    )
    assert answered.returncode == 0, answered.stderr[-3000:]
    of_adapter = json.loads(answered.stdout.splitlines()[-1])
    of_base, of_merged = (
        read_table(item.path(shard_name(0)))["token_ids"].to_pylist()[:number] for item in (base, responses)
    )
    as_merged, as_base = (
        sum(a == b for a, b in zip(of_adapter, others, strict=True)) for others in (of_merged, of_base)
    )
    assert as_merged >= 0.95 * number
    assert as_merged > as_base, "the adapter changes nothing"


def test_a_policy_is_exported_with_a_card_that_has_its_scores_and_never_over_something(finished: Store, tmp_path: Path):
    words = ["--name", "toy", "--root", finished.root, "--export.to", str(tmp_path / "out")]
    done = run(sys.executable, str(JOBS / "export.py"), *words)
    assert done.returncode == 0, done.stderr
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert "| VQA accuracy |" in (tmp_path / "out" / "README.md").read_text()
    again = run(sys.executable, str(JOBS / "export.py"), *words)
    assert again.returncode == 2
    assert again.stderr.splitlines() == [
        f"export toy: root {finished.root}",
        f"error: to {tmp_path / 'out'}: already exists; choose another place or remove it",
    ]


def test_scores_come_with_intervals_for_both_cameras(finished: Store):
    scores = [finished.find(name) for name in finished.names("scores")]
    assert len(scores) == 2
    for item in scores:
        rows = {row["metric"]: row for row in json.loads(Path(item.path("comparisons.json")).read_text())}
        vqa = rows["VQA accuracy"]
        assert vqa["difference_low"] <= vqa["difference"] <= vqa["difference_high"]
        assert {f"POPE {category} F1" for category in ("random", "popular", "adversarial")} <= set(rows)


def test_the_report_is_one_file_with_the_whole_funnel(finished: Store):
    page = Path(finished.uri("reports/toy/index.html")).read_text()
    assert "Answers that differ from the first ones: 0 (0.0%) in control-batch. Only" in page
    assert "Content-Security-Policy" in page
    assert VIEW in page
    assert "data:image/png;base64," in page


def test_another_recipe_under_the_same_name_is_refused_in_one_line(finished: Store, trained_toy: str):
    result = run(*command(Path(finished.root), trained_toy, "--train.beta", "0.3"))
    assert result.returncode == 2
    assert re.search(r"^error: policies/toy: .*beta: 0.1 -> 0.3", result.stderr, re.MULTILINE), result.stderr
    assert "Traceback" not in result.stderr
