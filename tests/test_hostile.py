"""Hostile files: sources, images, benchmarks, models and replies that are changed at random never give a traceback.

Each case either works or raises one line. `make test-all` tries ten times as many, with other seeds.
"""

import json
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from seva_ray.benchmarks.amber import AmberDiscriminative, AmberGenerative
from seva_ray.benchmarks.chair import Chair
from seva_ray.benchmarks.gqa import Gqa
from seva_ray.benchmarks.judged.llava_bench import LlavaBench
from seva_ray.benchmarks.judged.mm_vet import MmVet
from seva_ray.benchmarks.mmbench import MMBench
from seva_ray.benchmarks.mme import Mme
from seva_ray.benchmarks.pope import Pope
from seva_ray.benchmarks.scienceqa import ScienceQa
from seva_ray.benchmarks.seed_bench import SeedBench
from seva_ray.benchmarks.textvqa import TextVqa
from seva_ray.core.errors import UserError
from seva_ray.core.records import PROMPT_SCHEMA, Prompt, Response, table
from seva_ray.sources import Folder, Hf, LlavaJson, QuestionList, Source, Table
from seva_ray.vlm.images import load_image
from seva_ray.vlm.model_files import check_model, weight_headers
from tests import judged_files, test_amber, test_chair, test_choice_benchmarks, test_mmbench, test_mme, test_pope
from tests import test_textvqa as textvqa
from tests.hostile import WEIRD, change_one, changed_bytes

LIMIT_S = 20
LIMIT_KIB = 2 * 2**20
Case = Callable[[random.Random, Path], None]


