"""run list: every policy and study under a root -> lines for the terminal, and the page `<root>/index.html`."""

from datetime import UTC, datetime

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import UserError
from seva_ray.core.storage import exists, files_in, write_bytes
from seva_ray.pages.index_page import IndexContent, RunRow
from seva_ray.stages.results import headlines, main_row
from seva_ray.stages.score_files import scores_of, title_of


def list_runs(store: Store) -> tuple[list[str], str]:
    """Write the page, and return lines about every run, the newest first, and the page's URI."""
    from seva_ray.pages.index_page import render

    runs, lines, faults = [], {}, []
    for name in store.names("policies"):
        try:
            row, of_run = run_of(store, name.removeprefix("policies/"))
        except UserError as error:  # one artifact that was damaged or removed must not hide the others
            faults.append(f"{name}: cannot be read ({error})")
            continue
        runs.append(row)
        lines[row.name] = of_run
    runs.sort(key=lambda row: -row.finished)
    studies = pages_in(store, "studies")
    content = IndexContent(
        title=f"Runs in {store.root}",
        summary=[f"Policies: {len(runs):,}. Studies: {len(studies):,}."],
        runs=runs,
        studies=studies,
        rounds=pages_in(store, "rounds"),
        faults=faults,
    )
    uri = f"{store.root.rstrip('/')}/index.html"
    write_bytes(uri, render(content).encode())
    return [line for run in runs for line in lines[run.name]] + faults, uri


def pages_in(store: Store, folder: str) -> list[str]:
    """The names under a folder of the root that have a page."""
    found = files_in(store.uri(folder)) if exists(store.uri(folder)) else []
    return sorted(name.removesuffix("/index.html") for name in found if name.endswith("/index.html"))


def run_of(store: Store, name: str) -> tuple[RunRow, list[str]]:
    """A policy's row on the page, and its lines on the terminal. Raises: InputError if something is damaged."""
    policy = store.find(f"policies/{name}")
    scores = scores_of(store, name)
    finished = datetime.fromtimestamp(policy.finished, UTC).strftime("%Y-%m-%d %H:%M")
    row = RunRow(
        name=name,
        start=policy.counts["start"]["name"],
        pairs=", ".join(item.removeprefix("pairs/") for item in policy.recipe["inputs"]),
        num_pairs=policy.counts["num_pairs"],
        num_steps=policy.counts["num_steps"],
        finished=policy.finished,
        finished_text=finished,
        has_report=exists(store.uri(f"reports/{name}/index.html")),
        scores={title_of(item): main_row(item) for item in scores},
    )
    about = f"{name}, aligned from {row.start} on {row.num_pairs:,} pairs, {finished} UTC:"
    return row, [about, *(f"  {line}" for line in headlines(scores) or ["not evaluated"])]
