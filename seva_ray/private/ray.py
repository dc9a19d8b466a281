"""Ray's internals. `ray job submit` and `ray up` are among them as far as they leave files and variables behind."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

SUBMISSION = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The environment variable in which `ray job submit` tells a driver its job's id and runtime environment, as JSON. The
public API gives them only to a client that knows the address of Ray's dashboard."""

BOOTSTRAP_CONFIG = "~/ray_bootstrap_config.yaml"
"""The cluster description that `ray up` leaves on the head node. No API tells which nodes can be added."""

CHECKPOINT_INDEX = "checkpoint_manager_snapshot.json"
"""Ray Train's file in a run that has a checkpoint. The public way to look, restoring the run, needs a cluster."""

POLL_VARIABLE = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
PREEMPTION_VARIABLE = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Variables that Ray Train's controller reads when it starts. Its public API has no arguments for them."""

QUIET_LOGGERS = ("ray.data", "ray._private.authentication", "ray._private.utils")
"""Loggers of plans, of token authentication and of half a CPU. Ray's public logging level is one for all of Ray."""

CORE_SETTINGS = {
    # Without this, Ray also warns about the many processes of a study on a small machine. They wait for each other and
    # use no CPU.
    "RAY_worker_maximum_startup_concurrency": "16",
    # A worker process is kept for the next task for two minutes instead of one second, because a new process needs five
    # seconds to import the code that encodes images.
    "RAY_idle_worker_killing_time_threshold_ms": "120000",
}
"""Environment variables that Ray's core reads when it starts. `ray.init` has no arguments for these settings."""


class NodeGroup(NamedTuple):
    """A type of nodes that the cluster's autoscaler can add."""

    name: str
    max_count: int
    """The largest number of nodes of this type; negative: no limit."""
    resources: Mapping[str, float]
    """The resources of one node."""


class LiveNode(NamedTuple):
    """A node that is not dead."""

    is_head: bool
    type_name: str
    """The node's type in the cluster description; empty if the autoscaler did not start the node."""
    resources: Mapping[str, float]


def listen_on_loopback_only() -> None:
    """Let a cluster that this process starts listen on 127.0.0.1. By itself Ray listens on all addresses of the machine
    and serves metrics there to anybody. The public environment variable is read when Ray is imported, which is too
    early for us."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False


def init_in(directory: str, **options: Any) -> None:
    """`ray.init` with all files of the cluster in a directory. Ray offers this only under a name with an underscore."""
    import ray

    ray.init(_temp_dir=directory, **options)


def address_for(address: str) -> str | None:
    """HOST:PORT to which Ray connects for an address; None for `auto` if it knows none. By itself it only tries."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return canonicalize_bootstrap_address(address)
    except ConnectionError:
        return None


def channel_to(place: str) -> Any:
    """A channel of gRPC to a Ray server at HOST:PORT, with this process's token. Ray has no public client of it."""
    from ray._private.grpc_utils import init_grpc_channel

    return init_grpc_channel(place, [("grpc.enable_http_proxy", 0)])


def num_cpus() -> int:
    """The CPUs that Ray would count here, within a container's limit, but no more than this process may use: Ray does
    not know what taskset or Slurm allow. The public API counts only after a start."""
    from ray._private.utils import get_num_cpus

    within_limit = int(get_num_cpus(override_docker_cpu_warning=True, truncate=False))
    return min(within_limit, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else within_limit)


def free_memory() -> float:
    """Bytes that processes can take of this machine or container before Ray, at 95 %, ends one of them. The public API
    tells only what is left for tasks that ask for memory."""
    from ray._private.utils import estimate_available_memory, get_system_memory

    return estimate_available_memory() - 0.05 * get_system_memory()


def listed_gpus() -> tuple[int, list[str] | None]:
    """How many GPUs the driver lists, and the ids in CUDA_VISIBLE_DEVICES; None if it is not set. The public API counts
    only after a start."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    gpus = get_accelerator_manager_for_resource("GPU")
    return gpus.get_current_node_num_accelerators(), gpus.get_current_process_visible_accelerator_ids()


def global_control_store() -> Any:
    """Ray's client of the process that holds the cluster's state. The public State API needs the dashboard."""
    from ray._private.worker import global_worker

    return global_worker.gcs_client


def live_nodes() -> list[LiveNode]:
    """The nodes that are alive, with their types. The public `ray.nodes()` does not tell a node's type."""
    from ray.autoscaler.v2.sdk import get_cluster_resource_state
    from ray.core.generated.autoscaler_pb2 import NodeStatus

    return [
        LiveNode(
            is_head="node:__internal_head__" in node.total_resources,
            type_name=node.ray_node_type_name,
            resources=dict(node.total_resources),
        )
        for node in get_cluster_resource_state(global_control_store()).node_states
        if node.status != NodeStatus.DEAD
    ]


def store_node_groups(groups: Iterable[NodeGroup]) -> None:
    """Store in the cluster which nodes its autoscaler can add. Ray has a place for this, but fills it only for some
    kinds of clusters."""
    from ray.core.generated.autoscaler_pb2 import ClusterConfig

    config = ClusterConfig()
    for group in groups:
        config.node_group_configs.add(name=group.name, max_count=group.max_count, resources=group.resources)
    global_control_store().report_cluster_config(config.SerializeToString())


def stored_node_groups() -> list[NodeGroup] | None:
    """What `store_node_groups` or Ray stored; None if nothing is stored. There is no public API for this."""
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is None:
        return None
    return [NodeGroup(group.name, group.max_count, dict(group.resources)) for group in config.node_group_configs]


