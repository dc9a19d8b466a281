"""Hostile archives, tables, encodings and places: each works or is one line, as with the files of test_hostile.py.

Places are what a disk may hold beside regular files: pipes, devices, sockets, sparse files, loops of links, and names
with line breaks or bytes that are not UTF-8. `make test-all` tries more seeds.
"""

import bz2
import datetime
import decimal
import gzip
import io
import json
import lzma
import os
import random
import socket
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch  # noqa: F401 -- datasets imports it with the first row, which takes seconds
from fsspec.implementations.local import LocalFileSystem

from seva_ray.core import listing
from seva_ray.core.contents import contents
from seva_ray.core.errors import InputError, UserError
from seva_ray.core.listing import is_hollow
from seva_ray.core.records import PROMPT_SCHEMA, Response, table
from seva_ray.sources import Folder, Hf, LlavaJson, QuestionList, Source, Table, files
from seva_ray.vlm.images import load_image
from seva_ray.vlm.model_files import check_model, weight_headers
from seva_ray.vlm.template_check import check_templates
from tests.hostile import WEIRD, changed_bytes
from tests.test_hostile import BENCHMARKS, CHATS, ROWS, Case, images_in, limited, picture, read_source, tried

NAMES: list[str | bytes] = [
    "a\nb.png",
    "a\rb.png",
    "\x1b[31m.png",
    " .png",
    "a'b\"c.png",
    "%2e%2e%2fa.png",
    "#?&.png",
    "*[a].png",
    "a\\b.png",
    "e\u0301.png",
    "\u202egnp.png",
    "x" * 200 + ".png",
    ".png",
    "-rf.png",
    "~.png",
    "$(id).png",
    b"\xff\xfe.png",
    b"\xed\xa0\x80.png",
]
"""Names that a file may have."""


def pipe(path: Path, rng: random.Random) -> None:
    os.mkfifo(path)


def device(path: Path, rng: random.Random) -> None:
    """A device without an end, one without a start, or none; a link where devices cannot be made."""
    number = rng.choice([os.makedev(1, 3), os.makedev(1, 5), os.makedev(1, 8)])
    try:
        os.mknod(path, stat.S_IFCHR | 0o644, number)
    except PermissionError:
        path.symlink_to(rng.choice(["/dev/null", "/dev/zero", "/dev/urandom"]))


def link_to_device(path: Path, rng: random.Random) -> None:
    path.symlink_to(rng.choice(["/dev/null", "/dev/zero", "/dev/full", "/dev/tty"]))


def bound_socket(path: Path, rng: random.Random) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def loop(path: Path, rng: random.Random) -> None:
    path.symlink_to(rng.choice([path.name, "nowhere", ".", "..", "../.."]))


def sparse(path: Path, rng: random.Random) -> None:
    with path.open("wb") as file:
        file.write(rng.choice([b"", picture(), b"{", b"[", b'{"a": "']))
        file.truncate(rng.choice([2**31, 2**35, 2**40]))


def directory(path: Path, rng: random.Random) -> None:
    path.mkdir()


ODD: list[Callable[[Path, random.Random], None]] = [
    pipe,
    device,
    link_to_device,
    bound_socket,
    loop,
    sparse,
    directory,
]
"""What may be in the place of a file."""


def replace_one(folder: Path, rng: random.Random) -> None:
    """Put something odd in the place of a file."""
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    path.unlink()
    rng.choice(ODD)(path, rng)


def odd_folder(rng: random.Random, folder: Path) -> None:
    images = images_in(folder / "images")
    for _ in range(2):
        name = rng.choice(NAMES)
        (Path(os.fsdecode(os.fsencode(images) + b"/" + os.fsencode(name)))).write_bytes(picture())
    replace_one(images, rng)
    contents(str(images), Folder(path=str(images)).reads)
    read_source(Folder(path=str(images)))


def linked_folder(rng: random.Random, folder: Path) -> None:
    """Folders with links to each other."""
    images, number = folder / "images", rng.randrange(2, 8)
    for one in range(number):
        (images / f"d{one}").mkdir(parents=True)
        (images / f"d{one}" / "a.png").write_bytes(picture())
    for one in range(number):
        for other in range(number):
            if one != other and rng.random() < 0.8:
                (images / f"d{one}" / f"to{other}").symlink_to(images / f"d{other}")
    read_source(Folder(path=str(images)))


