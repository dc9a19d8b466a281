"""What Ray says about the submitted job that this process runs, and where such a job must not write results.

`ray job submit --working-dir .` runs a job in a copy of the directory, which Ray removes later.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from seva_ray.core.errors import ConfigError
from seva_ray.private.ray import SUBMISSION

RECORDED = ("working_dir", "py_modules", "pip", "uv", "image_uri")
"""Fields of a runtime environment that are recorded."""


def current_submission() -> dict[str, Any] | None:
    """For the records: the job's id, its source's commit and its runtime environment; None if it was not submitted.

    Only the names of environment variables are recorded, and addresses lose passwords and queries, as they may hold
    secrets.
    """
    found = json.loads(os.environ.get(SUBMISSION, "{}"))
    if not found:
        return None
    metadata, environment = found.get("metadata") or {}, found.get("runtime_env") or {}
    return {
        "id": metadata.get("job_submission_id"),
        "git_commit": metadata.get("git_commit"),
        "runtime_env": {name: without_secrets(environment[name]) for name in RECORDED if name in environment}
        | {"env_vars": sorted(environment.get("env_vars") or {})},
    }


def without_secrets(value: Any) -> Any:
    """The JSON data, with `user:password@` and `?query` removed from addresses."""
    text = re.sub(r'//[^/@\s"]*@', "//", json.dumps(value))
    return json.loads(re.sub(r'(://[^?\s"]*)\?[^\s"]*', r"\1", text))


def check_lasts(field: str, path: str) -> None:
    """Raises: ConfigError if files written at `path` would be lost with the copy of the working directory."""
    job = current_submission()
    working_dir = job["runtime_env"].get("working_dir") if job else None
    copied = working_dir is not None and not working_dir.startswith("local://")
    if copied and "://" not in path and not Path(path).expanduser().is_absolute():
        raise ConfigError(
            f"{field} {path}: would be lost with this job's copy of the working directory; "
            "name a bucket, or an absolute path that all nodes share"
        )