@contextmanager
def limited() -> Iterator[None]:
    """An error if the block takes longer than LIMIT_S."""

    def late(number: int, frame: Any) -> None:
        raise AssertionError(f"it took longer than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_kib() -> int:
    """The largest memory that this process has taken, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def picture(kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


def read_source(source: Source) -> None:
    """Read all prompts, store them, and open their images."""
    prompts = list(source.prompts())
    table(prompts, PROMPT_SCHEMA)
    for prompt in prompts[:3]:
        if prompt.error is None:
            opened(prompt, source.image_root)


def opened(prompt: Prompt, image_root: str | None) -> None:
    try:
        load_image(path=prompt.image_path, data=prompt.image_bytes, image_root=image_root)
    except UserError as error:
        one_line(error)


def one_line(error: UserError) -> None:
    line = str(error)
    if "\n" in line or len(line) > 2000:
        raise AssertionError(f"not one line: {line[:3000]!r}")


ROWS: list[dict[str, Any]] = [
    {"question": "Is it red?", "image": "a.png", "id": 1, "source": "x"},
    {"question": "What is it?\n<image>", "image": "a.png", "id": 2, "source": "y"},
    {"question": "And this?", "image": "b/c.jpg", "id": 3, "source": "x"},
]
CHATS: list[dict[str, Any]] = [
    {"id": str(row["id"]), "image": f"coco/train2017/{row['image']}", "conversations": [
        {"from": "human", "value": f"<image>\n{row['question']}"}, {"from": "gpt", "value": "Yes."}]}
    for row in ROWS
]  # fmt: skip


def images_in(folder: Path) -> Path:
    for place in (folder, folder / "coco" / "train2017"):
        (place / "b").mkdir(parents=True)
        (place / "a.png").write_bytes(picture())
        (place / "b" / "c.jpg").write_bytes(picture("JPEG"))
    return folder


def json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def a_table(rng: random.Random, folder: Path) -> None:
    path, images = json_lines(folder / "in" / "rows.jsonl", ROWS), images_in(folder / "images")
    change_one(folder / "in", rng)
    read_source(Table(path=str(path), image_root=str(images), prompt_id_column="id", source_column="source"))


def a_parquet_table(rng: random.Random, folder: Path) -> None:
    """Texts may not be valid UTF-8, columns may have any type, and the file may be damaged."""
    texts = [rng.choice([b"ok?", b"\xff\xfe", b"\xed\xa0\x80", b"", b"x" * 10_000]) for _ in range(6)]
    column = pa.array(texts, pa.binary()).cast(pa.string(), safe=False) if rng.random() < 0.5 else pa.array(texts)
    images = [rng.choice([None, picture(), changed_bytes(picture(), rng), b"", b"a.png"]) for _ in range(6)]
    columns: dict[str, Any] = {"question": column, "image": images}
    if rng.random() < 0.3:
        kind = rng.choice([pa.int8(), pa.float64(), pa.list_(pa.string()), pa.struct([("bytes", pa.binary())])])
        columns[rng.choice(["question", "image"])] = pa.nulls(6, kind)
    path = folder / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    if rng.random() < 0.5:
        path.write_bytes(changed_bytes(path.read_bytes(), rng))
    read_source(rng.choice([Table, Hf])(path=str(path)))


def a_llava_file(rng: random.Random, folder: Path) -> None:
    images = images_in(folder / "images")
    path = folder / "in" / "llava.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CHATS))
    change_one(folder / "in", rng)
    read_source(LlavaJson(path=str(path), image_root=str(images), folders={"coco": 0}))


def a_question_list(rng: random.Random, folder: Path) -> None:
    images = images_in(folder / "images")
    rows = [{"image": row["image"], "text": row["question"]} for row in ROWS]
    path = json_lines(folder / "in" / "list.json", rows)
    change_one(folder / "in", rng)
    read_source(QuestionList(path=str(path), image_root=str(images)))


def rows_of_datasets(rng: random.Random, folder: Path) -> None:
    images = images_in(folder / "images")
    forms = [
        ROWS,
        CHATS,
        [{"messages": [{"role": "user", "content": row["question"]}], "images": [row["image"]]} for row in ROWS],
    ]
    suffix = rng.choice([".jsonl", ".json", ".csv"])
    path = json_lines(folder / "in" / "rows.jsonl", rng.choice(forms))
    if suffix == ".json":
        path = path.rename(path.with_suffix(suffix))
        path.write_text(json.dumps([json.loads(line) for line in path.read_text().splitlines()]))
    elif suffix == ".csv":
        path.unlink()
        path = path.with_suffix(suffix)
        path.write_text("question,image\n" + "".join(f'"{row["question"]}",{row["image"]}\n' for row in ROWS))
    change_one(folder / "in", rng)
    read_source(Hf(path=str(path), image_root=str(images)))


def a_folder(rng: random.Random, folder: Path) -> None:
    images = images_in(folder / "images")
    for _ in range(3):
        change_one(images, rng)
    read_source(Folder(path=str(images)))


def an_image(rng: random.Random, folder: Path) -> None:
    kind = rng.choice(["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
    data = picture(kind, **({"progressive": True} if kind == "JPEG" else {}))
    for _ in range(rng.randrange(1, 4)):
        data = changed_bytes(data, rng)
    load_image(path=None, data=data, image_root=None)


BENCHMARKS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "pope": (lambda f: test_pope.write(f, test_pope.published_like()), lambda f: Pope(path=str(f), image_root="i")),
    "mmbench": (
        lambda f: test_mmbench.write(f, test_mmbench.published_like()), lambda f: MMBench(path=str(f / "dev.tsv")),
    ),
    "seed": (test_choice_benchmarks.seed, lambda f: SeedBench(path=str(f / "SEED-Bench.json"), image_root="i")),
    "scienceqa": (test_choice_benchmarks.scienceqa, lambda f: ScienceQa(path=str(f), image_root="i")),
    "gqa": (test_choice_benchmarks.gqa, lambda f: Gqa(path=str(f / "testdev.json"), image_root="i")),
    "textvqa": (
        lambda f: textvqa.write(f, textvqa.published_like(), [{"image_id": "a", "text": "b"}]),
        lambda f: TextVqa(path=str(f / "val.json"), image_root="i", ocr_path=str(f / "ocr.jsonl")),
    ),
    "mme": (test_mme.write, lambda f: Mme(path=str(f))),
    "chair": (
        test_chair.write,
        lambda f: Chair(path=str(f), image_root="i", synonyms_path=str(f / "synonyms.txt"), num_images=3),
    ),
    "amber-d": (test_amber.write, lambda f: AmberDiscriminative(path=str(f), image_root="i")),
    "amber-g": (test_amber.write, lambda f: AmberGenerative(path=str(f), image_root="i")),
}  # fmt: skip
"""How each benchmark's files are written, and read."""


def a_benchmark(rng: random.Random, folder: Path) -> None:
    write, read = BENCHMARKS[rng.choice(sorted(BENCHMARKS))]
    write(folder)
    change_one(folder, rng)
    benchmark = read(folder)
    prompts = list(benchmark.prompts())
    table(prompts, PROMPT_SCHEMA)
    answers = [str(rng.choice(WEIRD)) if rng.random() < 0.5 else "yes" for _ in prompts]
    responses = {
        prompt.prompt_id: Response(prompt_id=prompt.prompt_id, text=text, finish_reason="stop")
        for prompt, text in zip(prompts, answers, strict=True)
    }
    tally = benchmark.tally(responses)
    assert np.isfinite(tally.counts).all()
    with np.errstate(all="ignore"):
        benchmark.metrics(dict(zip(tally.names, tally.counts.sum(0), strict=True)))


def a_judged_benchmark(rng: random.Random, folder: Path) -> None:
    name = rng.choice(["mm_vet", "llava_bench"])
    path = getattr(judged_files, name)(folder / name)
    change_one(folder, rng)
    benchmark: Any = (MmVet if name == "mm_vet" else LlavaBench)(path=path)
    for prompt in benchmark.prompts():
        answer, other = (str(rng.choice(WEIRD)) for _ in range(2))
        for asked in benchmark.judge_prompts(prompt.prompt_id, answer, other):
            for verdict in (
                "8 7\nbecause",
                "0.5",
                str(rng.choice(WEIRD)),
                changed_bytes(b"7 8\nx", rng).decode("latin"),
            ):
                marks = benchmark.parse(verdict)
                if marks is not None:
                    benchmark.count(prompt.prompt_id, answer, [marks])
            assert asked


def a_model(toy_model: str) -> Case:
    def case(rng: random.Random, folder: Path) -> None:
        for file in Path(toy_model).iterdir():
            data = file.read_bytes()
            (folder / file.name).write_bytes(data)
        change_one(folder, rng)
        check_model(str(folder))
        weight_headers(str(folder))

    return case


CASES: dict[str, Case] = {
    function.__name__: function
    for function in (
        a_table, a_parquet_table, a_llava_file, a_question_list, rows_of_datasets, a_folder, an_image, a_benchmark,
        a_judged_benchmark,
    )
}  # fmt: skip


def tried(case: Case, name: str, count: int, root: Path, first: int = 0) -> None:
    """Run the case with many seeds. What is no UserError of one line within the limits fails, and names its seed."""
    refused, before_kib = 0, peak_kib()
    for seed in range(first, first + count):
        rng = random.Random(f"{name} {seed}")
        folder = root / f"{name}-{seed}"
        folder.mkdir()
        began = time.monotonic()
        try:
            with limited():
                case(rng, folder)
        except UserError as error:
            refused += 1
            one_line(error)
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}: {type(error).__name__}: {error}") from error
        assert time.monotonic() - began < LIMIT_S
        assert peak_kib() - before_kib < LIMIT_KIB, f"{name}, seed {seed}"
    assert refused < count, "every case was refused, so the files were never read"