def odd_images(rng: random.Random, folder: Path) -> None:
    """Rows that name odd files."""
    path = folder / "a.png"
    rng.choice([*ODD, *[lambda path, rng: path.write_bytes(picture())] * 4])(path, rng)
    load_image(path="a.png", data=None, image_root=str(folder))


def odd_rows(rng: random.Random, folder: Path) -> None:
    """A file of rows that is none, or that is compressed in an odd way."""
    images = images_in(folder / "images")
    forms: list[tuple[Callable[[str], Source], list[dict[str, Any]]]] = [
        (lambda path: Table(path=path, image_root=str(images)), ROWS),
        (lambda path: Hf(path=path, image_root=str(images)), ROWS),
        (lambda path: LlavaJson(path=path, image_root=str(images), folders={"coco": 0}), CHATS),
        (lambda path: QuestionList(path=path, image_root=str(images)), [{"image": "a.png", "text": "x?"}]),
    ]
    kind, rows = rng.choice(forms)
    path = folder / "in" / rng.choice(["rows.jsonl", "rows.json"])
    path.parent.mkdir()
    path.write_text(odd_text(rows, rng) if rng.random() < 0.5 else "".join(json.dumps(row) + "\n" for row in rows))
    if rng.random() < 0.6:
        path.unlink()
        rng.choice(ODD)(path, rng)
    if path.exists():  # a job asks for that first
        contents(str(path))
    read_source(kind(str(path)))


def odd_text(rows: list[dict[str, Any]], rng: random.Random) -> str:
    """JSON that other programs write."""
    lines = [json.dumps(row) for row in rows]
    return rng.choice(
        [
            "\u2028".join(lines),
            "\x85".join(lines),
            "\x1e".join(lines),
            "\r".join(lines),
            "\n\n\n".join(lines) + "\n\n",
            "// rows\n" + "\n".join(lines),
            "[" + ",".join(lines) + ",]",
            str(rows),
            "\n".join(lines).replace('"', "'"),
            json.dumps(dict.fromkeys("ab", rows)),
            json.dumps([rows]),
            json.dumps({"data": {"train": rows}}),
            json.dumps([[row] for row in rows]),
            json.dumps(rows)[:-1],
            "\ufeff\ufeff" + "\n".join(lines),
            "NaN\n" * 3,
        ]
    )


ENCODINGS = ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-7", "shift_jis", "utf-8-sig", "cp037"]


def encoded_rows(rng: random.Random, folder: Path) -> None:
    images = images_in(folder / "images")
    rows = [row | {"question": rng.choice(["Größe?", "はい?", "a\u2028b?", "naïve?"])} for row in ROWS]
    suffix = rng.choice([".jsonl", ".json", ".csv", ".tsv"])
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if suffix in (".csv", ".tsv"):
        mark = "," if suffix == ".csv" else "\t"
        text = f"question{mark}image\n" + "".join(f"{row['question']}{mark}{row['image']}\n" for row in rows)
    data = text.encode(rng.choice(ENCODINGS), "replace")
    press = rng.choice([None, gzip.compress, bz2.compress, lzma.compress])
    path = folder / f"rows{suffix}"
    if press:
        path = Path(f"{path}{ {gzip.compress: '.gz', bz2.compress: '.bz2', lzma.compress: '.xz'}[press] }")
        data = press(data)
        data = changed_bytes(data, rng) if rng.random() < 0.4 else data
    path.write_bytes(data)
    read_source(Hf(path=str(path), image_root=str(images)))


def bomb(rng: random.Random, folder: Path) -> None:
    """A small file that becomes a large one."""
    start = rng.choice([b"[", b'{"question": "', b"question,image\n", b'"', b""])
    piece = rng.choice([b" ", b"[", b"0", b"a", b","]) * 2**20
    path = folder / f"rows.{rng.choice(['jsonl', 'json', 'csv'])}.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(start)
        for _ in range(300):
            file.write(piece)
    read_source(Hf(path=str(path), image_root=str(folder)))


def a_tar(rng: random.Random, folder: Path) -> None:
    """A webdataset, with members as no program would write them."""
    path = folder / rng.choice(["rows.tar", "rows.tar.gz", "rows.tgz"])
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w", format=rng.choice([0, 1, 2])) as tar:
        for number in range(4):
            add(tar, f"{number:03}.png", picture())
            add(tar, f"{number:03}.json", json.dumps({"question": "What?", "id": number}).encode())
            if rng.random() < 0.5:
                odd_member(tar, number, rng)
    if rng.random() < 0.4:
        path.write_bytes(changed_bytes(path.read_bytes(), rng))
    read_source(Hf(path=str(path)))


