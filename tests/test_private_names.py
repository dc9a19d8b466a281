"""Names of other libraries that are not part of their public interface, but that seva_ray relies on.

An upgrade that removes or renames one fails here, and not silently in the middle of a run.
"""

import importlib
import inspect

import pytest

NAMES = {
    # Without it Ray listens on every network interface of the machine.
    "ray._private.ray_constants": ["ENABLE_RAY_CLUSTER"],
    # How a job learns which nodes there are, and which ones the autoscaler can add.
    "ray._private.state": ["state.get_cluster_config"],
    "ray._private.worker": ["global_worker"],
    "ray.autoscaler._private.kuberay.autoscaling_config": ["_generate_available_node_types_from_ray_cr_spec"],
    "ray.autoscaler.v2.sdk": ["get_cluster_resource_state"],
    "ray.core.generated.autoscaler_pb2": ["ClusterConfig", "NodeStatus"],
    # What a machine offers, before a cluster is started on it.
    "ray._private.accelerators": ["get_accelerator_manager_for_resource"],
    "ray._private.utils": ["get_num_cpus"],
    # How training says that it waits for nodes.
    "ray.train.v2._internal.exceptions": ["WorkerGroupStartupTimeoutError"],
    "ray.train.v2._internal.execution.callback": ["ControllerCallback.after_controller_state_update"],
    "ray.train.v2._internal.execution.controller.state": [
        "InitializingState", "SchedulingState", "ReschedulingState", "RestartingState",
    ],
    # Ctrl-C ends a job only because this is overridden.
    "ray.train.torch": ["TorchTrainer._register_sigint_handler"],
    # If one of these hooks has another name, TRL tokenises, shuffles or computes its own loss, and nothing says so.
    "trl": ["DPOTrainer._prepare_dataset", "DPOTrainer._precompute_ref_logps", "DPOTrainer._compute_loss"],
    "transformers": ["Trainer._get_train_sampler", "Trainer._prepare_inputs"],
    # A second policy of one group of workers starts as the first one did.
    "accelerate.state": ["AcceleratorState._reset_state", "GradientState._reset_state"],
    "transformers.integrations.deepspeed": ["unset_hf_deepspeed_config"],
    # Without it DeepSpeed compiles an operator at its first use on a CPU.
    "deepspeed.ops": ["__compatible_ops__"],
    # Which model types exist.
    "transformers.models.auto.modeling_auto": ["MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"],
    # How requests reach vLLM's engine, and how it takes other weights.
    "vllm.renderers.inputs.preprocess": ["parse_model_prompt"],
    "vllm.v1.engine.llm_engine": ["LLMEngine.add_request", "LLMEngine.step", "LLMEngine.reset_encoder_cache"],
    "vllm": ["LLM.collective_rpc", "LLM.reset_prefix_cache"],
}  # fmt: skip


@pytest.mark.parametrize("module", NAMES)
def test_every_private_name_that_we_rely_on_exists(module: str):
    for name in NAMES[module]:
        found = importlib.import_module(module)
        for part in name.split("."):
            assert hasattr(found, part), f"{module}.{name}"
            found = getattr(found, part)


def test_the_head_node_is_known_by_the_resource_that_ray_gives_it():
    from ray._common.constants import HEAD_NODE_RESOURCE_NAME

    assert HEAD_NODE_RESOURCE_NAME == "node:__internal_head__"


def test_the_trainers_hooks_override_those_of_trl_and_are_called_as_theirs():
    import trl

    from seva_ray.stages.training.trainer import PreferenceTrainer

    for name in ("_prepare_dataset", "_precompute_ref_logps", "_compute_loss", "_get_train_sampler", "_prepare_inputs"):
        ours, theirs = (getattr(kind, name) for kind in (PreferenceTrainer, trl.DPOTrainer))
        assert ours is not theirs
        required = [item for item in inspect.signature(theirs).parameters.values() if item.default is item.empty]
        inspect.signature(ours).bind(*(item.name for item in required if item.kind is not item.VAR_KEYWORD))
