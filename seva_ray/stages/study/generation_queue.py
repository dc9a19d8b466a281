"""Generation for a study: what several trials ask for is made once, by one pool of engines."""

import gc
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from seva_ray.core.artifacts import Artifact
from seva_ray.core.errors import UserError
from seva_ray.runtime import metrics
from seva_ray.runtime.cli import users_line
from seva_ray.runtime.sizing import num_engines
from seva_ray.stages.generate import GenerationTask, generated, open_responses, responses_name
from seva_ray.stages.study.cluster_check import generation_request
from seva_ray.stages.study.resource_queue import ResourceQueue
from seva_ray.stages.study.study_context import StudyContext
from seva_ray.stages.study.worker_groups import GATHERING_S


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """Responses that one thread waits for."""

    tasks: Sequence[GenerationTask]
    answered: "Future[list[Artifact]]" = field(default_factory=Future)

    def answer_if_complete(self, made: Mapping[str, Artifact]) -> None:
        """Answers the request if all its responses are among those that were `made`, which are given by name."""
        names = [responses_name(*task) for task in self.tasks]
        if not self.answered.done() and all(name in made for name in names):
            self.answered.set_result([made[name] for name in names])


class GenerationQueue:
    """Requests for responses, and the generation thread that serves them."""

    def __init__(self, context: StudyContext, resources: ResourceQueue):
        self.context, self.resources = context, resources
        self.requests: queue.SimpleQueue[GenerationRequest] = queue.SimpleQueue()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def ask(self, tasks: Sequence[GenerationTask]) -> None:
        """Let the responses of these tasks be made too, if the next pool of engines starts soon. Nobody waits for them,
        so an error is seen by whoever asks for them later."""
        opened = [open_responses(self.context.generate, self.context.store, *task) for task in tasks]
        if not all(artifact.complete for artifact in opened):
            self.requests.put(GenerationRequest(tasks=tasks))

    def responses(self, tasks: Sequence[GenerationTask]) -> list[Artifact]:
        """The responses of each task, read if they all exist. Any thread may call it, and waits for the answer."""
        opened = [open_responses(self.context.generate, self.context.store, *task) for task in tasks]
        if all(artifact.complete for artifact in opened):
            return [metrics.reused(artifact) for artifact in opened]
        request = GenerationRequest(tasks=tasks)
        self.requests.put(request)
        return request.answered.result()

    def serve_forever(self) -> None:
        """Generates all waiting requests together; if that fails, each alone. The generation thread runs this."""
        while True:
            batch = [self.requests.get()]
            time.sleep(GATHERING_S)
            while not self.requests.empty():
                batch.append(self.requests.get())
            self.serve(batch, last_try=len(batch) == 1)
            for request in batch:
                if not request.answered.done():
                    self.serve([request], last_try=True)

    def serve(self, batch: Sequence[GenerationRequest], last_try: bool) -> None:
        """Answers each request as soon as its responses exist, and by an error only on the last try. The generation
        thread runs this."""
        context, made = self.context, dict[str, Artifact]()
        engines = num_engines(context.generate, context.capacity)
        config = replace(context.generate, max_engines=engines)
        tasks = [task for request in batch for task in request.tasks]
        try:
            with self.resources.hold(generation_request(config, context.capacity), "generate"):
                for artifact in generated(config, context.store, tasks):
                    made[artifact.name] = artifact
                    for request in batch:
                        request.answer_if_complete(made)
            return
        except Exception as error:
            line = users_line(error)
            reported = UserError(line) if line else RuntimeError(f"generation failed: {error!r}")
            error.__traceback__ = None
        gc.collect()  # the error's frames hold engines, and engines hold their CPUs
        if last_try and not batch[0].answered.done():
            batch[0].answered.set_exception(reported)
