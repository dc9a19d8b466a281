"""The static pages on which all pairs can be looked through: their data, and what the page allows itself."""

import base64
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError
from seva_ray.core.storage import read_table, write_table
from seva_ray.pairs.files import files_of
from seva_ray.stages.browse import Browse, browse
from seva_ray.stages.training.reference import LOGPS_SCHEMA
from tests.own_pairs import COLOURS, NUM_IMAGES, own_pairs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact]:
    return own_pairs(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def pages(made: tuple[Store, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    store, pairs = made
    return Path(browse(Browse(to=str(tmp_path_factory.mktemp("pages") / "out"), image_px=20), store, pairs.name))


def handed(file: Path, function: str) -> Any:
    """What a data script hands over, as a list of arguments."""
    found = re.fullmatch(rf"{function}\((.*)\);\n", file.read_text(), re.DOTALL)
    assert found
    return json.loads(f"[{found.group(1)}]")


def test_every_verdict_is_a_row_with_its_texts_and_the_index_says_the_same(made: tuple[Store, Artifact], pages: Path):
    _, pairs = made
    (index,) = handed(pages / "index.js", "hold")
    assert index["sizes"] == [2] * NUM_IMAGES
    assert len(index["rows"]) == 2 * NUM_IMAGES
    seen: dict[str, Counter[str]] = {view: Counter() for view in index["views"]}
    start = 0
    for place, size in enumerate(index["sizes"]):
        number, rows = handed(pages / "rows" / f"{place:06d}.js", "hold_rows")
        assert (number, len(rows)) == (place, size)
        for codes, row in zip(index["rows"][start : start + size], rows, strict=True):
            verdict, source, view, *lengths = codes
            prompt_id, question, chosen, rejected, _, error = row
            assert (index["sources"][source], question, error) == ("folder", "what color is the ring ?", "")
            assert lengths == [len(chosen), len(rejected)]
            assert (chosen == rejected) == (index["verdicts"][verdict] == "equal")
            assert prompt_id.startswith(f"{place:02d}.")
            seen[index["views"][view]][index["verdicts"][verdict]] += 1
        start += size
    assert {view: dict(counts) for view, counts in seen.items()} == pairs.counts["views"]


def test_each_row_has_a_small_copy_of_its_image(pages: Path):
    for place in (0, NUM_IMAGES - 1):
        _, rows = handed(pages / "rows" / f"{place:06d}.js", "hold_rows")
        image: Any = Image.open(pages / rows[0][4])
        assert image.size == (20, 14)
        assert all(abs(a - b) < 12 for a, b in zip(np.asarray(image, int)[7, 9], COLOURS[place], strict=True))


def test_the_page_runs_its_own_script_and_the_files_beside_it_and_loads_nothing_else(pages: Path):
    html = (pages / "index.html").read_text()
    (script,) = re.findall(r"<script>(.*)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'self' file: 'sha256-{digest}'" in html
    assert "default-src 'none'" in html
    assert "http:" not in html
    assert "https:" not in html
    assert not {"innerHTML", "insertAdjacentHTML", "document.write", "eval("} & set(re.findall(r"[\w.]+\(?", script))


def write_logps(
    store: Store, name: str, pairs: Artifact, margin: float, counts: dict[str, Any], num_shards: int
) -> None:
    logps = store.open(name, config={}, inputs=[pairs]).begin()
    for uri in files_of(pairs)[:num_shards]:
        rows = [
            {
                "prompt_id": row["prompt_id"],
                "ref_logps": [-1.0, *(-1.0 - margin - n for n in range(len(row["rejected"])))],
            }
            for row in read_table(uri, columns=["prompt_id", "rejected"]).to_pylist()
        ]
        write_table(logps.path(uri.rpartition("/")[2]), pa.Table.from_pylist(rows, LOGPS_SCHEMA))
    logps.finish(counts)


def test_margins_before_and_after_training_stand_at_the_answers_that_they_are_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store, pairs = own_pairs(tmp_path / "own")
    of = pairs.name.removeprefix("pairs/")
    write_logps(store, f"logps/{of}/float32", pairs, 2.0, {}, NUM_IMAGES)
    write_logps(store, f"logps/{of}/float32-by-mine", pairs, 5.5, {}, NUM_IMAGES)
    for policy in ("mine", "other"):
        store.open(f"policies/{policy}", config={}, inputs=[pairs]).finish({})
    for number, margin in ((5, 3.25), (3, 9.0)):  # of two samples the larger one is shown
        counts = {"num_pairs": number, "policy": "mine", "computed": "float32"}
        write_logps(store, f"margins/{of}/mine-of-{number}", pairs, margin, counts, number)
    pages = Path(browse(Browse(to=str(tmp_path / "out"), image_px=0), store, pairs.name))
    assert f"browse {pairs.name}: --policy other adds the margins after training" in capsys.readouterr().err
    (index,) = handed(pages / "index.js", "hold")
    assert index["margins"] == [
        "by the base model (float32)", "by mine (float32)", "by mine, after training", "gained by training mine"
    ]  # fmt: skip
    verdict, view = (lambda row: index["verdicts"][row[0]]), (lambda row: index["views"][row[2]])
    scored = 0
    for place, row in enumerate(index["rows"]):
        more = {"moco": 0, "diffusion-500": 1}[view(row)]
        before = [2.0 + more, 5.5 + more] if verdict(row) == "kept" else [None, None]
        after = [3.25 + more, 1.25] if verdict(row) == "kept" and place // 2 <= 5 else [None, None]
        assert row[5:] == [*before, *after]
        scored += after != [None, None]
    assert scored == 2 * 5
    page = (pages / "index.html").read_text()
    assert "The margins by mine are those of 5 of the 17 pairs, a sample in whole shards." in page
    assert {'id="scorer"', 'id="order"'} <= set(re.findall(r'id="\w+"', page))


def test_an_image_that_cannot_be_read_is_left_out_and_pages_without_images_have_none(tmp_path: Path):
    store, pairs = own_pairs(tmp_path / "own")
    (tmp_path / "own" / "photos" / "05.png").unlink()
    pages = Path(browse(Browse(to=str(tmp_path / "a")), store, pairs.name))
    assert [bool(handed(pages / "rows" / f"{n:06d}.js", "hold_rows")[1][0][4]) for n in (4, 5)] == [True, False]
    bare = Path(browse(Browse(to=str(tmp_path / "b"), image_px=0), store, pairs.name))
    assert not list(bare.glob("images/*"))
    with pytest.raises(InputError, match="already exists"):
        browse(Browse(to=str(tmp_path / "b")), store, pairs.name)
