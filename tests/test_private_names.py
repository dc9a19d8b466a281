"""Names of other libraries that are not part of their public interface, but that seva_ray relies on.

An upgrade that removes or renames one fails here, and not silently in the middle of a run.
"""

import ast
import importlib
import inspect
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from seva_ray.private import ray as private_ray

ROOT = Path(__file__).parent.parent

NAMES = {
    "ray._private.grpc_utils": ["init_grpc_channel"],
    "ray._private.ray_constants": ["ENABLE_RAY_CLUSTER"],
    "ray._private.services": ["canonicalize_bootstrap_address"],
    "ray._private.state": ["state.get_cluster_config"],
    "ray._private.worker": ["global_worker"],
    "ray._raylet": ["InnerGcsClient.report_cluster_config"],
    "ray.autoscaler._private.kuberay.autoscaling_config": ["_generate_available_node_types_from_ray_cr_spec"],
    "ray.autoscaler.v2.sdk": ["get_cluster_resource_state"],
    "ray.core.generated.autoscaler_pb2": ["ClusterConfig", "NodeStatus"],
    "ray._private.accelerators": ["get_accelerator_manager_for_resource"],
    "ray._private.accelerators.accelerator": [
        "AcceleratorManager.get_current_process_visible_accelerator_ids",
        "AcceleratorManager.get_current_node_num_accelerators",
    ],
    "ray._private.utils": ["get_num_cpus", "estimate_available_memory", "get_system_memory"],
    "ray.train.v2._internal.exceptions": ["WorkerGroupStartupTimeoutError"],
    "ray.train.v2._internal.execution.callback": ["ControllerCallback.after_controller_state_update"],
    "ray.train.v2._internal.execution.controller.state": [
        "InitializingState", "SchedulingState", "ReschedulingState", "RestartingState",
    ],
    "ray.train.torch": [
        "TorchTrainer._register_sigint_handler", "TorchTrainer._create_default_callbacks", "TorchConfig",
    ],
    "ray.train.torch.config": ["_set_torch_distributed_env_vars", "_TorchBackend.on_start"],
    "ray.train.v2._internal.callbacks.datasets": ["DatasetsCallback"],
    "ray.train.v2._internal.callbacks.placement_group_callback": ["PlacementGroupCleanerCallback"],
    "trl": [
        "DPOTrainer._prepare_dataset", "DPOTrainer._precompute_ref_logps", "DPOTrainer._compute_loss",
        "DPOTrainer._get_train_sampler", "DPOTrainer._prepare_inputs",
    ],
    "accelerate.state": ["AcceleratorState._reset_state", "GradientState._reset_state"],
    "transformers.integrations.deepspeed": ["unset_hf_deepspeed_config"],
    "deepspeed.ops": ["__compatible_ops__"],
    "transformers": ["PretrainedConfig._attn_implementation", "AutoModelForImageTextToText._model_mapping"],
    "transformers.models.auto.modeling_auto": ["MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"],
    "vllm.inputs.engine": ["mm_input"],
    "vllm.multimodal.inputs": ["MultiModalKwargsItems.from_hf_inputs", "PlaceholderRange.is_embed"],
    "vllm.multimodal.processing": [
        "BaseMultiModalProcessor._apply_hf_processor_main", "BaseMultiModalProcessor._get_mm_fields_config",
    ],
    "vllm.multimodal.processing.context": [
        "InputProcessingContext.call_hf_processor", "InputProcessingContext._postprocess_output",
    ],
    "vllm.renderers": ["BaseRenderer.get_mm_processor"],
    "vllm.v1.engine.llm_engine": ["LLMEngine.add_request", "LLMEngine.step", "LLMEngine.reset_encoder_cache"],
    "vllm": ["LLM.collective_rpc", "LLM.reset_prefix_cache"],
    "vllm.exceptions": ["VLLMClientError"],
    "vllm.platforms": ["current_platform.is_cpu"],
}  # fmt: skip
"""Names by the module that has them."""

ATTRIBUTES = {
    "cause", "worker_failures", "controller_failure", "training_failed_error", "gcs_client", "ray_node_type_name",
    "node_group_configs", "_metrics", "llm_engine",
}  # fmt: skip
"""Attributes of instances. A class does not show them, so tests below look for them one by one."""

OUR_OWN = {"step", "state", "add_request", "render"}
"""Names above that also mean something else in seva_ray."""


def files() -> Iterator[Path]:
    """The files that may not use a private name."""
    for folder in ("seva_ray", "jobs", "bench"):
        yield from (file for file in sorted(ROOT.glob(f"{folder}/**/*.py")) if file.parent.name != "private")


