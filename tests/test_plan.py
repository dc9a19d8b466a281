"""Planning: the arithmetic against numbers computed by hand, the price table, and what exists already."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

import plan as job
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError, FingerprintMismatch, InputError
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import write_bytes
from seva_ray.dpo.config import Loss
from seva_ray.engines import FakeEngine, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.planning.footprint import Sizes, demands, parts
from seva_ray.planning.forecast import forecast
from seva_ray.planning.prices import read_prices
from seva_ray.planning.rates import Fleet, Rates
from seva_ray.planning.simulation import Faults
from seva_ray.planning.work import Pass, RemainingWork, units_of
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import open_responses
from seva_ray.stages.pair import Pair, open_pairs
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.remaining_work import Run, remaining
from seva_ray.stages.training.worker import LOG
from seva_ray.vlm.models import Model, model_of
from tests.answered import write_answers

MODEL = Model(name="fake", directory=".", fingerprint="")
RATES = Rates(
    prepare_rows_per_s=1000,
    rows_per_s=5,
    start_s=100,
    encode_rows_per_s=50,
    read_files_per_s=10,
    pair_rows_per_s=2000,
    kept_share=0.4,
    reference_pairs_per_s=2,
    train_start_s=60,
    step_s=10,
)
FLEET = Fleet(gpus_per_node=8, cpus_per_node=96)
CLEAN_AND_ONE = [
    Pass(name=name, num_rows=100_000, num_units=100, left=[(100, 1000)]) for name in ("clean", "diffusion-500")
]
WORK = RemainingWork(
    num_prompts=100_000,
    shard_size=1000,
    num_rejected=1,
    passes=CLEAN_AND_ONE,
    tests=[(8, 1000)],
    gpus_per_engine=1,
    units_per_engine=2,
    num_workers=16,
    global_batch_size=128,
    num_repeats=2,
    most_pairs=None,
)


def stages_of(work=WORK, rates=RATES, fleet=FLEET, nodes=1):
    return {stage.name: stage for stage in forecast(work, rates, fleet, Faults(), nodes).stages}


# The arithmetic


def test_every_stage_takes_its_amount_over_its_rate():
    found = stages_of()
    assert found["prepare"].wall_s == 100_000 / 1000
    # 200 units of 200 s on 8 engines, 25 each; then 200 files.
    assert found["generate"].wall_s == pytest.approx(100 + 25 * 200 + 200 / 10)
    assert found["generate"].gpu_hours == pytest.approx(8 * 5100 / 3600)
    assert found["generate"].cpu_hours == pytest.approx(200_000 / 50 / 3600)
    # 50 s on 96 CPUs, then 100 files; before training, the same files.
    assert found["pair"].wall_s == pytest.approx(50 / 96 + 100 / 10)
    assert found["pair"].cpu_hours == pytest.approx(60 / 3600)
    assert found["reference"].wall_s == pytest.approx(40_000 / 2 / 16)
    assert found["train"].wall_s == pytest.approx(60 + 625 * 10 + 100 / 10)
    assert found["train"].gpu_hours == pytest.approx(16 * 6310 / 3600)
    assert found["evaluate"].wall_s == pytest.approx(100 + 200 + 8 / 10)
    assert not any(stage.unknown for stage in found.values())
    whole = forecast(WORK, RATES, FLEET, Faults(), 1)
    assert whole.total.wall_s == pytest.approx(100 + 5120 + 50 / 96 + 10 + 1250 + 6320 + 300.8)
    assert whole.total.driver_s == pytest.approx(100 + 20 + 10 + 10 + 0.8)


def test_units_go_no_faster_than_the_driver_takes_them():
    slow = stages_of(rates=replace(RATES, commits_per_s=0.02))
    assert slow["generate"].wall_s == pytest.approx(100 + 200 + 199 / 0.02 + 200 / 10)
    assert slow["reference"].wall_s == stages_of()["reference"].wall_s, "workers commit without the driver"


def test_shards_without_pairs_have_no_file_to_read_nor_reference_to_compute():
    few = stages_of(rates=replace(RATES, kept_share=0.0003))  # 30 pairs, so at most 30 of 100 shards
    assert few["pair"].driver_s == pytest.approx(30 / 10)
    assert few["train"].driver_s == pytest.approx(30 / 10)
    assert "30 pairs in 30 files" in few["reference"].work
    unknown = stages_of(rates=replace(RATES, kept_share=None))
    assert unknown["pair"].driver_s == pytest.approx(100 / 10)


def test_engines_start_anew_for_each_hundred_thousand_units():
    tests = [(100_001, 1)]
    found = stages_of(work=replace(WORK, tests=tests))["evaluate"]
    within = stages_of(work=replace(WORK, tests=[(100_000, 1)]))["evaluate"]
    assert found.wall_s - within.wall_s == pytest.approx(100 + 1 / 10, abs=0.3)


def test_tasks_prepare_the_files_of_a_table_at_the_same_time_up_to_the_cpus():
    for files, tasks in ((1, 1), (40, 40), (1000, 96)):
        found = stages_of(work=replace(WORK, source_files=files))["prepare"]
        assert found.wall_s == pytest.approx(100 / tasks)
        assert found.cpu_hours == pytest.approx(100 / 3600)
        assert found.driver_s == (100 if files == 1 else 0), "the nodes are needed for tasks alone"
    hours = [
        forecast(replace(WORK, source_files=files), RATES, FLEET, Faults(), 1).node_hours["generation"]
        for files in (1, 40)
    ]
    assert hours[1] - hours[0] == pytest.approx(100 / 40 / 3600)


def test_the_reference_scores_a_second_image_and_pairs_are_chosen_by_reading_them_twice():
    twice = stages_of(work=replace(WORK, num_references=2))["reference"]
    assert twice.wall_s == pytest.approx(2 * 40_000 / 2 / 16)
    assert "on two images each" in twice.work
    assert stages_of(work=replace(WORK, most_pairs=1000))["train"].driver_s == pytest.approx(200 / 10)


def test_many_units_have_a_driver_for_64_engines_each_of_which_commits_on_its_own():
    slow, most = replace(RATES, commits_per_s=0.5), 10_000
    for units, drivers in ((most, 1), (most + 1, 2)):
        work = replace(WORK, passes=[Pass(name="clean", num_rows=units, num_units=units, left=[(units, 1)])])
        found = stages_of(work=work, rates=slow, nodes=9)["generate"]  # 72 engines
        assert found.wall_s == pytest.approx(100 + units / (0.5 * drivers) + units / 10, rel=0.01)
    held = demands(work, slow, Sizes(), False, forecast(work, slow, FLEET, Faults(), 9))
    assert held[0].value == (most + 1) * 11_000


def test_nodes_are_paid_for_while_their_stages_last():
    found = forecast(WORK, RATES, FLEET, Faults(), 1).node_hours
    assert found["generation"] == pytest.approx((5100 + 300 + 50 / 96) / 3600)
    assert found["training"] == pytest.approx(2 * (1250 + 6310) / 3600)
    assert found["cpu"] == 0
    beside = forecast(WORK, RATES, replace(FLEET, cpu_nodes=3), Faults(), 1)
    assert beside.node_hours["generation"] == pytest.approx(5400 / 3600)
    assert beside.node_hours["cpu"] == pytest.approx(3 * (5100 + 300 + 50 / 100) / 3600)


def test_an_engine_of_several_gpus_counts_them_all():
    wide = replace(WORK, gpus_per_engine=4)
    found = forecast(wide, RATES, FLEET, Faults(), 2)
    assert found.num_engines == 4
    assert found.stages[1].gpu_hours == pytest.approx(4 * 4 * (100 + 50 * 200) / 3600)
    with pytest.raises(ConfigError, match="gpus_per_node 8: an engine takes 16"):
        forecast(replace(WORK, gpus_per_engine=16), RATES, FLEET, Faults(), 1)


def test_without_gpus_a_node_has_one_engine_and_its_hours_are_cpu_hours():
    found = stages_of(fleet=Fleet(gpus_per_node=0, cpus_per_node=4), nodes=2)
    assert (found["generate"].gpu_hours, found["train"].gpu_hours) == (0, 0)
    assert found["generate"].cpu_hours == pytest.approx((2 * (100 + 100 * 200) + 200_000 / 50) / 3600)


def test_encoding_that_cannot_keep_up_sets_the_pace():
    few = replace(FLEET, cpus_per_node=16)  # 8 are left to encode for 8 engines
    slow = forecast(WORK, replace(RATES, encode_rows_per_s=2), few, Faults(), 1)
    assert (slow.rows_per_s, slow.slowed_by_encoding) == (2, True)
    helped = forecast(WORK, replace(RATES, encode_rows_per_s=2), replace(few, cpu_nodes=1), Faults(), 1)
    assert (helped.rows_per_s, helped.slowed_by_encoding) == (5, False)
    with pytest.raises(ConfigError, match="cpus_per_node 8: the engines take all"):
        forecast(WORK, RATES, replace(FLEET, cpus_per_node=8), Faults(), 1)


def test_what_is_unknown_is_named_and_counts_as_nothing():
    found = forecast(WORK, Rates(rows_per_s=5), FLEET, Faults(), 1)
    assert {stage.name: bool(stage.unknown) for stage in found.stages} == dict.fromkeys(stages_of(), True)
    assert set(found.total.unknown) == {name for name in RATES.known() if name not in ("rows_per_s",)}
    assert found.total.wall_s == pytest.approx(25 * 200 + 200)  # generate and evaluate, at least
    blind = forecast(WORK, Rates(), FLEET, Faults(), 1)
    assert (blind.generation, blind.total.wall_s, blind.ideal_s) == (None, 0, None)


def test_steps_follow_from_the_pairs_that_are_kept():
    assert WORK.num_steps(RATES) == math.ceil(40_000 * 2 / 128)
    assert replace(WORK, most_pairs=10_800).num_steps(RATES) == 169  # the paper's
    assert replace(WORK, num_kept=128).num_steps(RATES) == 2
    assert WORK.num_steps(replace(RATES, kept_share=None)) is None


@pytest.mark.parametrize(("rows", "units"), [(1000, [(3, 300), (1, 100)]), (900, [(3, 300)]), (5, [(1, 5)]), (0, [])])
def test_the_last_unit_has_the_rest(rows, units):
    assert units_of(rows, 300) == units


@pytest.mark.parametrize(
    ("kind", "fields", "line"),
    [
        (Rates, {"rows_per_s": 0}, "rows_per_s 0: must be above 0"),
        (Rates, {"step_s": math.inf}, "step_s inf: must be above 0, and finite"),
        (Rates, {"kept_share": 1.5}, "kept_share 1.5: must be 0 to 1"),
        (Fleet, {"nodes": (4, 0)}, "nodes 4 0: at least one number, each at least 1"),
        (Fleet, {"cpu_nodes": -1}, "cpu_nodes -1: must be at least 0"),
        (Sizes, {"image_bytes": -1}, "image_bytes -1: must be at least 0"),
    ],
)
def test_values_that_cannot_be_are_refused(kind, fields, line):
    with pytest.raises(ConfigError, match=line):
        kind(**fields)


# Bytes and limits


def test_bytes_and_demands_are_rows_times_bytes():
    sizes = Sizes(
        prompt_bytes=100, image_bytes=1000, pixel_bytes=12, response_bytes=10, model_bytes=1e6, trained_parameters=1e3
    )
    found = {part.name: (part.stored, part.moved) for part in parts(WORK, RATES, sizes, False, 3)}
    assert found == {
        "prompts": (1e7, 208_000 * 100),
        "images beside them": (0, 208_000 * 1000),
        "pixels to engines": (0, 208_000 * 12),
        "responses": (2e6, 2e6),
        "verdicts": (2e6, 0),
        "pairs": (40_000 * 120, 0),
        "model to engines": (0, 3e6),
        "policy": (1e6 + 2e3, 0),
        "2 checkpoints": (2 * 16e3, 0),
    }
    asked = {
        item.name: item.value for item in demands(WORK, RATES, sizes, False, forecast(WORK, RATES, FLEET, Faults(), 2))
    }
    assert asked["memory of the drivers for units"] == 200 * 11_000
    assert asked["pixels in memory, each node"] == 8 * 4 * 1000 * 12
    assert asked["puts, one prefix"] == pytest.approx(16 * 5 / 1000)
    assert asked["gets of images, one prefix"] == 80
    assert asked["files"] == 600
    unknown = {part.name: part.stored for part in parts(WORK, RATES, Sizes(), False, 1)}
    assert unknown["responses"] is None


def test_a_full_checkpoint_has_the_whole_model_twice():
    sizes = Sizes(model_bytes=14e9, trained_parameters=6.74e9)
    assert sizes.checkpoint_bytes(full=True) == pytest.approx(2 * 14e9 + 12 * 6.74e9)
    assert Sizes(trained_parameters=1).checkpoint_bytes(full=True) is None


# Prices


def table_at(tmp_path, text):
    path = tmp_path / "prices.toml"
    path.write_text(text)
    return str(path)


def test_node_hours_cost_what_the_table_says(tmp_path):
    path = table_at(
        tmp_path, 'currency = "EUR"\n[generation]\non_demand = 40\nspot = 15.5\n[training]\non_demand = 50\n'
    )
    prices = read_prices(path)
    hours = {"generation": 10.0, "training": 2.0, "cpu": 0.0}
    assert prices.cost(hours, ["generation"]) == {"generation": 155, "training": 100, "cpu": 0}
    assert prices.cost(hours, [])["generation"] == 400
    with pytest.raises(InputError, match="pool cpu has no on_demand price"):
        prices.cost({"cpu": 1.0}, [])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("generation 5", "not TOML"),
        ("[generation]\nspot = 1\n", "currency must be given"),
        ('currency = "USD"\n[gpu]\nspot = 1\n', r"\[gpu\] must be one of the tables generation, training, cpu"),
        ('currency = "USD"\ngeneration = 5\n', r"\[generation\] must be one of the tables"),
        ('currency = "USD"\n[cpu]\nreserved = 1\n', "cpu has 'reserved', which must be one of on_demand, spot"),
        ('currency = "USD"\n[cpu]\nspot = "1"\n', "spot of cpu is '1', which must be a number of at least 0"),
        ('currency = "USD"\n[cpu]\nspot = -1\n', "spot of cpu is -1"),
        ('currency = "USD"\n[cpu]\nspot = nan\n', "spot of cpu is nan"),
        ('currency = "USD"\n[cpu]\nspot = true\n', "spot of cpu is True"),
    ],
)
def test_a_wrong_price_table_is_one_line(tmp_path, text, line):
    with pytest.raises(InputError, match=line) as caught:
        read_prices(table_at(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_price_table_that_is_not_there_is_one_line():
    with pytest.raises(InputError, match=r"prices nowhere\.toml: no such file"):
        read_prices("nowhere.toml")


# What exists already

RUN = Run(
    name="plan",
    views=("diffusion-500", "moco"),
    controls=("control-repeat",),
    shard_size=10,
    num_test_prompts=25,
    generate=Generate(engine=FakeEngine()),
    pair=Pair(),
    train=job.PRESETS["toy"].train,
    for_training={"CPU": 2},
)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "runs"))


def looked(store, prompts=None, num_prompts=0, run=RUN) -> RemainingWork:
    """What is left; looking leaves no file behind."""
    before = sorted(Path(store.root).rglob("*"))
    found = remaining(run, store, MODEL if prompts else None, prompts, num_prompts)
    assert sorted(Path(store.root).rglob("*")) == before
    return found


def test_before_anything_is_there_a_run_is_one_clean_pass_and_one_for_each_other_view(store):
    work = looked(store, num_prompts=95)
    assert [(item.name, item.num_left) for item in work.passes] == [
        ("clean", 10),
        ("diffusion-500", 10),
        ("moco", 10),
        ("control-repeat", 10),
        ("benchmarks", 3),
    ]
    assert work.passes[0].left == [(9, 10), (1, 5)]
    assert (work.prepared, work.paired, work.scored, work.trained, work.num_rejected) == (False, False, False, False, 2)
    assert (work.tests, work.gpus_per_engine) == ([(2, 10), (1, 5)], 0)
    assert work.num_workers == 2, "those of the toy"
    two_images = replace(RUN, train=replace(RUN.train, loss=Loss(image_weight=1.0)), source_files=7)
    both = looked(store, num_prompts=95, run=two_images)
    assert (work.num_references, both.num_references) == (1, 2)
    assert (work.source_files, both.source_files) == (1, 7)
    wide = looked(store, num_prompts=95, run=replace(RUN, generate=Generate(engine=VllmEngine(tensor_parallel_size=2))))
    assert wide.gpus_per_engine == 2
    llava = job.PRESETS["llava-7b"]
    for gpus_per_node in (1, 2, 8):
        fleet = replace(llava.fleet, gpus_per_node=gpus_per_node)
        on_gpus = replace(RUN, train=llava.train, for_training=fleet.one_node())
        assert looked(store, num_prompts=95, run=on_gpus).num_workers == gpus_per_node


def test_responses_pairs_and_policies_that_are_there_are_not_counted_again(store):
    prompts = prepare(Prepare(shard_size=16), store, "toy", ToyWorld(num_images=6))
    num_prompts, num_shards = prompts.counts["num_prompts"], prompts.counts["num_shards"]
    rest = num_prompts - 16 * (num_shards - 1)
    assert num_shards == 3
    assert 0 < rest < 16

    opened = {view: open_responses(RUN.generate, store, MODEL, prompts, view) for view in ("clean", "moco", *RUN.views)}
    clean = opened["clean"].finish({})
    write_answers(prompts, opened["moco"].begin(), shard_name(2))
    work = looked(store, prompts)
    assert (work.prepared, work.num_prompts, work.shard_size, work.num_kept) == (True, num_prompts, 16, None)
    assert {item.name: item.left for item in work.passes[:3]} == {
        "clean": [],
        "diffusion-500": [(2, 16), (1, rest)],
        "moco": [(2, 16)],
    }

    rejected = [opened[view].finish({}) for view in RUN.views]
    assert not looked(store, prompts).paired
    open_pairs(RUN.pair, store, prompts, clean, rejected).finish({"verdicts": {"kept": 7}})
    work = looked(store, prompts)
    assert (work.paired, work.num_kept, work.scored, work.trained) == (True, 7, False, False)
    assert [item.num_left for item in work.passes] == [0, 0, 0, 3, 2]


def test_responses_by_another_recipe_are_refused_as_the_run_would(store):
    prompts = prepare(Prepare(), store, "toy", ToyWorld(num_images=2))
    open_responses(Generate(engine=FakeEngine(num_words=5)), store, MODEL, prompts, "clean").finish({})
    with pytest.raises(FingerprintMismatch, match="num_words"):
        looked(store, prompts)


# The job

GIVEN = replace(
    job.PRESETS["llava-7b"],
    num_prompts=1_000_000,
    num_test_prompts=9000,
    rates=RATES,
    fleet=replace(FLEET, nodes=(1, 16)),
)


def test_a_plan_is_a_table_a_file_and_a_picture(tmp_path, capsys):
    prices = table_at(tmp_path, 'currency = "USD"\n[generation]\nspot = 15\n[training]\non_demand = 50\n')
    job.main(replace(GIVEN, root=str(tmp_path / "runs"), prices=prices, spot=("generation",)))
    shown = capsys.readouterr().out
    assert "llava-7b: 1,000,000 prompts in 3,907 shards of 256; passes of the base model: clean, diffusion-500" in shown
    assert "unknown: " not in shown
    place = tmp_path / "runs" / "plans" / "llava-7b"
    kept = json.loads((place / "plan.json").read_text())
    assert [item["num_nodes"] for item in kept["forecasts"]] == [1, 16]
    spot = kept["forecasts"][1]["node_hours"]["generation"] * 15
    assert kept["costs"][1]["generation"] == pytest.approx(spot)
    assert (place / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_a_rate_that_nobody_knows_is_said_to_be_unknown(tmp_path, capsys):
    job.main(replace(GIVEN, root=str(tmp_path), rates=Rates()))
    shown = capsys.readouterr().out
    assert "unknown: prepare_rows_per_s, rows_per_s, start_s" in shown
    (train,) = (line for line in shown.splitlines() if line.startswith("train "))
    assert train.split() == ["train", "steps", "unknown", "unknown", "unknown", "unknown"]
    assert not (tmp_path / "plans" / "llava-7b" / "plan.png").exists()


def test_what_is_only_partly_known_is_a_bound_and_a_limit_that_is_passed_is_marked(tmp_path, capsys):
    fast = Rates(rows_per_s=100, start_s=100, encode_rows_per_s=1000)
    job.main(replace(GIVEN, root=str(tmp_path), rates=fast))
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert ">=" in lines["generate"]
    assert lines["gets of images, one prefix"][-3:] == ["12,800/s", "5,500/s", "EXCEEDED"]
    assert "EXCEEDED" not in lines["puts, one prefix"]


def test_a_step_of_a_policy_with_other_image_terms_is_made_longer_or_shorter(tmp_path):
    store, size = Store(str(tmp_path)), GIVEN.train.global_batch_size
    policies = {}
    for name, loss in (("plain", Loss()), ("image", Loss(image_weight=1.0)), ("both", Loss(symmetric_weight=1.0))):
        policy = store.open(f"policies/{name}", config={"train": replace(GIVEN.train, loss=loss)}).begin()
        write_bytes(policy.path(LOG), json.dumps([{"train_samples_per_second": size / 10}]).encode())
        policies[name] = policy.finish({}), loss
    for name, of, expected in (
        ("plain", "plain", 10), ("plain", "image", 18.5), ("plain", "both", 19.4),
        ("image", "plain", 5.4054), ("image", "image", 10), ("both", "both", 10),
    ):  # fmt: skip
        train = replace(GIVEN.train, loss=policies[of][1])
        config = replace(GIVEN, root=str(tmp_path), policy=f"policies/{name}", train=train)
        assert job.stepped(config, store)["step_s"].value == expected


def test_what_is_there_already_is_said(tmp_path, capsys):
    config = replace(job.PRESETS["llava-7b"], root=str(tmp_path), model="policies/m", name="next")
    store = Store(str(tmp_path))
    prompts = prepare(Prepare(shard_size=4), store, config.prompts, ToyWorld(num_images=2))
    start = model_of(store.open("policies/m", config={}).finish({}))
    open_responses(config.generate, store, start, prompts, "clean").finish({})
    half = open_responses(config.generate, store, start, prompts, "diffusion-500")
    write_answers(prompts, half.begin(), shard_name(0))
    job.main(config)
    shown = capsys.readouterr().out
    assert "\nexist already: clean\n" in shown
    assert f"exists in part: diffusion-500, 1 of {prompts.counts['num_shards']} units" in shown


def test_prompts_that_are_there_say_how_many_they_are(tmp_path):
    config = replace(job.PRESETS["toy"], root=str(tmp_path))
    with pytest.raises(ConfigError, match=r"num_prompts: prompts/toy is not in .* yet"):
        job.main(config)
    prompts = prepare(Prepare(), Store(str(tmp_path)), "toy", ToyWorld(num_images=3))
    with pytest.raises(ConfigError, match=f"is in .* already, with {prompts.counts['num_prompts']}"):
        job.main(replace(config, num_prompts=5))
    job.main(config)
    kept = json.loads((tmp_path / "plans" / "toy" / "plan.json").read_text())
    assert kept["work"]["num_prompts"] == prompts.counts["num_prompts"]


def test_a_probe_without_prompts_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"probe here: needs prompts/llava-mix, which jobs/prepare\.py makes"):
        job.main(replace(GIVEN, root=str(tmp_path), probe=job.Probe(name="here")))


def test_a_policys_log_says_how_long_a_step_takes_and_what_is_given_goes_first(tmp_path):
    store = Store(str(tmp_path))
    policy = store.open("policies/old", config={"train": job.PRESETS["toy"].train})
    write_bytes(policy.path("log.json"), json.dumps([{"loss": 1}, {"train_samples_per_second": 6.0}]).encode())
    policy.finish({})
    config = replace(GIVEN, root=str(tmp_path), policy="policies/old", rates=replace(RATES, step_s=None))
    rates, _, origins = job.settled(config, job.stepped(config, store))
    assert (rates.step_s, origins["step_s"]) == (4.0, "policies/old")
    given = replace(config, rates=RATES)
    assert job.settled(given, job.stepped(given, store))[0].step_s == 10


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"views": ()}, "at least one"),
        ({"views": ("clean",)}, "all augmented ones"),
        ({"controls": ("moco",)}, "control moco: must be one of"),
        ({"num_prompts": 0}, "num_prompts 0"),
        ({"num_test_prompts": -1}, "num_test_prompts -1"),
        ({"spot": ("gpu",)}, "spot gpu: must be among"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changed, line):
    with pytest.raises(ConfigError, match=line):
        replace(GIVEN, **changed)
