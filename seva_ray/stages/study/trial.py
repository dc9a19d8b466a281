"""A trial of a study: the function that Tune runs in an actor. It imports nothing heavy; the workshop does the work."""

from typing import Any

import ray
from ray import tune


def trial(config: dict[str, Any]) -> None:
    """Measures a point on more and more pairs, as long as Tune's scheduler lets it."""
    workshop = ray.get_actor(config["workshop"])
    for num_pairs in config.get("rungs", [config["point"]["num_pairs"]]):
        result = ray.get(workshop.measure.remote(config["point"], num_pairs))
        tune.report(result)
        if result["error"]:
            return
