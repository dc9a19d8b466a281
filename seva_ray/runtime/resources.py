"""The resources of the cluster's nodes, and of nodes that its autoscaler can add; whether a stage's needs fit there.

Nodes for engines declare a Ray resource `generation`, and nodes for training a resource `training`, one for each of
their GPUs. If any node type declares it, stages request it, so that one cluster serves them all. If no node type does
(a laptop), stages do not request it.
"""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from seva_ray.core.errors import InputError
from seva_ray.private.ray import (
    BOOTSTRAP_CONFIG,
    NodeGroup,
    kuberay_node_types,
    live_nodes,
    store_node_groups,
    stored_node_groups,
)

GENERATION, TRAINING = "generation", "training"

COUNTED = ("CPU", "GPU", GENERATION, TRAINING)

NODE_TYPES = "SEVA_NODE_TYPES"
"""Environment variable with the path of the cluster's description: the YAML file of `ray up`, or KubeRay's RayCluster.
Without the variable, the file that `ray up` leaves on the head node is read."""

HEAD = "head"

Amounts = Mapping[str, float]
"""The amount of each resource, by Ray's name for it; memory is in bytes."""

TASK: Amounts = {"CPU": 1}
"""The resources that a Ray task takes by default."""


@dataclass(frozen=True, kw_only=True)
class NodeType:
    name: str
    resources: Amounts
    """The resources of one node."""
    number: float = 1
    """The largest number of nodes of this type; default 1."""


def tell_node_types() -> None:
    """Store in the cluster which node types its autoscaler can add. Ray has a place for this, but leaves it empty."""
    path = Path(os.environ.get(NODE_TYPES, BOOTSTRAP_CONFIG)).expanduser()
    if NODE_TYPES in os.environ or path.exists():
        store_node_groups(described(path))


def described(path: Path) -> list[NodeGroup]:
    """The types of nodes in a cluster description, and the head as a type of its own. Raises: InputError."""
    groups: list[NodeGroup] = []
    try:
        cluster = yaml.safe_load(path.read_text(encoding="utf-8"))
        if cluster.get("kind") == "RayCluster":
            cluster = {"available_node_types": kuberay_node_types(cluster["spec"]), "head_node_type": "headgroup"}
        for name, entry in cluster["available_node_types"].items():
            is_head = name == cluster.get("head_node_type")
            resources = {resource: int(amount) for resource, amount in entry.get("resources", {}).items()}
            number = entry.get("max_workers", 0 if is_head else cluster.get("max_workers", 0))
            groups += [NodeGroup(name, int(number), resources)] + ([NodeGroup(HEAD, 1, resources)] if is_head else [])
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: no cluster description ({type(error).__name__}: {reason})") from None
    return groups


def nodes() -> list[NodeType]:
    """Each node that is alive, as a type of its own."""
    return [
        NodeType(
            name=HEAD if node.is_head else node.type_name or "node",
            resources=node.resources,
        )
        for node in live_nodes()
    ]


def node_types() -> list[NodeType]:
    """The nodes that are there, and what the autoscaler can add to them."""
    there = nodes()
    return there + can_be_added(stored_node_groups() or [], Counter(node.name for node in there))


def has_joined() -> bool:
    """Whether RAY_ADDRESS names a running cluster, so that this job starts none of its own."""
    return os.environ.get("RAY_ADDRESS", "local") != "local"


def is_one_node() -> bool:
    """Whether the cluster is one node and can add no other."""
    return sum(item.number for item in node_types()) == 1


def can_be_added(groups: Sequence[NodeGroup], there: Mapping[str, int]) -> list[NodeType]:
    """The node types that can still grow. `there`: number of live nodes by type."""
    types = [
        NodeType(
            name=group.name,
            resources=group.resources,
            number=math.inf if group.max_count < 0 else max(0, group.max_count - there.get(group.name, 0)),
        )
        for group in groups
    ]
    return [item for item in types if item.number]


def kind(name: str, amount: int = 1) -> dict[str, float]:
    """The resource to request to be placed on nodes of that kind; empty if no node type declares it."""
    return {name: amount} if any(item.resources.get(name) for item in node_types()) else {}


def has_gpus() -> bool:
    """Whether any node has GPUs, including nodes that the autoscaler can add."""
    return any(item.resources.get("GPU") for item in node_types())


def capacity() -> dict[str, float]:
    """The total of each resource in COUNTED after the cluster has grown as far as it can."""
    return total(node_types())


def total(types: Sequence[NodeType]) -> dict[str, float]:
    """The total of each resource in COUNTED over nodes of these types."""
    found: dict[str, float] = {}
    for item in types:
        for name in COUNTED:
            if amount := item.resources.get(name):
                found[name] = found.get(name, 0) + amount * item.number
    return found


