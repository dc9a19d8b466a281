"""Pairs in the order of training: the driver orders them without their images, workers read those that are due."""

import io
import pickle
import random
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bench.fresh import in_fresh_process, peak_mb
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.records import PAIR_SCHEMA, RESPONSE_SCHEMA, table
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import write_table
from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.config import Loss, Train, swapped
from seva_ray.stages.pair import PART_BYTES
from seva_ray.stages.training import reading as stage
from seva_ray.stages.training.reading import Kept, PairReader, ReadAhead
from seva_ray.stages.training.reference import LOGPS_SCHEMA, open_logps
from seva_ray.stages.training.train import counts_of, job_of
from seva_ray.stages.training.training import Training
from seva_ray.stages.training.worker import TrainingJob
from seva_ray.toy.world import make_scene, render
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.models import Model
from seva_ray.vlm.views import Viewer
from tests.s3_server import s3_bucket

CONFIG = Train(num_workers=1, global_batch_size=8, per_device_batch_size=2)
MODEL = Model(name="m", directory="m", fingerprint="none")


@pytest.fixture(autouse=True)
def model(toy_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of which only the shape is asked."""
    monkeypatch.chdir(tmp_path)
    Path(MODEL.directory).symlink_to(toy_model)


NOISE = 2_000
"""Bytes of an image that cannot be compressed."""


def image_of(number: int, num_bytes: int) -> bytes:
    return random.Random(number).randbytes(min(num_bytes, NOISE)).ljust(num_bytes, b"x")


def pair_of(number: int, image_bytes: int) -> dict[str, Any]:
    return {
        "prompt_id": f"p{number}",
        "image_id": f"i{number}",
        "question": f"what is in number {number} ?",
        "source": "toy",
        "image_path": None,
        "image_bytes": image_of(number, image_bytes),
        "chosen": "a word",
        "chosen_token_ids": [number, 1],
        "rejected": [
            {"view": f"v{k}", "text": f"another {k}", "token_ids": [number + k] * k} for k in range(1, 2 + number % 2)
        ],
    }


def logps_of(number: int) -> list[float]:
    return [-float(number), *(-float(k) for k in range(1, 2 + number % 2))]


def training(
    root: Path | str, num_pairs: int, image_bytes: int, part_bytes: int | None = PART_BYTES, size: int = 16
) -> Training:
    """On pairs and reference log-probabilities as the stages write them, `size` pairs in a shard."""
    store = Store(str(root))
    prompts = store.open("prompts/p", config={})
    chosen = store.open("responses/m/p/clean", config={"system": "", "max_image_pixels": 1}, inputs=[prompts])
    pairs = store.open("pairs/m/p/v", config={}, inputs=[prompts, chosen])
    logps = open_logps(CONFIG, store, MODEL, pairs)
    for start in range(0, num_pairs, size):
        name, numbers = shard_name(start // size), range(start, min(start + size, num_pairs))
        rows = [pair_of(number, image_bytes) for number in numbers]
        write_table(pairs.path("pairs", name), table(rows, PAIR_SCHEMA), part_bytes)
        scored = [{"prompt_id": f"p{number}", "ref_logps": logps_of(number)} for number in numbers]
        write_table(logps.path(name), table(scored, LOGPS_SCHEMA))
    prompts.finish({"image_root": None})
    chosen.finish({})
    logps.finish({"num_pairs": num_pairs, "plain_because": None})
    pairs = pairs.finish({"verdicts": {"kept": num_pairs}, "views": {"v": {}}})
    return Training(config=CONFIG, name="x", model=MODEL, pairs=pairs)


def job(root: Path | str, training: Training) -> TrainingJob:
    store = Store(str(root))
    return job_of(store, training, training.open(store), relay=None)


def reader(root: Path | str, training: Training) -> PairReader:
    """The reader that a worker has."""
    given = job(root, training)
    return PairReader(pairs=given.pairs, logps_uri=given.scoring.logps.uri, config=training.config, kept=Kept())


def all_of(read: PairReader) -> list[dict[str, Any]]:
    return [read(place) for place in range(len(read.pairs.order))]


def drawn(*places: int) -> list[dict[str, int]]:
    return [{"place": place} for place in places]


def number_of(row: dict[str, Any]) -> int:
    return int(row["prompt_id"][1:])


@pytest.mark.parametrize("part_bytes", [None, 2500])  # None: as earlier versions wrote them
@pytest.mark.parametrize("swap", [False, True])
def test_a_pair_is_its_whole_row_with_its_reference_and_weight_in_files_of_one_part_or_of_many(
    tmp_path: Path, part_bytes: int | None, swap: bool
):
    made = training(tmp_path, 37, 400, part_bytes)
    config = replace(CONFIG, swap_sides=swap, num_pairs=30)
    read = reader(tmp_path, replace(made, config=config))
    assert {pq.ParquetFile(uri).num_row_groups > 1 for uri in read.pairs.files[:2]} == {part_bytes is not None}
    assert (len(read.pairs.order), read.pairs.num_pairs) == (64, 30)
    rows = all_of(read)
    assert len({number_of(row) for row in rows}) == 30
    for place, row in enumerate(rows):
        number = number_of(row)
        expected = pair_of(number, 400) | {"ref_logps": logps_of(number)}
        assert row.pop("weight") in ([1.0] if place < 56 else [2.0, 0.0])
        assert row == (swapped(expected, config.seed) if swap else expected)


@pytest.mark.parametrize("swap", [False, True])
def test_a_pair_of_a_loss_with_image_terms_has_its_log_probabilities_on_the_view_too(tmp_path: Path, swap: bool):
    made = training(tmp_path, 12, 10)
    loss = Loss(symmetric_weight=0.5, anchor_weight=1.0)
    made = replace(made, config=replace(CONFIG, loss=loss, swap_sides=swap))
    store = Store(str(tmp_path))
    with pytest.raises(ConfigError, match="there is no 'v'"):
        job(tmp_path, made)
    shown = replace(made, config=replace(made.config, loss=Loss(image_weight=1.0, image_view="small_crop")))
    on_view = shown.open_logps(store, on_view=True)
    assert on_view.name == "logps/m/p/v/bfloat16-on-small_crop"
    rows = [{"prompt_id": f"p{number}", "ref_logps": [-100.0 - number, -200.0]} for number in range(12)]
    write_table(on_view.path(shard_name(0)), pa.Table.from_pylist(rows, LOGPS_SCHEMA))
    on_view.finish({"num_pairs": 12, "plain_because": None})
    given = job(tmp_path, shown)
    assert given.view_scoring is not None
    assert (given.view_scoring.missing, given.view_scoring.image_view) == ([], "small_crop")
    uris = {"logps_uri": given.scoring.logps.uri, "view_logps_uri": given.view_scoring.logps.uri}
    read = PairReader(pairs=given.pairs, config=shown.config, kept=Kept(), **uris)
    exchanged = 0
    for row in all_of(read):
        number = number_of(row)
        turned = row["chosen_token_ids"] != pair_of(number, 10)["chosen_token_ids"]
        exchanged += turned
        assert row["view_ref_logps"] == ([-200.0, -100.0 - number] if turned else [-100.0 - number, -200.0])
        assert row["ref_logps"][turned] == logps_of(number)[0]
    assert (exchanged > 0) == swap
    assert job(tmp_path, training(tmp_path / "usual", 4, 10)).view_scoring is None


def test_what_a_worker_is_given_does_not_grow_with_the_images_and_texts_of_the_pairs(tmp_path: Path):
    made = training(tmp_path, 64, 100_000)
    given = job(tmp_path, made)
    assert counts_of(made, given)["num_pairs"] == 64
    assert counts_of(made, given)["num_steps"] == 16
    assert len(pickle.dumps(given)) < 20_000


def test_the_pairs_of_the_next_step_are_read_before_they_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage, "KEPT_BYTES", 0)
    read = reader(tmp_path, training(tmp_path, 16, 400, part_bytes=1))  # each pair is a part
    (file,) = read.pairs.files
    expected = all_of(read)
    second = ReadAhead(read, 4, list)  # as the second of two workers has it: a step is 2, 3 and 6, 7
    assert second(drawn(2, 3)) == expected[2:4]
    for batch in second.batches.values():
        batch.result()
    Path(file).rename(f"{file}.away")
    assert second(drawn(6, 7)) == expected[6:8]
    assert second(drawn(10, 11)) == expected[10:12]
    with pytest.raises(InputError, match="no such file"):
        second(drawn(14, 15))
    Path(f"{file}.away").rename(file)
    assert second(drawn(26, 27)) == expected[26:28], "a run that goes on begins anywhere"
    assert second(drawn(30, 31)) == expected[30:32]
    assert not second.batches, "there is no next step"
    assert not second.begun


def test_only_few_batches_are_made_ahead_because_they_hold_pixels(tmp_path: Path):
    read = reader(tmp_path, training(tmp_path, 40, 10))
    made = []

    def collate(pairs):
        made.append(pairs)
        return pairs

    ahead = ReadAhead(read, 1, collate)
    expected = all_of(read)
    for place in range(len(read.pairs.order)):
        assert ahead(drawn(place)) == [expected[place]]
        assert len(ahead.batches) <= stage.BATCHES_AHEAD
        assert len(made) <= place + 1 + stage.BATCHES_AHEAD
        assert len(ahead.begun) <= CONFIG.global_batch_size


def test_several_threads_make_the_batches_and_each_function_makes_one_at_a_time(tmp_path: Path):
    read = reader(tmp_path, training(tmp_path, 40, 10))
    busy, together, most = [0, 0, 0], threading.Barrier(3), []

    def collate(number: int) -> Callable[[Any], Any]:
        def make(pairs: Any) -> Any:
            busy[number] += 1
            most.append(max(busy))
            if len(most) <= 3:
                together.wait(30)  # fails unless all three work at the same time
            busy[number] -= 1
            return pairs

        return make

    ahead = ReadAhead(read, 1, *map(collate, range(3)))
    expected = all_of(read)
    assert [ahead(drawn(place)) for place in range(len(expected))] == [[pair] for pair in expected]
    assert max(most) == 1


def test_batches_that_three_threads_make_with_encoders_of_their_own_are_those_of_one(toy_model: str):
    """As beside a GPU. No thread uses the processor or the tokenizer of another."""
    rows = []
    for number in range(16):
        file = io.BytesIO()
        Image.fromarray(render(make_scene(7, "test", number % 5))).save(file, "JPEG")
        answers = {"chosen_token_ids": [20] * (1 + number % 4), "rejected": [{"token_ids": [50, 60]}]}
        question = "how many objects are there ?" if number % 2 else "what color ?"
        rows.append({"image_path": None, "image_bytes": file.getvalue(), "question": question, **answers})

    class Rows:
        config, pairs = CONFIG, SimpleNamespace(order=range(16))

        def __call__(self, place: int) -> Any:
            return rows[place]

    one, *others = (
        PreferenceCollator(viewer=Viewer(encoder=Encoder(toy_model), image_root=None, max_pixels=10**6))
        for _ in range(1 + stage.NUM_COLLATORS)
    )
    ahead = ReadAhead(Rows(), 2, *others)  # type: ignore[arg-type]
    for place in range(0, 16, 2):
        made, expected = ahead(drawn(place, place + 1)), one(rows[place : place + 2])
        assert made.keys() == expected.keys()
        assert all(torch.equal(made[name], expected[name]) for name in made)


def test_the_data_set_names_every_place_of_the_order_once():
    places = stage.Places(5)
    assert [places[n] for n in range(len(places))] == drawn(0, 1, 2, 3, 4)


def test_a_worker_keeps_what_it_read_last_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage, "KEPT_BYTES", 20_000)
    read = reader(tmp_path, training(tmp_path, 128, 1_000, part_bytes=4_000))
    for row in all_of(read):
        assert row["image_bytes"] == image_of(number_of(row), 1_000)
        assert read.kept.num_bytes == sum(table.nbytes for table in read.kept.tables.values()) <= 20_000
    assert len(read.kept.tables) > 2


def test_a_table_that_two_threads_read_at_the_same_time_is_counted_once():
    kept = Kept()
    small = table([{"prompt_id": "p", "text": "a"}], RESPONSE_SCHEMA)

    def read() -> Any:
        kept("a", 0, lambda: small)  # meanwhile another thread reads it
        return small

    assert kept("a", 0, read) is small
    assert kept.num_bytes == small.nbytes


def test_of_an_object_store_the_driver_reads_no_image_and_a_worker_the_part_of_a_pair(caplog: pytest.LogCaptureFixture):
    def bytes_asked() -> int:
        ranges = re.findall(r"'Range': 'bytes=(\d+)-(\d+)'", caplog.text)
        assert ranges
        return sum(int(last) + 1 - int(first) for first, last in ranges)

    with s3_bucket("scheduled") as root, caplog.at_level("DEBUG", "s3fs"):
        made = training(root, 2_500, NOISE, size=2_500)
        caplog.clear()
        read = reader(root, made)
        assert bytes_asked() < 2**17  # of 5 MB
        caplog.clear()
        row = read(5)
        assert row["image_bytes"] == image_of(number_of(row), NOISE)
        assert bytes_asked() < PART_BYTES + 2**18


def test_reference_log_probabilities_of_other_pairs_are_refused(tmp_path: Path):
    made = training(tmp_path / "one", 20, 10)
    more = training(tmp_path / "other", 40, 10, size=32)
    logps = open_logps(CONFIG, Store(str(tmp_path / "other")), MODEL, more.pairs)
    read = replace(reader(tmp_path / "one", made), logps_uri=logps.uri)
    with pytest.raises(InputError, match=r"shard-000001\.parquet: does not belong to .*; remove .* to score the pairs"):
        all_of(read)


NUM_LARGE, LARGE = 22_000, 100_000
"""Pairs, and bytes of each one's image: more than 2 GiB in a column."""


def peaks(root: Path, training: Training) -> dict[str, float]:
    """MB: of this process before and after it ordered the pairs, and when it had drawn some hundred batches."""
    found = {"start": peak_mb()}
    read = reader(root, training)
    found["driver"] = peak_mb()
    assert len(read.pairs.order) == 2 * NUM_LARGE
    draw = ReadAhead(read, 2, list)
    for place in random.Random(0).sample(range(0, len(read.pairs.order), 2), 400):
        for row in draw(drawn(place, place + 1)):
            assert row["image_bytes"] == image_of(number_of(row), LARGE)
    return found | {"worker": peak_mb()}


@pytest.mark.slow
def test_more_than_2_gib_of_images_are_trained_on_in_little_memory(tmp_path: Path):
    made = training(tmp_path, NUM_LARGE, LARGE, size=200)
    found = in_fresh_process(peaks, tmp_path, made)
    print(f"{NUM_LARGE * LARGE / 1e9:.1f} GB of images; peak RSS, MB: {found}")
    assert found["driver"] - found["start"] < 200
    assert found["worker"] - found["driver"] < 2 * stage.KEPT_BYTES / 2**20 + 100