def add(tar: tarfile.TarFile, name: str, data: bytes, **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))


def odd_member(tar: tarfile.TarFile, number: int, rng: random.Random) -> None:
    kind = rng.randrange(7)
    if kind == 0:
        add(tar, rng.choice(["../../x.png", "/etc/x.png", "a\nb.png", "noext", ".hidden", "x" * 90, "a.b.c.d"]), b"x")
    elif kind == 1:
        add(tar, f"{number:03}.json", rng.choice([b"", b"[]", b"{", b"\xff", b"[" * 5000, b"7", b"null"]))
    elif kind == 2:
        add(tar, f"l{number}.png", b"", type=rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]), linkname="/etc/passwd")
    elif kind == 3:
        add(tar, f"f{number}.png", b"", type=rng.choice([tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]))
    elif kind == 4:
        add(tar, f"t{number}.txt", rng.choice([b"\xff\xfe", b"a" * 10**6, b""]))
    elif kind == 5:
        add(tar, f"n{number}.npy", rng.choice([b"\x93NUMPY\x01\x00", b"", b"junk"]))
    else:
        add(tar, f"p{number}.pkl", rng.choice([b"cos\nsystem\n(S'touch /tmp/seva-hostile-pickle'\ntR.", b"\x80\x04."]))


def odd_column(rng: random.Random, what: str) -> pa.Array:
    """A column of six rows in an unusual type."""
    texts = ["a.png", "b/c.jpg", "a.png", None, "", "x"] if what == "image" else ["a?", "b?", None, "", "\0", "e?"]
    made: list[Callable[[], pa.Array]] = [
        lambda: pa.array(texts).dictionary_encode(),
        lambda: pa.array(texts, pa.large_string()),
        lambda: pa.array(texts, pa.string_view()),
        lambda: pa.array([text and text.encode() for text in texts]),
        lambda: pa.array([text and text.encode() for text in texts], pa.large_binary()),
        lambda: pa.array([[text] for text in texts]),
        lambda: pa.array([[text, text] for text in texts]),
        lambda: pa.array([{"text": text} for text in texts]),
        lambda: pa.array([{"bytes": picture(), "path": text} for text in texts]),
        lambda: pa.array([{"path": {"path": text}} for text in texts]),
        lambda: pa.array([{"bytes": 7} for _ in texts]),
        lambda: pa.array([[("a", text)] for text in texts], pa.map_(pa.string(), pa.string())),
        lambda: pa.array([decimal.Decimal("1.5")] * 6),
        lambda: pa.array([datetime.datetime(2020, 1, 1)] * 6),
        lambda: pa.array([datetime.timedelta(1)] * 6),
        lambda: pa.array([True] * 6),
        lambda: pa.nulls(6),
        lambda: pa.array([b"x" * 4] * 6, pa.binary(4)),
        lambda: pa.array([float("nan")] * 6, pa.float16()),
        lambda: pa.array([[0.5] * 4] * 6, pa.list_(pa.float32(), 4)),
        lambda: pa.array([[[[text]]] for text in texts]),
        lambda: pa.array([2**63] * 6, pa.uint64()),
        lambda: pa.array([[{"bytes": picture(), "path": None}] for _ in texts]),
    ]
    return rng.choice(made)()


def odd_table(rng: random.Random, folder: Path) -> None:
    images = images_in(folder / "images")
    usual = {"question": pa.array(["What?"] * 6), "image": pa.array(["a.png"] * 6)}
    names = list(usual) if rng.random() < 0.3 else [rng.choice(list(usual))]
    columns = usual | {name: odd_column(rng, name) for name in names}
    if rng.random() < 0.2:
        columns[rng.choice(["id", "source", "messages", "conversations", "", "a.b"])] = odd_column(rng, "")
    rows = pa.table(list(columns.values()), names=list(columns))
    if rng.random() < 0.1:
        rows = pa.table([*columns.values(), columns["image"]], names=[*columns, "image"])  # a name twice
    if rng.random() < 0.1:
        rows = rows.slice(0, 0)
    kind = rng.choice([Table, Hf])
    path = folder / "rows.parquet"
    try:
        pq.write_table(rows, path)
    except pa.ArrowException:  # not every type can be in a parquet file
        path, kind = folder / "rows.arrow", Hf
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
            writer.write_table(rows)
    read_source(kind(path=str(path), image_root=str(images)))


