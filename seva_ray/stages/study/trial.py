"""A trial of a study: what Tune runs for one point, in a process of its own. It imports nothing heavy."""

from typing import Any

import ray
from ray import tune


def trial(config: dict[str, Any]) -> None:
    """Asks the study server to measure a point on more and more pairs, as long as Tune's scheduler lets it."""
    server = ray.get_actor(config["server"])
    for num_pairs in config.get("rungs", [config["point"]["num_pairs"]]):
        result = ray.get(server.measure.remote(config["point"], num_pairs))
        tune.report(result)
        if result["error"]:
            return