@pytest.mark.parametrize("source", [Table, Hf])
def test_a_text_that_is_not_utf_8_costs_its_row_and_not_the_table(source: type[Table] | type[Hf], tmp_path: Path):
    texts = pa.array([b"a?", b"\xff\xfe", b"c?"], pa.binary())
    questions = pa.Array.from_buffers(pa.string(), 3, texts.buffers())
    pq.write_table(pa.table({"question": questions, "image": [picture()] * 3}), tmp_path / "rows.parquet")
    found = list(source(path=str(tmp_path / "rows.parquet")).prompts())
    assert [prompt.question for prompt in found] == ["a?", "", "c?"]
    assert [prompt.error for prompt in found] == [None, "row 1: a text in it is not valid UTF-8", None]


@pytest.mark.parametrize("name", CASES)
def test_a_changed_file_works_or_is_one_line(name: str, tmp_path: Path):
    tried(CASES[name], name, 25, tmp_path)


def test_a_changed_model_directory_works_or_is_one_line(toy_model: str, tmp_path: Path):
    tried(a_model(toy_model), "model", 25, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_changed_files_work_or_are_one_line(name: str, tmp_path: Path):
    tried(CASES[name], name, 200, tmp_path, first=1000)


@pytest.mark.slow
def test_many_changed_model_directories_work_or_are_one_line(toy_model: str, tmp_path: Path):
    tried(a_model(toy_model), "model", 200, tmp_path, first=1000)