def odd_benchmark(rng: random.Random, folder: Path) -> None:
    """A benchmark with a file in another encoding, or with something else in the place of one."""
    write, read = BENCHMARKS[rng.choice(sorted(BENCHMARKS))]
    write(folder)
    if rng.random() < 0.4:
        replace_one(folder, rng)
    else:
        path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        data = path.read_bytes()
        text = data.decode("latin-1")
        path.write_bytes(
            rng.choice(
                [
                    text.encode("utf-16"),
                    text.encode("utf-32"),
                    text.encode("utf-8-sig"),
                    data.replace(b"\n", b"\r"),
                    data.replace(b"\n", b"\r\n"),
                    data.replace(b"\n", b"\xe2\x80\xa8"),
                    data + b"\0" * 1000,
                    b"",
                    gzip.compress(data),
                    data * 3,
                    b"\n" * 1000 + data,
                    data[::-1],
                    data.replace(b'"', b"'"),
                    data.replace(b"a", b"\xff"),
                    data.replace(b"e", "é".encode("latin-1")),
                    b"<html>404</html>",
                ]
            )
        )
    benchmark = read(folder)
    prompts = list(benchmark.prompts())
    table(prompts, PROMPT_SCHEMA)
    answers = {
        prompt.prompt_id: Response(prompt_id=prompt.prompt_id, text=str(rng.choice(WEIRD)), finish_reason="stop")
        for prompt in prompts
    }
    benchmark.tally(answers)


TEMPLATES = [
    "{{ '%1000000000d' | format(1) }}",
    "{{ 'a'.center(10**10) }}",
    "{{ 'a'.zfill(10**10) }}",
    "{{ 9**9**9 }}",
    "{{ range(10**12) | list }}",
    "{{ range(10**12) | sum }}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ ().__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ messages.__class__ }}",
    "{% include '/etc/passwd' %}",
    "{% extends 'x' %}",
    "{% import 'os' as os %}",
    "{{ lipsum(n=10**9) }}",
    "{{ 'a'.join(range(10**9) | map('string')) }}",
    "{% for b in range(99999) %}{% for c in range(99999) %}{{ c }}{% endfor %}{% endfor %}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ ('a' * 10**6) | indent(10**6) }}",
    "{{ 'a' | replace('', 'b' * 10**9) }}",
    "{% set x = [] %}{% for i in range(10**9) %}{{ x.append(i) }}{% endfor %}",
    "{{ 'a,' * 10**9 }}",
    "{" * 100_000,
    "{{" * 20_000,
    "{% if true %}" * 3000,
    "{{ " + "(" * 3000 + ")" * 3000 + " }}",
    "{{ '%s' * 10**9 % () }}",
    "{{ 'x'|wordwrap(10**9) }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ namespace(a=1).a.__class__ }}",
    "\0",
    "{{ 1/0 }}",
]
"""Chat templates that take time or memory, that want out of their sandbox, or that are none."""


def template_case(rng: random.Random, folder: Path) -> None:
    number = int(folder.name.rpartition("-")[2])
    template = TEMPLATES[number % len(TEMPLATES)]
    if number % 2:
        (folder / "chat_template.jinja").write_text(template)
    else:
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    check_templates(str(folder))


CASES: dict[str, Case] = {
    function.__name__: function
    for function in (
        odd_folder, linked_folder, odd_images, odd_rows, encoded_rows, a_tar, odd_table, odd_benchmark,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_odd_place_or_table_works_or_is_one_line(name: str, tmp_path: Path):
    tried(CASES[name], name, 8, tmp_path)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_odd_file_of_a_model_is_one_line(name: str, odd: Any, toy_model: str, tmp_path: Path):
    for file in Path(toy_model).iterdir():
        if file.name != name:
            (tmp_path / file.name).symlink_to(file)
    odd(tmp_path / name, random.Random(name))

    def check() -> None:
        check_model(str(tmp_path))
        weight_headers(str(tmp_path))

    with limited(), pytest.raises(UserError, match=rf"^model {tmp_path}: .*$"):
        check()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, "bomb"])
