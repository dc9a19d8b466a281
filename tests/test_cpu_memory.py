"""A machine without GPUs starts only as many engines as its memory holds."""

from dataclasses import replace

import pytest

from seva_ray.engines import FakeEngine, TransformersEngine, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.planning.memory import GIB, engine_on_cpus
from seva_ray.runtime.resources import HEAD, NodeType
from seva_ray.stages import cpu_memory
from seva_ray.stages.cpu_memory import engines_held, number_held

VLLM = Generate(engine=VllmEngine(dtype="float32", cpu_kv_cache_gb=2))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two CPUs, of whose 20 GiB 9 are free, and 1 of these is never given to anybody."""
    monkeypatch.setattr("ray._private.utils.get_system_memory", lambda: 20 * GIB)
    monkeypatch.setattr("ray._private.utils.estimate_available_memory", lambda: 10 * GIB)
    monkeypatch.setattr(cpu_memory, "has_gpus", lambda: False)
    monkeypatch.setattr("seva_ray.runtime.resources.node_types", lambda: [NodeType(name=HEAD, resources={"CPU": 2})])
    monkeypatch.setattr(cpu_memory, "FREED_WITHIN_S", 0.0)


@pytest.mark.parametrize(
    ("config", "number", "held"),
    [
        pytest.param(VLLM, 1, 1, id="one"),
        pytest.param(VLLM, 2, 2, id="two of 4 GiB"),
        pytest.param(VLLM, 3, 2, id="three of 4 GiB"),
        pytest.param(Generate(engine=VllmEngine(cpu_kv_cache_gb=20)), 2, 1, id="not even one"),
        pytest.param(Generate(engine=TransformersEngine()), 4, 4, id="four of 2 GiB"),
        pytest.param(Generate(engine=FakeEngine()), 9, 9, id="no model"),
        pytest.param(replace(VLLM, memory_check=False), 3, 3, id="as told"),
    ],
)
def test_only_engines_that_have_memory_start_and_a_line_says_so(
    toy_model: str, capsys: pytest.CaptureFixture[str], config: Generate, number: int, held: int
):
    assert engines_held(config, toy_model, number) == held
    said = capsys.readouterr().err
    assert bool(said) == (held < number)
    if said and number == 3:
        assert said == (
            "generate: 2 of 3 engines, because each takes about 4.0 GiB of memory and 9.0 are free; "
            "--generate.no-memory-check starts them all\n"
        )


def test_memory_that_an_ended_engine_gives_back_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    free = iter([4.0, 4.0, 10.0])
    monkeypatch.setattr("ray._private.utils.estimate_available_memory", lambda: next(free) * GIB)
    monkeypatch.setattr(cpu_memory, "FREED_WITHIN_S", 60.0)
    monkeypatch.setattr(cpu_memory, "LOOKS_EVERY_S", 0.01)
    assert number_held("engines", 2, 4.0, "generate") == 2


def test_an_engine_takes_its_weights_its_cache_and_what_libraries_take():
    assert engine_on_cpus(GIB, VllmEngine(dtype="float16", cpu_kv_cache_gb=3)) == pytest.approx(2 + 3 + 2)
    assert engine_on_cpus(GIB, TransformersEngine(dtype="float32")) == pytest.approx(4 + 2)
