"""Stages over artifacts, with the fake engine where no model is needed."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import FingerprintMismatch, NothingLeft, UserError
from seva_ray.core.records import Prompt
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import exists, read_table
from seva_ray.core.system_texts import VICUNA_V1
from seva_ray.dpo.config import Train
from seva_ray.engines import Decoding, FakeEngine, TransformersEngine, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.engines.units import Unit
from seva_ray.pairs.files import lineage
from seva_ray.runtime import kept_engines
from seva_ray.runtime.cli import users_line
from seva_ray.sources import Table, ToyWorld
from seva_ray.stages.engine_pool import TASK_BYTES, commits, encoding_need, num_encoded, row_bytes, run_units
from seva_ray.stages.generate import generate, missing_units, open_responses
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.training.reference import open_logps, scoring_input_of
from seva_ray.stages.unit_worker import encoder
from seva_ray.vlm.models import Model, model_at
from tests.tiny_models import save_family

SYSTEM = "Answer in short."


@dataclass(frozen=True, kw_only=True)
class Run:
    store: Store
    model: Model
    config: Generate
    prompts: Artifact
    pairs: Artifact


@dataclass(frozen=True)
class OneBadRow:
    """Toy prompts, and a row that no source could use."""

    kind: ClassVar[str] = "OneBadRow"
    image_root: str | None = None

    def prompts(self) -> Iterator[Prompt]:
        yield from ToyWorld(num_images=2).prompts()
        yield Prompt(prompt_id="bad", image_id="bad", question="", source="toy", error="the question is empty")


@pytest.fixture(scope="module")
def engines(ray_cluster: None) -> Iterator[None]:
    """Most tests ask for equal engines. They are started once."""
    with kept_engines.kept_engines():
        yield


@pytest.fixture(scope="module")
def run(engines: None, toy_model: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = Store(str(tmp_path_factory.mktemp("runs")))
    config = Generate(engine=FakeEngine(), system=SYSTEM)
    model = model_at(toy_model)
    prompts = prepare(Prepare(shard_size=16), store, "toy", ToyWorld(num_images=8))
    chosen, rejected = generate(config, store, model, [(prompts, "clean"), (prompts, "diffusion-500")])
    pairs = pair(Pair(), store, prompts, chosen, [rejected])
    return Run(store=store, model=model, config=config, prompts=prompts, pairs=pairs)


def response_files(run: Run, view: str) -> dict[Path, int]:
    folder = Path(run.store.uri(f"responses/{run.model.name}/toy/{view}"))
    return {path: path.stat().st_mtime_ns for path in folder.glob("shard-*.parquet")}


def test_a_second_view_shares_the_clean_responses(run: Run):
    clean = response_files(run, "clean")
    generate(run.config, run.store, run.model, [(run.prompts, "clean"), (run.prompts, "diffusion-700")])
    assert response_files(run, "clean") == clean
    assert len(response_files(run, "diffusion-700")) == run.prompts.counts["num_shards"]


def test_only_the_missing_unit_is_generated_again_and_gives_the_same_bytes(run: Run):
    folder = Path(run.store.uri(f"responses/{run.model.name}/toy/diffusion-500"))
    before = response_files(run, "diffusion-500")
    lost = folder / shard_name(1)
    content = lost.read_bytes()
    lost.unlink()
    (folder / "record.json").unlink()
    generate(run.config, run.store, run.model, [(run.prompts, "diffusion-500")])
    after = response_files(run, "diffusion-500")
    assert lost.read_bytes() == content
    assert {path for path in after if after[path] != before[path]} == {lost}


def test_units_go_to_ray_data_in_portions_with_the_same_result(run: Run, monkeypatch: pytest.MonkeyPatch):
    before = {path: path.read_bytes() for path in response_files(run, "diffusion-500")}
    for path in before:
        path.unlink()
    (next(iter(before)).parent / "record.json").unlink()
    portions = []

    def counted(config: Generate, shards: Sequence[Sequence[Unit]]) -> Iterator[dict[str, Any]]:
        portions.append(len(shards))
        yield from commits(config, shards)

    kept_engines.let_go()
    monkeypatch.setattr(kept_engines, "keepers", [])  # engines that are kept would answer all portions in one run
    monkeypatch.setattr("seva_ray.stages.engine_pool.UNITS_PER_CALL", 3)
    monkeypatch.setattr("seva_ray.stages.engine_pool.commits", counted)
    generate(run.config, run.store, run.model, [(run.prompts, "diffusion-500")])
    assert portions == [3] * (len(before) // 3) + [len(before) % 3] * bool(len(before) % 3)
    assert len(portions) > 1
    assert {path: path.read_bytes() for path in response_files(run, "diffusion-500")} == before


def test_an_engine_that_cannot_load_its_model_takes_no_name(run: Run, tmp_path: Path, toy_model: str):
    broken = tmp_path / "broken"
    shutil.copytree(toy_model, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    store, model = Store(str(tmp_path / "runs")), Model(name="broken", directory=str(broken), fingerprint="")
    config = replace(run.config, engine=TransformersEngine())
    with pytest.raises(Exception, match="header"):
        generate(config, store, model, [(run.prompts, "clean")])
    assert not exists(store.uri("responses"))
    other = replace(run.config, decoding=Decoding(max_new_tokens=3))
    assert generate(other, store, model, [(run.prompts, "clean")])[0].complete


def test_a_job_whose_name_another_one_took_meanwhile_is_told_in_a_line_and_writes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store, other = Store(str(tmp_path)), replace(run.config, decoding=Decoding(max_new_tokens=3))
    taken = open_responses(other, store, run.model, run.prompts, "clean")

    def while_another_begins(config: Generate, units: Sequence[Unit]) -> Iterator[tuple[Unit, Any]]:
        taken.begin()
        return run_units(config, units)

    monkeypatch.setattr("seva_ray.stages.generate.run_units", while_another_begins)
    with pytest.raises(Exception, match="made by another recipe") as caught:
        generate(run.config, store, run.model, [(run.prompts, "clean")])
    line = users_line(caught.value)
    assert line is not None
    assert line.startswith(f"{taken.name}: made by another recipe (config.decoding.max_new_tokens: 3 -> 512")
    assert [path.name for path in Path(taken.uri).iterdir()] == ["recipe.json"]


def test_encoding_asks_for_memory_by_the_rows_of_its_shards_and_the_images_that_views_do_not_share(run: Run):
    units: list[Unit] = []
    for view in ("diffusion-300", "moco", "sampled-0.7"):
        responses = open_responses(run.config, run.store, run.model, run.prompts, view)
        units += missing_units(run.model, run.prompts, view, responses)[:1]
    assert {unit.num_rows for unit in units} == {16}
    assert num_encoded(units) == 2 * 16
    assert encoding_need(num_encoded(units), 10.0)["memory"] == TASK_BYTES + 2 * 16 * 10


def test_the_clean_view_does_not_depend_on_the_augmentation_seed_but_a_noised_one_does(run: Run):
    other = replace(run.config, seed=1)
    generate(other, run.store, run.model, [(run.prompts, "clean")])
    with pytest.raises(FingerprintMismatch, match="seed: 0 -> 1"):
        generate(other, run.store, run.model, [(run.prompts, "diffusion-500")])


def test_sampled_views_are_other_recipes_at_every_temperature_and_draw(run: Run):
    views = ("clean", "sampled-0.7", "sampled-0.7=2", "sampled-1")
    made = generate(run.config, run.store, run.model, [(run.prompts, view) for view in views])
    assert len({artifact.fingerprint for artifact in made}) == len(views)
    texts = [read_table(artifact.path(shard_name(0)))["text"].to_pylist() for artifact in made]
    assert len({tuple(of_view) for of_view in texts}) == len(views)


def test_training_reads_the_prompt_that_generation_used(run: Run):
    prompts, chosen, _ = lineage(run.store, run.pairs)
    assert scoring_input_of(Train(), run.model, prompts, chosen).system == SYSTEM


def test_training_may_read_the_prompt_with_another_system_text_and_has_its_own_reference(run: Run):
    prompts, chosen, _ = lineage(run.store, run.pairs)
    official = Train(system="vicuna_v1")
    assert scoring_input_of(official, run.model, prompts, chosen).system == VICUNA_V1
    usual, own = (open_logps(config, run.store, run.model, run.pairs) for config in (Train(), official))
    assert own.name == f"{usual.name}-vicuna_v1"
    assert "system" not in usual.recipe["config"]


def test_training_may_strip_questions_and_has_its_own_reference(run: Run):
    prompts, chosen, _ = lineage(run.store, run.pairs)
    official = Train(strip_questions=True)
    assert scoring_input_of(official, run.model, prompts, chosen).strip_questions
    assert not scoring_input_of(Train(), run.model, prompts, chosen).strip_questions
    usual, own = (open_logps(config, run.store, run.model, run.pairs) for config in (Train(), official))
    assert own.name == f"{usual.name}-stripped"
    assert own.recipe["config"] == usual.recipe["config"] | {"strip_questions": True}


def test_pairs_know_what_they_were_made_from(run: Run):
    prompts, chosen, rejected = lineage(run.store, run.pairs)
    assert prompts.name == run.prompts.name
    assert chosen.name.endswith("/clean")
    assert [item.name.rsplit("/", 1)[-1] for item in rejected] == ["diffusion-500"]


def test_a_row_that_prepare_marked_is_a_failed_verdict_and_costs_the_others_nothing(run: Run, tmp_path: Path):
    store = Store(str(tmp_path))
    prompts = prepare(Prepare(), store, "marked", OneBadRow())
    chosen, rejected = generate(run.config, store, run.model, [(prompts, "clean"), (prompts, "diffusion-500")])
    pairs = pair(Pair(), store, prompts, chosen, [rejected])
    verdicts = {row["prompt_id"]: row for row in read_table(pairs.path("verdicts", shard_name(0))).to_pylist()}
    assert verdicts["bad"]["verdict"] == "failed"
    assert verdicts["bad"]["error"] == "the question is empty"
    assert pairs.counts["verdicts"]["failed"] == 1
    assert pairs.counts["verdicts"]["kept"] == len(verdicts) - 1


def test_responses_that_are_all_equal_leave_no_pair_and_one_line_says_so(run: Run, tmp_path: Path):
    store = Store(str(tmp_path))
    prompts = prepare(Prepare(), store, "toy", ToyWorld(num_images=2))
    (clean,) = generate(run.config, store, run.model, [(prompts, "clean")])
    with pytest.raises(NothingLeft, match="no pair is left"):
        pair(Pair(), store, prompts, clean, [clean])


def test_prompts_without_any_image_burn_no_name_and_start_no_engine(run: Run, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"question": "what?", "image": "{n}.png"}}\n' for n in range(3)))
    store = Store(str(tmp_path / "runs"))
    for image_root, reason in (("photos", "no such file under image_root"), ("away", "there is no such directory on")):
        (tmp_path / image_root).mkdir()
        source = Table(path=str(tmp_path / "rows.jsonl"), image_root=str(tmp_path / image_root))
        prompts = prepare(Prepare(), store, image_root, source)
        if image_root == "away":
            (tmp_path / image_root).rmdir()  # as on a machine where the disk is not mounted
        with pytest.raises(UserError) as caught:
            generate(run.config, store, run.model, [(prompts, "clean")])
        assert reason in (users_line(caught.value) or "")
    assert not Path(store.uri("responses")).exists()


def test_failed_rows_are_answered_again_when_their_images_are_there_and_what_follows_is_made_again(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [{"question": "what?", "image": f"{name}.png"} for name in "abc"] + [{"question": "", "image": "a.png"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in "ab":
        Image.new("RGB", (8, 8), (200, ord(name), 0)).save(tmp_path / f"{name}.png")
    store = Store(str(tmp_path / "runs"))
    table = Table(path=str(tmp_path / "rows.jsonl"), image_root=str(tmp_path))
    prompts = prepare(Prepare(shard_size=2), store, "t", table)

    def made(config: Generate) -> tuple[list[Artifact], Artifact]:
        both = generate(config, store, run.model, [(prompts, "clean"), (prompts, "diffusion-900")])
        return both, pair(Pair(), store, prompts, both[0], both[1:])

    retry = replace(run.config, retry_failed=True)
    first, pairs = made(run.config)
    assert (first[0].counts["num_error"], pairs.counts["verdicts"]["failed"]) == (2, 2)
    Image.new("RGB", (8, 8), (200, 9, 0)).save(tmp_path / "c.png")
    assert made(run.config) == (first, pairs)
    capsys.readouterr()
    second, again = made(retry)
    assert (second[0].counts["num_error"], again.counts["verdicts"]["failed"]) == (1, 1)
    said = capsys.readouterr().err.splitlines()
    assert f"generate with {run.model.name}: 2 units to do" in said
    inputs = f"{first[0].name}, {first[1].name} have other contents since it was made"
    assert f"{pairs.name}: {inputs}: this is made again" in said
    before, after = (
        read_table(item.path(shard_name(0))).to_pylist() + read_table(item.path(shard_name(1))).to_pylist()
        for item in (first[0], second[0])
    )
    assert [row["prompt_id"] for row in after] == ["0", "1", "2", "3"]
    assert after[2]["error"] is None
    assert made(retry) == (second, again), "a row that cannot be used is not tried again"
    assert [before[place] for place in (0, 1, 3)] == [after[place] for place in (0, 1, 3)]


def test_memory_for_a_row_follows_what_the_model_reads_of_a_photograph(toy_model: str, tmp_path: Path) -> None:
    """Tiles and patches of one photograph may take more than a hundred times what LLaVA-1.5 reads."""

    def asked(directory: str) -> float:
        of_model = Unit(
            model="m",
            model_directory=directory,
            prompts_uri="",
            responses_uri="",
            view="clean",
            image_root=None,
            system="",
            num_rows=1,
        )
        return row_bytes(Generate(engine=VllmEngine()), of_model)

    assert asked(toy_model) == 48 * 48 * 3
    qwen = save_family("qwen2_5_vl", tmp_path / "qwen")
    settings = tmp_path / "qwen" / "processor_config.json"
    read = json.loads(settings.read_text())
    read["image_processor"]["size"] = {"shortest_edge": 3136, "longest_edge": 12_845_056}
    settings.write_text(json.dumps(read))
    encoder.cache_clear()
    num_pixels = 1288 * 952  # 1280 x 960 at multiples of 28
    assert asked(qwen) == pytest.approx(num_pixels * 3 * 2, rel=0.01)


def test_settings_of_the_image_processor_are_in_the_recipe_and_training_reads_with_them(run: Run, tmp_path: Path):
    """Without any, the recipe is that of before."""
    prompts, chosen, _ = lineage(run.store, run.pairs)
    assert "image_options" not in chosen.recipe["config"]
    assert scoring_input_of(Train(), run.model, prompts, chosen).image_options == ""
    options = '{"size": {"longest_edge":56}}'
    bound = replace(run.config, image_options=options)
    other = open_responses(bound, Store(str(tmp_path)), run.model, prompts, "clean")
    assert other.fingerprint != chosen.fingerprint
    assert other.recipe["config"]["image_options"] == json.loads(options)
    assert json.loads(scoring_input_of(Train(), run.model, prompts, other).image_options) == json.loads(options)
    spaced = replace(run.config, image_options=options.replace(":", " : "))
    assert open_responses(spaced, Store(str(tmp_path)), run.model, prompts, "clean").fingerprint == other.fingerprint
