"""Checks of a configuration's fields. Each raises a ConfigError that names field, value and limit; None passes."""

import math
import re
from collections.abc import Collection

from seva_ray.core.errors import ConfigError


def check_least(config: object, least: float, *names: str, finite: bool = False) -> None:
    """The fields are at least `least`; with `finite`, they are finite too."""
    for name, value in values_of(config, names):
        if not value >= least or (finite and value == math.inf):
            raise ConfigError(f"{name} {value}: must be at least {least:g}{', and finite' if finite else ''}")


def check_positive(config: object, *names: str) -> None:
    """The fields are above 0, and finite."""
    for name, value in values_of(config, names):
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} {value}: must be above 0, and finite")


def check_shares(config: object, *names: str) -> None:
    """The fields are 0 to 1."""
    for name, value in values_of(config, names):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} {value}: must be 0 to 1")


def check_choice(config: object, name: str, choices: Collection[str]) -> None:
    """The field is one of the choices."""
    if getattr(config, name) not in choices:
        raise ConfigError(f"{name} {getattr(config, name)!r}: must be one of {', '.join(choices)}")


def values_of(config: object, names: tuple[str, ...]) -> list[tuple[str, float]]:
    return [(name, value) for name in names if (value := getattr(config, name)) is not None]


def check_artifact_name(name: str) -> None:
    """Raises: ConfigError if the name cannot be a path under a root."""
    known = re.fullmatch(r"([\w.+=/-]|(?<=\d):(?=\d))+", name)  # a colon only as in a ladder's 100:900:200
    if not known or any(set(part) <= {"."} for part in name.split("/")):
        raise ConfigError(f"artifact name {name!r}: must have only letters, digits and . _ + = - between slashes")
