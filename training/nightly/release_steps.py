"""Steps 6 to 8, publish, swap and verify: stores the version, makes it live, and checks that it is live everywhere."""

from __future__ import annotations

from training.model.model import Model
from training.nightly.errors import ChampionChanged
from training.nightly.gate_step import Candidate
from training.nightly.lambda_step import Prices
from training.nightly.night import Night
from training.registry.activations import activated, current
from training.registry.publish import ModelRegistry
from training.registry.release_check import confirm


async def publish(night: Night, candidate: Candidate, prices: Prices) -> Model:
    """Store the version with λ in its manifest, whether it was accepted or rejected.

    Raises:
        OSError, ModelRefused, ModelUnavailable: as `ModelRegistry.publish`.
    """
    with night.progress.step("publish") as done:
        model = candidate.model.with_manifest(**{"lambda": prices.kappas})
        was_kept = await night.registry.is_published(model.version)
        await night.registry.publish(model, accepted=candidate.verdict.accepted, lambdas=prices.rows)
        done(f"{model.version}{' (simulated market)' if model.simulated else ''}", kept=was_kept)
    return model


async def swap(night: Night, model: Model) -> None:
    """Make the version live, unless an earlier run did: what an operator has made live since then stays.

    Raises:
        ChampionChanged: an operator made another version live first; the next run compares with that one.
        ModelRefused, ModelUnavailable: as `ModelRegistry.activate`.
    """
    with night.progress.step("swap") as done:
        if model.version not in await activated(night.database):
            await _activate(night.registry, model.version, model.manifest["parent"])
            done(f"{model.version} is live")
            return
        live, files = await current(night.database), night.registry.files
        # The earlier run may have been killed between writing to the database and to Redis.
        if live == model.version and files.redis.url is not None:
            await files.tell_redis(model.version)
        since = "" if live == model.version else f", {live} is now"
        done(f"{model.version} was made live{since}", kept=True)


async def verify_live(night: Night, model: Model) -> list[str]:
    """Where the version is not live as published; empty if all is well."""
    with night.progress.step("verify") as done:
        problems = await confirm(night.registry, model.version)
        done("; ".join(problems) or "database, files, Redis, Git and replicas agree")
    return problems


async def _activate(registry: ModelRegistry, version: str, parent: str | None) -> None:
    if (live := await current(registry.database)) != parent:
        raise ChampionChanged(
            f"{live} was made live meanwhile, but the new version was compared with {parent}; "
            "run the night again to compare with what is live now"
        )
    await registry.activate(version, reason="nightly")
