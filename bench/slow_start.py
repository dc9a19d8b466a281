"""An engine of set service time that also takes seconds to load, as engines with weights do."""

import time
from dataclasses import dataclass

from seva_ray.core.fingerprints import execution
from seva_ray.engines import Decoding, FakeEngine
from seva_ray.engines.fake import FakeGenerator


@dataclass(frozen=True, kw_only=True)
class SlowStart(FakeEngine):
    load_s: float = execution(6.0)

    def load(self, directory: str, decoding: Decoding, image_options: str = "") -> FakeGenerator:
        time.sleep(self.load_s)
        return super().load(directory, decoding, image_options)
