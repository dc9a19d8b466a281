"""What a pool's nodes cost: a table that the user writes, as TOML.

currency = "USD"
[generation]            # pools: generation, training, cpu
on_demand = 40.0        # price of one node for one hour
spot = 15.0
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seva_ray.core.errors import InputError
from seva_ray.core.storage import exists, read_bytes

POOLS = ("generation", "training", "cpu")
KINDS = ("on_demand", "spot")


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices of a node-hour."""

    currency: str
    per_node_hour: Mapping[str, Mapping[str, float]]
    """Prices by pool, then by kind: on_demand, spot or both."""
    path: str

    def cost(self, node_hours: Mapping[str, float], spot: Sequence[str]) -> dict[str, float]:
        """The cost by pool, in `currency`. Raises: InputError if a pool that is used has no price."""
        return {
            pool: hours * self.price(pool, "spot" if pool in spot else "on_demand") if hours else 0.0
            for pool, hours in node_hours.items()
        }

    def price(self, pool: str, kind: str) -> float:
        if kind not in self.per_node_hour.get(pool, {}):
            raise InputError(
                f"prices {self.path}: pool {pool} has no {kind} price, and the run takes {kind} nodes of it"
            )
        return self.per_node_hour[pool][kind]


def read_prices(path: str) -> Prices:
    """The prices in a TOML file. Raises: InputError if the file does not exist or is not a table of prices."""
    if not exists(path):
        raise InputError(f"prices {path}: no such file")
    try:
        found = tomllib.loads(read_bytes(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"prices {path}: not TOML: {error}") from None
    currency = found.pop("currency", None)
    if not isinstance(currency, str):
        raise InputError(f"prices {path}: currency must be given, as a text")
    for pool, prices in found.items():
        if pool not in POOLS or not isinstance(prices, dict):
            raise InputError(f"prices {path}: [{pool}] must be one of the tables {', '.join(POOLS)}")
        for kind, price in prices.items():
            if kind not in KINDS:
                raise InputError(f"prices {path}: {pool} has {kind!r}, which must be one of {', '.join(KINDS)}")
            if isinstance(price, bool) or not isinstance(price, (int, float)) or not 0 <= price < math.inf:
                raise InputError(f"prices {path}: {kind} of {pool} is {price!r}, which must be a number of at least 0")
    return Prices(currency=currency, per_node_hour=found, path=path)
