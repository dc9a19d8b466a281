"""Exported pairs, as the clients that they are made for read them."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Image as ImageFeature
from datasets import List, load_dataset
from PIL import Image

import export as job
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError
from seva_ray.core.storage import write_table
from seva_ray.runtime import cli
from seva_ray.stages.export_pairs import ExportPairs, export_pairs, rows_of
from tests.own_pairs import COLOURS, NUM_IMAGES, VIEWS, own_pairs

NUM_ROWS = (NUM_IMAGES - 1) * len(VIEWS) - 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact]:
    return own_pairs(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def exported(made: tuple[Store, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    store, pairs = made
    return Path(export_pairs(ExportPairs(to=str(tmp_path_factory.mktemp("out") / "pairs")), store, pairs.name))


@pytest.fixture(scope="module")
def rows(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_dataset(str(exported), split="train", cache_dir=str(tmp_path_factory.mktemp("cache")))


def test_datasets_reads_every_row_with_its_image_and_both_answers(exported: Path, rows: Any):
    assert len(list(exported.glob("data/train-*-of-00002.parquet"))) == 2, "17 shards with pairs, 16 to a file"
    assert rows.features["images"] == List(ImageFeature())
    assert len(rows) == NUM_ROWS
    of_image: dict[str, list[str]] = {}
    for row in rows:
        number = int(row["prompt_id"][:2])
        (image,) = row["images"]
        assert all(abs(a - b) < 4 for a, b in zip(image.getpixel((0, 0)), COLOURS[number], strict=True))
        assert row["prompt"] == [{"role": "user", "content": "what color is the ring ?"}]
        assert row["chosen"] == [{"role": "assistant", "content": f"yes there is {number}"}]
        rejected = {"moco": f"no {number}", "diffusion-500": f"two {number}\nlines"}[row["view"]]
        assert row["rejected"] == [{"role": "assistant", "content": rejected}]
        of_image.setdefault(row["prompt_id"], []).append(row["view"])
    assert of_image.pop(f"{NUM_IMAGES - 1}.png-0") == ["moco"]
    assert list(of_image.values()) == [list(VIEWS)] * (NUM_IMAGES - 2)


def test_rows_of_one_shard_have_their_own_image_also_beside_rows_of_the_same_image(tmp_path: Path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    named = [{"image_path": f"{name}.png", "image_bytes": None, "rejected": [{"text": "no"}]} for name in "aabba"]
    held = {"image_path": None, "image_bytes": b"held", "rejected": [{"text": "no"}]}
    write_table(str(tmp_path / "shard"), pa.Table.from_pylist([*named[:3], held, *named[3:]]))
    found = [image for _, _, image in rows_of(str(tmp_path / "shard"), str(tmp_path))]
    assert found == [b"a.png", b"a.png", b"b.png", b"held", b"b.png", b"a.png"]


def test_trl_trains_on_them_as_they_are(rows: Any, toy_model: str, tmp_path: Path):
    """Two steps of its own trainer; what its collator made of the rows has both answers and the image."""
    import torch
    import trl
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(toy_model)
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, learning_rate=1e-3, logging_steps=1,
        report_to=[], save_strategy="no", use_cpu=True, bf16=False, max_length=None, gradient_checkpointing=False,
    )  # fmt: skip
    model = AutoModelForImageTextToText.from_pretrained(toy_model)
    trainer = trl.DPOTrainer(model, args=arguments, train_dataset=rows, processing_class=processor)
    batch = next(iter(trainer.get_train_dataloader()))
    texts = processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    chosen, rejected = texts[:2], texts[2:]
    assert all("yes there is" in text for text in chosen)
    assert not any("yes there is" in text for text in rejected), rejected
    assert all("what color is the ring ?" in text for text in texts)
    assert batch["pixel_values"].shape[0] in (2, 4)
    assert torch.isfinite(batch["pixel_values"]).all()
    before = model.model.language_model.layers[0].mlp.up_proj.weight.detach().clone()
    trainer.train()
    losses = [step["loss"] for step in trainer.state.log_history if "loss" in step]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert len(losses) == 2
    assert not torch.equal(before, model.model.language_model.layers[0].mlp.up_proj.weight)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_llama_factory_and_swift_have_both_answers_and_an_image_that_is_there(exported: Path, rows: Any):
    """The layout that the loaders of LLaMA-Factory 0.9.5 and ms-swift 4.6.0 were seen to read."""
    info = json.loads((exported / "dataset_info.json").read_text())["seva"]
    factory, swift = lines(exported / info["file_name"]), lines(exported / "swift.jsonl")
    assert len(factory) == len(swift) == len(rows)
    columns = info["columns"]
    for row, one, other in zip(rows, factory, swift, strict=True):
        asked = f"<image>{row['prompt'][0]['content']}"
        assert one[columns["messages"]] == [{"from": "human", "value": asked}]
        assert one[columns["chosen"]]["value"] == row["chosen"][0]["content"]
        assert one[columns["rejected"]]["value"] == row["rejected"][0]["content"]
        assert other["messages"] == [{"role": "user", "content": asked}, *row["chosen"]]
        assert other["rejected_response"] == row["rejected"][0]["content"]
        assert one[columns["images"]] == other["images"]
        (name,) = other["images"]
        assert Image.open(exported / name).convert("RGB").getpixel((0, 0)) == row["images"][0].getpixel((0, 0))


def official_loader(data: str, image_folder: str) -> list[dict[str, Any]]:
    """What the official training makes of its file.

    Source: Kevinz-code/SeVa@d9284ff, seva/train_dpo_ours.py, LazySupervisedDataset.
    """
    with open(data) as file:
        our_data = json.load(file)
    return [
        {
            "image": os.path.join(image_folder, our_data[idx]["image_id"]),
            "chosen_conversations": [
                {"from": "human", "value": "<image>\n" + our_data[idx]["question"]},
                {"from": "gpt", "value": our_data[idx]["chosen"]},
            ],
            "reject_conversations": [
                {"from": "human", "value": "<image>\n" + our_data[idx]["question"]},
                {"from": "gpt", "value": our_data[idx]["reject"]},
            ],
        }
        for idx in range(len(our_data))
    ]


def test_the_official_loader_finds_every_image_and_both_answers(exported: Path, rows: Any):
    found = official_loader(str(exported / "seva.json"), str(exported))
    assert len(found) == len(rows)
    for row, one in zip(rows, found, strict=True):
        assert one["chosen_conversations"][1]["value"] == row["chosen"][0]["content"]
        assert one["reject_conversations"][1]["value"] == row["rejected"][0]["content"]
        assert Image.open(one["image"]).convert("RGB").size == row["images"][0].size


def test_the_card_has_funnel_recipe_lineage_and_examples_and_names_no_place_of_this_machine(
    made: tuple[Store, Artifact], exported: Path
):
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(exported / "README.md")
    assert card.data.size_categories == ["n<1K"]
    assert card.data.configs == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
    assert f"{NUM_ROWS:,} pairs for Direct Preference" in card.text
    assert "| moco | 1 | 17 |" in card.text
    store, pairs = made
    assert f"| {pairs.name} | {pairs.fingerprint} |" in card.text
    assert "No licence was given." in card.text
    images = [line.split("(")[1].rstrip(")") for line in card.text.splitlines() if line.startswith("![")]
    assert len(images) == 3
    assert all((exported / image).exists() for image in images)
    assert store.root.rpartition("/")[0] not in card.content


def test_no_file_names_a_place_of_this_machine(exported: Path):
    for file in exported.glob("*.json*"):
        assert "/tmp" not in file.read_text()


def test_an_image_that_is_gone_is_one_line_and_leaves_nothing(tmp_path: Path):
    store, pairs = own_pairs(tmp_path / "own")
    (tmp_path / "own" / "photos" / "05.png").unlink()
    with pytest.raises(InputError, match=r"image 05\.png: No such file or directory \(image_root .*/photos\)"):
        export_pairs(ExportPairs(to=str(tmp_path / "out" / "pairs")), store, pairs.name)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_job_exports_by_its_preset_and_refuses_a_target_that_is_there(
    made: tuple[Store, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    store, pairs = made
    words = ["export.py", "pairs", "--root", store.root, "--pairs", pairs.name.removeprefix("pairs/")]
    monkeypatch.setattr(sys, "argv", [*words, "--export.to", str(tmp_path / "out"), "--export.license", "cc-by-4.0"])
    cli.run(job.main, job.PRESETS, "test")
    assert capsys.readouterr().err.splitlines()[-1] == f"export {pairs.name}: {NUM_ROWS} rows in {tmp_path / 'out'}"
    assert "license: cc-by-4.0" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(SystemExit) as exit_:
        cli.run(job.main, job.PRESETS, "test")
    assert exit_.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("already exists; choose another place or remove it")
