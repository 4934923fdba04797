"""Steps 6 to 8, publish, swap and verify: the version is made known, made live, and looked for in every place."""

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
    """Make the version known, with λ in its manifest; one that was rejected, too.

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
    """Make it live. Once a night: what an operator has made live since then stays.

    Raises:
        ChampionChanged: an operator was first; the next run judges the challenger against what is live now.
        ModelRefused, ModelUnavailable: as `ModelRegistry.activate`.
    """
    with night.progress.step("swap") as done:
        if model.version not in await activated(night.database):
            await _activate(night.registry, model.version, model.manifest["parent"])
            done(f"{model.version} is live")
            return
        live, files = await current(night.database), night.registry.files
        # The run before may have been killed between the database and Redis.
        if live == model.version and files.redis.url is not None:
            await files.tell_redis(model.version)
        since = "" if live == model.version else f", {live} is now"
        done(f"{model.version} was made live{since}", kept=True)


async def verify_live(night: Night, model: Model) -> list[str]:
    """What speaks against its being live everywhere; nothing, if all is well."""
    with night.progress.step("verify") as done:
        problems = await confirm(night.registry, model.version)
        done("; ".join(problems) or "database, files, Redis, Git and replicas agree")
    return problems


async def _activate(registry: ModelRegistry, version: str, parent: str | None) -> None:
    if (live := await current(registry.database)) != parent:
        raise ChampionChanged(f"{live} was made live meanwhile, the challenger was judged against {parent}")
    await registry.activate(version, reason="nightly")
