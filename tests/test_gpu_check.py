"""`make gpu-check` at tiny size on a CPU: whether it runs, and whether its ways to compute attention are the same."""

import json
from pathlib import Path

import pytest
import torch

from bench.gpu import GpuCheck, main


@pytest.mark.slow
def test_every_section_runs_and_all_layouts_and_kernels_compute_the_same(tmp_path: Path):
    main(GpuCheck(tiny=True, out=str(tmp_path / "gpu.json")))
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["device"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")
    assert len(found["sections"]) == 4
    assert [name for name, result in found["sections"].items() if "error" in result] == []
    (step,) = (rows for name, rows in found["sections"].items() if name.startswith("step of"))
    rows = {name: row for name, row in step.items() if isinstance(row, dict)}
    assert len(rows) == 6
    assert [row for row in rows.values() if "error" in row] == []
    differences = [row["log-probabilities differ by"] for row in rows.values()]
    assert max(differences) < 1e-3
    losses = [row["loss"] for row in rows.values() if "loss" in row]
    assert losses == pytest.approx([losses[0]] * len(losses), abs=1e-5)
    assert losses[0] != pytest.approx(0.6931472, abs=1e-4), "the policy is its start: nothing is tested"
