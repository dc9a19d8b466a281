"""What becomes of an artifact that was complete, but whose inputs were made anew or whose files were damaged."""

from collections.abc import Callable

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError
from seva_ray.core.ownership import owned
from seva_ray.runtime import metrics
from seva_ray.runtime.progress import say


def made_once(
    store: Store, opened: Callable[[], Artifact], make: Callable[[Artifact], Artifact], counted: bool = True
) -> Artifact:
    """The artifact that `opened` opens: as it is if it is complete, otherwise completed by `make`. If another job is
    making it, wait for that job. `counted`: an artifact that exists is counted as reused."""
    artifact = opened()
    if not artifact.complete:
        with owned(store.root, [artifact.name]):
            artifact = opened()  # another job may have made it meanwhile
            if not artifact.complete:
                return make(to_be_made(artifact))
    return metrics.reused(artifact) if counted else artifact


def to_be_made(artifact: Artifact) -> Artifact:
    """An incomplete artifact, without what is stale or damaged, so that only what is missing is made. One line says
    why a complete artifact is made again."""
    if why := reason(artifact):
        say(f"{artifact.name}: {why}: this is made again")
    return artifact.renewed()


def check_policy(policy: Artifact) -> None:
    """Raises: InputError if the policy was trained on pairs, or from a model, that have been made anew since. A policy
    took long to train, so it is never replaced without a word."""
    if policy.stale:
        raise InputError(
            f"{policy.name}: {reason(policy)}; give the new policy another name, or remove {policy.uri} to train it "
            "again (jobs/evaluate.py and jobs/export.py still take it as it is)"
        )


def reason(artifact: Artifact) -> str:
    """Why the artifact is no longer complete, in words; empty if it is, or never was."""
    if artifact.stale:
        names = ", ".join(artifact.stale)
        return f"{names} {'have' if len(artifact.stale) > 1 else 'has'} other contents since it was made"
    if not artifact.damaged:
        return ""
    name, what = next(iter(artifact.damaged.items()))
    more = len(artifact.damaged) - 1
    return f"{name} {what}" + (f" ({more:,} more files are damaged)" if more else "")
