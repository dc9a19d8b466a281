"""The fake engine, of which some never load or never answer. Workers of Ray import it from here."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seva_ray.core.fingerprints import execution
from seva_ray.core.records import Response
from seva_ray.engines import Decoding, FakeEngine, Request
from seva_ray.engines.fake import FakeGenerator


@dataclass(frozen=True, kw_only=True)
class SilentEngine(FakeEngine):
    """Of all engines that have started, the first ones never answer, or never load."""

    kind = "FakeEngine"
    started: str = execution("")
    """A directory with a file for each engine that has started, named after its process."""
    num_silent: int = execution(0)
    at_load: bool = execution(False)

    def load(self, directory: str, decoding: Decoding, image_options: str = "") -> Any:
        Path(self.started, str(os.getpid())).touch()
        silent = len(os.listdir(self.started)) <= self.num_silent
        if silent and self.at_load:
            time.sleep(10**6)
        return SilentGenerator(self, decoding) if silent else FakeGenerator(self, decoding)


class SilentGenerator(FakeGenerator):
    def generate(self, requests: Sequence[Request]) -> list[Response]:
        time.sleep(10**6)
        return []