def used_in(tree: ast.AST) -> Iterator[str]:
    """Every name that code takes from elsewhere, or defines in the place of another: modules, attributes, functions. A
    name that starts with a dot is an attribute of something else than the object itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("seva_ray"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "os")  # os._exit is documented
            yield node.attr if own else f".{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg:
            yield f".{node.arg}"
        elif isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            yield from (str(item.value) for item in node.args[1:2] if isinstance(item, ast.Constant))


def private_in(tree: ast.AST) -> set[str]:
    """The private names that code uses: those of the lists above, and any with an underscore that is not its own."""
    listed = {name.rpartition(".")[2] for names in NAMES.values() for name in names} | ATTRIBUTES
    return {
        name for name in used_in(tree) if re.search(r"\._[a-zA-Z]", name) or name.rpartition(".")[2] in listed - OUR_OWN
    }


@pytest.mark.parametrize("module", NAMES)
def test_every_private_name_that_we_rely_on_exists(module: str):
    for name in NAMES[module]:
        found = importlib.import_module(module)
        for part in name.split("."):
            assert hasattr(found, part), f"{module}.{name}"
            found = getattr(found, part)


def test_no_other_file_uses_a_private_name():
    found = {str(file.relative_to(ROOT)): private_in(ast.parse(file.read_text())) for file in files()}
    assert len(found) > 150
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "code",
    [
        "from ray._private import state",
        "import ray.train.v2._internal.exceptions",
        "ray._private.worker.global_worker",
        "class Trainer(trl.DPOTrainer):\n    def _compute_loss(self): ...",
        "class Trainer(trl.DPOTrainer):\n    def note(self): self._metrics.clear()",
        "from vllm.inputs.engine import mm_input",
        "self.llm.llm_engine",
        "ray.init(_temp_dir='/tmp')",
        "getattr(error, 'worker_failures', {})",
    ],
)
def test_a_private_name_in_another_file_is_found(code: str):
    assert private_in(ast.parse(code))


@pytest.mark.parametrize("file", sorted(ROOT.glob("seva_ray/private/*.py")), ids=lambda file: file.stem)
def test_each_import_of_a_private_file_is_listed(file: Path):
    imported = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in imported:
        root = str(node.module).partition(".")[0]
        if root == file.stem and root != node.module:
            listed = {name.partition(".")[0] for name in NAMES.get(str(node.module), [])}
            known = listed | {name.rpartition(".")[2] for name in NAMES}
            assert {alias.name for alias in node.names} <= known | {"TorchTrainer"}, node.module


def test_strings_that_ray_gives_a_meaning_to_are_those_of_the_installed_version():
    from ray._common.constants import HEAD_NODE_RESOURCE_NAME
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
    from ray.autoscaler._private import commands
    from ray.train.v2._internal.constants import (
        CHECKPOINT_MANAGER_SNAPSHOT_FILENAME,
        ENABLE_PREEMPTION_WATCHER_ENV_VAR,
        HEALTH_CHECK_INTERVAL_S_ENV_VAR,
    )

    assert repr(HEAD_NODE_RESOURCE_NAME).strip("'\"") in inspect.getsource(private_ray.live_nodes)
    assert private_ray.SUBMISSION == RAY_JOB_CONFIG_JSON_ENV_VAR
    assert private_ray.BOOTSTRAP_CONFIG in inspect.getsource(commands)
    assert private_ray.CHECKPOINT_INDEX == CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
    assert private_ray.POLL_VARIABLE == HEALTH_CHECK_INTERVAL_S_ENV_VAR
    assert private_ray.PREEMPTION_VARIABLE == ENABLE_PREEMPTION_WATCHER_ENV_VAR


def test_rays_core_reads_the_variables_that_set_it():
    import ray

    with (
        Path(ray.__file__).with_name("_raylet.so").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as core,
    ):
        for name in private_ray.CORE_SETTINGS:
            assert core.find(name.removeprefix("RAY_").encode()) >= 0, name


def test_the_errors_and_messages_of_ray_have_the_attributes_that_we_read():
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeState
    from ray.exceptions import RayTaskError
    from ray.train import ControllerError, WorkerGroupError
    from ray.train.v2._internal.execution.controller.state import ReschedulingState

    inner = ValueError("inner")
    assert private_ray.errors_within(ControllerError(inner)) == [inner]
    assert private_ray.errors_within(WorkerGroupError("lost", {0: inner})) == [inner]
    assert private_ray.errors_within(RayTaskError("work", "", inner)) == [inner]
    assert private_ray.errors_within(inner) == []
    assert ReschedulingState(ControllerError(inner)).training_failed_error
    assert "ray_node_type_name" in NodeState.DESCRIPTOR.fields_by_name
    assert "node_group_configs" in ClusterConfig.DESCRIPTOR.fields_by_name


def test_the_trainers_hooks_override_those_of_trl_and_are_called_as_theirs():
    import trl

    from seva_ray.private.trl import HookedTrainer

    hooks = [name for name in vars(HookedTrainer) if name.startswith("_") and not name.startswith("__")]
    assert sorted(hooks) == sorted(name.partition(".")[2] for name in NAMES["trl"])
    for name in hooks:
        ours, theirs = (getattr(kind, name) for kind in (HookedTrainer, trl.DPOTrainer))
        assert ours is not theirs
        required = [item for item in inspect.signature(theirs).parameters.values() if item.default is item.empty]
        inspect.signature(ours).bind(*(item.name for item in required if item.kind is not item.VAR_KEYWORD))
    assert "self._metrics[" in inspect.getsource(trl.DPOTrainer)