def test_many_odd_places_and_tables_work_or_are_one_line(name: str, tmp_path: Path):
    tried((CASES | {"bomb": bomb})[name], name, 12 if name == "bomb" else 60, tmp_path, first=1000)


@pytest.mark.slow
def test_any_chat_template_ends_within_its_limits(tmp_path: Path):
    tried(template_case, "template_case", 2 * len(TEMPLATES), tmp_path)


@pytest.mark.parametrize("odd", [pipe, device, bound_socket, sparse])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "rows.tar"])
def test_a_source_that_is_no_file_with_data_is_one_line_at_once(name: str, odd: Any, tmp_path: Path):
    odd(tmp_path / name, random.Random(0))
    line = f"^{tmp_path}/{name}: (is a pipe, a socket or a device, and must be a file|has .* bytes, and hardly any was)"
    with limited(), pytest.raises(InputError, match=line):
        contents(str(tmp_path / name))
    with limited(), pytest.raises(InputError, match=line):
        read_source(Hf(path=str(tmp_path / name)))


def test_a_file_that_lies_on_a_tape_until_it_is_read_is_no_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Such a system says that it stores nothing of the file, and knows of no hole in it."""
    (tmp_path / "a.json").touch()
    os.truncate(tmp_path / "a.json", 2**31)
    assert is_hollow(LocalFileSystem(), str(tmp_path / "a.json"))
    tape = SimpleNamespace(stat=os.stat, SEEK_HOLE=os.SEEK_HOLE, lseek=lambda *_: 2**31)
    monkeypatch.setattr(listing, "os", tape)
    assert not is_hollow(LocalFileSystem(), str(tmp_path / "a.json"))


def test_an_image_that_is_a_hole_has_no_contents_and_links_in_a_ring_are_read_once_each(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "b").symlink_to("../b")
    (tmp_path / "b" / "a").symlink_to("../a")
    (tmp_path / "a" / "x.png").write_bytes(picture())
    sparse(tmp_path / "b" / "y.png", random.Random(0))
    with limited():
        contents(str(tmp_path))
        found = [prompt.image_path for prompt in Folder(path=str(tmp_path)).prompts()]
    assert found == ["a/b/y.png", "a/x.png", "b/a/x.png", "b/y.png"]


def test_folders_that_all_have_links_to_each_other_are_one_line(tmp_path: Path):
    for one in range(9):
        (tmp_path / f"d{one}").mkdir()
        for other in range(9):
            (tmp_path / f"d{one}" / f"to{other}").symlink_to(tmp_path / f"d{other}")
    with (
        limited(),
        pytest.raises(InputError, match=rf"^{tmp_path}: links lead to {tmp_path}/d\d in more than 100 ways$"),
    ):
        read_source(Folder(path=str(tmp_path)))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_a_row_that_has_no_end_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "MOST_OF_A_ROW", 10_000)
    monkeypatch.setattr(files, "WINDOW_CHARS", 1000)
    (tmp_path / name).write_text('["' + "x" * 30_000)
    with pytest.raises(InputError, match=r"^\S+: (line 1|a row) has more than 10,000 (bytes|characters)$"):
        read_source(Hf(path=str(tmp_path / name)))


def test_a_column_of_categories_is_read_and_a_name_twice_is_one_line(tmp_path: Path):
    paths = pa.array(["a.png", "b/c.jpg", "a.png"]).dictionary_encode()
    images = images_in(tmp_path / "images")
    rows = pa.table({"question": ["a?", "b?", "c?"], "image": paths})
    pq.write_table(rows, tmp_path / "rows.parquet")
    found = list(Table(path=str(tmp_path / "rows.parquet"), image_root=str(images)).prompts())
    assert [(prompt.image_path, prompt.error) for prompt in found] == [(path, None) for path in paths.to_pylist()]
    pq.write_table(rows.append_column("image", paths), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"rows\.parquet: has several columns 'image'$"):
        list(Table(path=str(tmp_path / "rows.parquet"), image_root=str(images)).prompts())


def test_empty_lines_before_the_header_of_mmbench_change_nothing(tmp_path: Path):
    write, read = BENCHMARKS["mmbench"]
    write(tmp_path)
    before = list(read(tmp_path).prompts())
    (tmp_path / "dev.tsv").write_bytes(b"\r\n\n" + (tmp_path / "dev.tsv").read_bytes())
    assert list(read(tmp_path).prompts()) == before
