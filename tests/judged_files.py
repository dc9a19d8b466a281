"""Small folders in the formats that MM-Vet, LLaVA-Bench, MMHal-Bench and SHR are published in."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

MM_VET = {
    "v1_0": {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5", "imagesource": "web",
             "capability": ["ocr", "math"]},
    "v1_1": {"imagename": "v1_0.png", "question": "Which sum is it?", "answer": "7", "imagesource": "web",
             "capability": ["ocr", "math"]},
    "v1_2": {"imagename": "v1_2.png", "question": "Who is this?", "answer": "A king<OR>A queen", "imagesource": "web",
             "capability": ["rec", "know"]},
}  # fmt: skip


def lines(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 90, 20)).save(folder / name)


def mm_vet(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "mm-vet.json").write_text(json.dumps(MM_VET))
    images(folder / "images", "v1_0.png", "v1_2.png")
    return str(folder)


def llava_bench(folder: Path) -> str:
    folder.mkdir(parents=True)
    categories = ["conv", "detail", "complex"]
    questions = [
        {"question_id": n, "image": f"00{n // 2}.jpg", "category": categories[n % 3], "text": f"question {n}?"}
        for n in range(4)
    ]
    lines(folder / "questions.jsonl", questions)
    lines(folder / "context.jsonl", [
        {"id": "000", "image": "000.jpg", "caption": "A volcano."},
        {"id": "001", "image": "001.jpg", "caption": ["A beach.", "A ship."]},
    ])  # fmt: skip
    lines(folder / "answers_gpt4.jsonl", [{"question_id": n, "text": f"reference {n}"} for n in (3, 2, 1, 0)])
    images(folder / "images", "000.jpg", "001.jpg")
    return str(folder)


def mmhal(folder: Path) -> str:
    folder.mkdir(parents=True)
    rows = [
        {"question_type": kind, "question_topic": "food", "image_id": f"id{n}", "question": f"question {n}?",
         "image_src": f"https://images.example/1_{n}.jpg", "image_content": ["Cup", "Table"],
         "gt_answer": f"reference {n}", "model_answer": ""}
        for n, kind in enumerate(["attribute", "counting", "counting"])
    ]  # fmt: skip
    (folder / "response_template.json").write_text(json.dumps(rows))
    images(folder / "images", "1_0.jpg", "1_1.jpg", "1_2.jpg")
    return str(folder)


def shr(folder: Path) -> tuple[str, str]:
    """The folders of SHR and of Visual Genome, which also has images that SHR does not ask about."""
    own, genome = folder / "shr", folder / "vg"
    own.mkdir(parents=True)
    genome.mkdir()
    (own / "val_images_final.json").write_text(json.dumps([{"image_id": 11}, {"image_id": 12}]))
    lines(own / "shr_factual_part1.jsonl", [{"11": ["The cup is red."]}])
    lines(own / "shr_factual_part2.jsonl", [{"12": ["There are two dogs.", "They run."]}])
    data = [{"image_id": n, "url": f"https://vg.example/VG_100K/{n}.jpg", "width": 80} for n in (10, 11, 12, 13)]
    (genome / "image_data.json").write_text(json.dumps(data))
    regions = [
        {"id": n, "regions": [
            {"region_id": 1, "image_id": n, "x": 1, "y": 2, "width": 30, "height": 40, "phrase": f"thing of {n}"}
        ]}
        for n in (10, 11, 12, 13)
    ]  # fmt: skip
    (genome / "region_descriptions.json").write_text(json.dumps(regions))
    images(genome, "VG_100K/11.jpg", "VG_100K/12.jpg")
    return str(own), str(genome)
