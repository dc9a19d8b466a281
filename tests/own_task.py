"""A task for lmms-eval, as its users write one: the toy world's questions as a data set with images, and the YAML."""

from io import BytesIO
from pathlib import Path

import datasets
from PIL import Image

from seva_ray.core.records import Prompt
from seva_ray.toy.prompts import prompts_about
from seva_ray.toy.world import Question, make_scene

TASK = "toy_questions"
KINDS = ("color", "count")
MAX_NEW_TOKENS = 4
YAML = f"""\
task: {TASK}
dataset_path: DATA
test_split: test
output_type: generate_until
doc_to_visual: !function functions.images
doc_to_text: "{{{{question}}}}"
doc_to_target: "answer"
process_results: !function functions.score
generation_kwargs:
  max_new_tokens: {MAX_NEW_TOKENS}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
  - metric: total
    aggregation: !function functions.total
    higher_is_better: true
"""
FUNCTIONS = """\
def images(row):
    return [row["image"].convert("RGB")]


def score(row, answers):
    right = float(answers[0].strip() == row["answer"])
    return {"exact_match": right, "total": {"id": row["id"], "score": right}}


def total(scores):
    return 1 + 7 * sum(score["score"] for score in scores)
"""


def questions(index: int) -> list[tuple[Prompt, Question]]:
    """About one image."""
    every = prompts_about(make_scene(2024, "test", index), "deployment", "own")
    return [(prompt, question) for prompt, question in every if question.kind in KINDS]


def write_task(folder: Path, num_images: int) -> Path:
    """The data as one parquet file with the images in it, and the folder with the task, which is returned."""
    rows = [
        {
            "id": prompt.prompt_id,
            "image": Image.open(BytesIO(prompt.image_bytes or b"")),
            "question": question.text,
            "answer": question.answer,
        }
        for index in range(num_images)
        for prompt, question in questions(index)
    ]
    texts = {name: datasets.Value("string") for name in ("id", "question", "answer")}
    features = datasets.Features(texts | {"image": datasets.Image()})
    (folder / "data").mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    (folder / "tasks").mkdir()
    (folder / "tasks" / f"{TASK}.yaml").write_text(YAML.replace("DATA", str(folder / "data")))
    (folder / "tasks" / "functions.py").write_text(FUNCTIONS)
    return folder / "tasks"