def kuberay_node_types(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The `available_node_types` of a RayCluster's `spec`, as `ray up` would describe them. Only Ray's autoscaler in
    KubeRay's head does this."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _generate_available_node_types_from_ray_cr_spec

    return _generate_available_node_types_from_ray_cr_spec(spec)


def errors_within(error: BaseException) -> list[BaseException]:
    """The errors that an error of Ray keeps: a worker's error, and those of a training group and of its controller. Ray
    does not chain them with `raise ... from`, and their classes do not document these attributes."""
    within = [getattr(error, "cause", None), getattr(error, "controller_failure", None)]
    within += getattr(error, "worker_failures", {}).values()
    return [inner for inner in within if isinstance(inner, BaseException)]


def raised_in_constructor(error: BaseException, module: str) -> str | None:
    """The message of an exception of this module that ended an actor's constructor, or None. Of such an exception Ray
    keeps only the text of its traceback."""
    if type(error).__name__ != "ActorDiedError":
        return None
    found = re.findall(rf"^{re.escape(module)}\.\w+: (.+)$", str(error), re.MULTILINE)
    return found[-1] if found else None


def trainer(*arguments: Any, one_node: bool = False, **options: Any) -> Any:
    """A `ray.train.torch.TorchTrainer` without its handler for Ctrl-C, so that Ctrl-C ends the job as everywhere else.
    Ray's handler prints nothing, stays for the rest of the process, and no option turns it off.

    It also starts no process that hands out data sets of Ray Data, because we give it none. `one_node`: the cluster is
    one node. Then Ray starts no process that cleans up after a controller which was lost with its node.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    unused = (DatasetsCallback, PlacementGroupCleanerCallback) if one_node else (DatasetsCallback,)

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Do nothing."""

        def _create_default_callbacks(self) -> list[Any]:
            return [item for item in super()._create_default_callbacks() if not isinstance(item, unused)]

    return Trainer(*arguments, **options)


def controller_settings(poll_s: float, one_node: bool) -> Any:
    """A callback for Ray Train's `RunConfig` that sets variables in the controller's process before the controller
    reads them. Ray passes such variables only from the driver's own environment, which is one for all runs.

    `poll_s`: The controller takes one report from each worker in this time, in seconds. A worker that saves a
    checkpoint waits for it. `one_node`: no process watches whether a node will be taken away.
    """
    from ray.train.v2._internal.execution.callback import ControllerCallback

    class Settings(ControllerCallback):
        def __init__(self) -> None:
            self.variables = {POLL_VARIABLE: str(poll_s)} | ({PREEMPTION_VARIABLE: "0"} if one_node else {})

        def __setstate__(self, state: dict[str, Any]) -> None:
            """The controller's process runs this when it receives its callbacks."""
            self.__dict__ |= state
            for name, value in self.variables.items():
                os.environ.setdefault(name, value)

    return Settings()


def torch_config(
    backend: str,
    open_store: Callable[[bool, int], tuple[str, int]],
    join_group: Callable[[int, str, tuple[str, int], int, int], None],
) -> Any:
    """A `ray.train.torch.TorchConfig` whose workers meet at the address of `open_store(on_one_node, world_size)` by
    `join_group(rank, backend, address, world_size, timeout_s)`. Ray has no option for how they meet."""
    import ray
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

    class Backend(_TorchBackend):
        def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
            world_size = len(worker_group)
            on_one_node = len(set(worker_group.execute(node_id))) == 1
            address = worker_group.execute_single(0, open_store, on_one_node, world_size)
            worker_group.execute(_set_torch_distributed_env_vars)
            given = (backend_config.backend, address, world_size, backend_config.timeout_s)
            joining = [worker_group.execute_single_async(rank, join_group, rank, *given) for rank in range(world_size)]
            ray.get(joining)

    class Config(TorchConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    return Config(backend=backend)


def node_id() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


def start_callback(notice: Callable[[bool, BaseException | None], None]) -> Any:
    """A callback for Ray Train's `RunConfig` that calls `notice(waiting, error)` in the controller's process each time
    that the controller changes its state. `waiting`: there are no workers now. `error`: the workers failed to start,
    although there were nodes for them. Ray's public callbacks do not hear of a group that waits to start."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    from ray.train.v2._internal.execution.callback import ControllerCallback
    from ray.train.v2._internal.execution.controller import state as states

    no_workers = (
        states.InitializingState, states.SchedulingState, states.ReschedulingState, states.RestartingState,
    )  # fmt: skip

    class StartCallback(ControllerCallback):
        def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
            error = None
            if isinstance(current_state, states.ReschedulingState):
                error = current_state.training_failed_error
                if isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError):
                    error = None
            notice(isinstance(current_state, no_workers), error)

    return StartCallback()


def restart_callback(notice: Callable[[BaseException, Mapping[int, BaseException]], None]) -> Any:
    """A callback for Ray Train's `RunConfig` that calls `notice(error, failures)` in the controller's process before a
    group of workers starts again. `failures`: the error of each worker that failed, by its rank. What `notice` raises
    ends the run. Ray's public settings say only how often to try again, whatever the error."""
    from ray.train.v2._internal.execution.callback import ControllerCallback
    from ray.train.v2._internal.execution.controller.state import RestartingState

    class RestartCallback(ControllerCallback):
        def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
            if isinstance(current_state, RestartingState):
                error = current_state.training_failed_error
                notice(error, getattr(error, "worker_failures", {}))

    return RestartCallback()