def options(need: Amounts) -> dict[str, Any]:
    """The needed resources as keyword arguments of `map_batches`."""
    words = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    custom = {name: amount for name, amount in need.items() if name not in words}
    given = {word: need[name] for name, word in words.items() if name in need}
    return given | ({"resources": custom} if custom else {})


class Need(NamedTuple):
    """Something that needs room in the cluster."""

    what: str
    """What it is, for the user: `an engine`."""
    number: int
    """How many of them must run at the same time."""
    each: Amounts
    """The resources that each of them takes of one node."""
    fewer: str = ""
    """The job's option that sets the number."""
    smaller: Mapping[str, str] = {}
    """The job's option that sets how much of a resource each of them takes, by resource."""


def check_places(*needs: Need) -> None:
    """Check that all needs fit at once into the cluster after it has grown as far as it can. Give the needs that fewest
    nodes can serve first.

    Raises: InputError if they do not fit, because the job would then wait for ever.
    """
    line = no_place(needs, node_types())
    if line and has_joined() and stored_node_groups() is None:
        line += f" If the cluster can add nodes, set {NODE_TYPES} to the path of its description."
    if line:
        raise InputError(line)


def no_place(needs: Sequence[Need], types: Sequence[NodeType]) -> str:
    """A line that says what is missing and which node types would provide it; empty if nothing is missing."""
    most = sum(need.number for need in needs)
    # Plain nodes are filled first, so that nodes with special resources stay free for what needs them.
    plain_first = sorted(types, key=lambda item: sum(bool(item.resources.get(name)) for name in COUNTED))
    free = [dict(item.resources) for item in plain_first for _ in range(int(min(item.number, most)))]
    for need in needs:
        for placed in range(need.number):
            node = next((node for node in free if holds(node, need.each)), None)
            if node is None:
                return too_few(need, placed, types) or too_small(need, types)
            for name, amount in need.each.items():
                node[name] = node.get(name, 0) - amount
    return ""


def holds(node: Amounts, need: Amounts) -> bool:
    return all(node.get(name, 0) >= amount for name, amount in need.items())


def too_few(need: Need, placed: int, types: Sequence[NodeType]) -> str:
    """The line for a need that fits on a node, if no such node is left for it; empty if it fits on none."""
    giving = sorted({item.name for item in types if holds(item.resources, need.each)})
    if not giving:
        return ""
    if need.number > 1:
        wanted = f"the job needs {need.number} of them, each with {listed(need.each)}"
    else:
        wanted = f"it needs {listed(need.each)}"
    room = f"there is room for only {placed}" if placed else "the rest of the job leaves no room"
    one_machine = {item.name for item in types} == {HEAD}
    help_ = "A larger machine" if one_machine else f"More nodes of type {' or '.join(giving)}"
    fewer = f", and so would a lower {need.fewer}" if need.number > 1 and need.fewer else ""
    return f"no room for {need.what}: {wanted}, but {room}. {help_} would help{fewer}."


def too_small(need: Need, types: Sequence[NodeType]) -> str:
    """The line for a need that is larger than any node."""
    short = {
        name: amount
        for name, amount in need.each.items()
        if not any(holds(item.resources, {name: amount}) for item in types)
    }
    numbers: dict[str, float] = {}
    for item in types:
        shape = f"{item.name} ({listed({name: item.resources.get(name, 0) for name in need.each})})"
        numbers[shape] = numbers.get(shape, 0) + item.number
    shapes = ", ".join(shape if number == 1 else f"{number:g} x {shape}" for shape, number in numbers.items())
    lower = dict.fromkeys(need.smaller[name] for name in short if name in need.smaller)
    smaller = f" A lower {' or '.join(lower)} needs less." if lower else ""
    return (
        f"no node is large enough for {need.what}: it needs {listed(need.each)} on one node, but no node has "
        f"{listed(short) if short else 'all of these'}. The nodes that exist or can be added are: {shapes}.{smaller}"
    )


def listed(amounts: Amounts) -> str:
    """The amounts as text, for example `1 CPU, 0.5 GiB memory and 2 of resource 'generation'`."""
    words = []
    for name, amount in amounts.items():
        if name == "memory":
            words.append(f"{amount / 2**30:.1f} GiB memory")
        elif amount:
            words.append(f"{amount:g} {name}" if name in ("CPU", "GPU") else f"{amount:g} of resource {name!r}")
    return " and ".join([", ".join(words[:-1]), *words[-1:]] if len(words) > 1 else words) or "none of these"
