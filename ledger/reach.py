"""How a replica finds a shard's ledger, or starts the next one where there is none or it has gone silent.

A shard's ledgers are numbered: `paceline-ledger-{shard}-{generation}` is the name of a detached actor, and the highest
number that has a name is the shard's ledger. Ray keeps the numbers: a generation's name goes with its actor, and a
shard of which nothing is left begins at 1. The number decides whom to call, never who may write: that is the epoch in
the database, which every start of every generation takes anew.

    nobody is there            → 1
    it runs with older settings → the next one, and the old one is killed
    it has been silent          → the next one, and the old one is killed
    it has crashed              → Ray starts the same generation again, in a new epoch

Ray frees a killed actor's name at once. A process that runs ends at once too; one that is stopped (SIGSTOP) gets Ray's
SIGKILL 5 s later (`kill_worker_timeout_milliseconds`), and until then it may keep a lock of the database. One that Ray
could not reach leaves by itself when it wakes, for it is fenced and has a successor (`actor.py`).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from db.settings import DatabaseSettings
from ledger.errors import LedgerUnavailable
from ledger.settings import LedgerSettings, RoasSettings

logger = logging.getLogger("paceline.ledger")
Handle = TypeVar("Handle")
NAMESPACE = "paceline"
CONNECT_TRIES, CONNECT_RETRY_S = 10, 0.1
BORN_AT = time.time()
"""When this process began, near enough."""


class Identity(NamedTuple):
    """Which settings an actor runs with."""

    digest: str
    decided_at: float  # seconds since 1970


class Reached(NamedTuple, Generic[Handle]):
    """A shard's ledger, as it was found."""

    handle: Handle
    generation: int
    identity: Identity


class Silent(LedgerUnavailable):
    """It is there, and does not answer: the next generation's turn."""


class Generations(Protocol[Handle]):
    """One shard's ledgers."""

    def living(self) -> list[int]:
        """Those that have a name."""

    def meet(self, generation: int) -> Handle:
        """This one, made with the wanted settings if nobody has made it yet.

        Raises:
            LedgerUnavailable: its name is just being removed.
        """

    def identity(self, handle: Handle) -> Identity:
        """
        Raises:
            Silent: it runs, and has not answered within `silence_s`.
            LedgerUnavailable: it starts, starts again, or has just been removed.
        """

    def kill(self, generation: int) -> None:
        """For good, if it is still there. A generation that was killed has a younger one: its name never returns."""


def connect(
    database: DatabaseSettings,
    redis_url: str | None,
    ledger_settings: LedgerSettings | None = None,
    roas_settings: RoasSettings | None = None,
    shard: int = 0,
    decided_at: float | None = None,
) -> Reached[Any]:
    """A shard's ledger; makes the actor where there is none. Blocks; Ray must be initialised.

    One that runs with older settings, or does not answer, gives way to the next generation. Every replica may call this
    at once: all meet the same one.

    Args:
        decided_at: when these settings were decided, in seconds since 1970; else when this process began. In a rolling
            deployment the replicas with the old settings began before those with the new ones, and follow them.

    Raises:
        LedgerUnavailable: there is an actor, but it is not ready yet; try again.
    """
    settings = database, redis_url, ledger_settings or LedgerSettings(), roas_settings or RoasSettings(), shard
    return _connect(settings, decided_at, 0)


def replace(
    database: DatabaseSettings,
    redis_url: str | None,
    ledger_settings: LedgerSettings | None = None,
    roas_settings: RoasSettings | None = None,
    shard: int = 0,
    decided_at: float | None = None,
    *,
    seen: Reached[Any] | int,
) -> Reached[Any]:
    """`connect`, but to a younger generation than `seen`, which has not answered for `LedgerSettings.silence_s`.

    It is started if nobody has started it yet: who else gives up the same one meets the same successor. What was silent
    is killed, and fenced if it cannot be.

    Raises:
        LedgerUnavailable: the successor is not ready yet; try again, with the same `seen`.
    """
    settings = database, redis_url, ledger_settings or LedgerSettings(), roas_settings or RoasSettings(), shard
    return _connect(settings, decided_at, seen if isinstance(seen, int) else seen.generation)


Settings = tuple[DatabaseSettings, str | None, LedgerSettings, RoasSettings, int]


def _connect(settings: Settings, decided_at: float | None, seen: int) -> Reached[Any]:
    wanted = Identity(digest_of(*settings), BORN_AT if decided_at is None else decided_at)
    reached = agree(wanted, _RayGenerations(settings, wanted.decided_at), seen)
    if reached.identity.digest == wanted.digest:
        _retire_beyond(settings[2].shards)
    return reached


def agree(
    wanted: Identity,
    generations: Generations[Handle],
    seen: int = 0,
    sleep: Callable[[float], None] = time.sleep,
) -> Reached[Handle]:
    """The youngest generation, if it has the wanted settings or newer ones and is younger than `seen`; else the next.

    Whatever is older than the one that is met is killed before it is asked: a stopped process may hold a lock. Only one
    is given up for its silence in one call.

    Raises:
        LedgerUnavailable: there was none to meet, for as long as it was tried.
    """
    reason = LedgerUnavailable("it has been replaced again and again")
    has_given_up = False
    for _ in range(CONNECT_TRIES):
        living = generations.living()
        generation = next_generation(living, seen)
        try:
            handle = generations.meet(generation)
            for older in sorted(living):
                if older < generation:
                    logger.warning("ledger generation %d replaces %d", generation, older)
                    generations.kill(older)
            found = generations.identity(handle)
        except Silent as error:
            logger.warning("ledger generation %d is silent: %s", generation, error)
            if has_given_up:
                raise  # perhaps it is we who hear nothing
            seen, has_given_up = generation, True
            continue
        except LedgerUnavailable as error:
            reason = error
        else:
            if max(generations.living(), default=generation) > generation:
                continue  # somebody has made a younger one meanwhile
            if found.digest == wanted.digest or found.decided_at >= wanted.decided_at:
                return Reached(handle, generation, found)
            logger.warning("ledger generation %d runs with older settings", generation)
            seen = generation
            continue
        sleep(CONNECT_RETRY_S)
    raise reason


def next_generation(living: Iterable[int], seen: int) -> int:
    """Which one to call: the youngest, and younger than `seen`.

    >>> next_generation([], 0), next_generation([3], 0), next_generation([3], 3), next_generation([3, 4], 3)
    (1, 3, 4, 4)
    """
    return max([*living, seen + 1])


class _RayGenerations:
    """Actors by name."""

    def __init__(self, settings: Settings, decided_at: float) -> None:
        self._settings, self._decided_at, self._shard = settings, decided_at, settings[-1]

    def living(self) -> list[int]:
        return living_generations().get(self._shard, [])

    def meet(self, generation: int) -> Any:
        import ray  # here: Ray reads its environment on import, and a supervisor imports this package before it set it

        from ledger.actor import LedgerActor

        actor: Any = ray.remote(LedgerActor).options(
            name=name_of(self._shard, generation),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,  # a repeated call is the caller's decision: it has the ids that make it harmless
            num_cpus=0,
            max_concurrency=1000,
        )
        try:
            return actor.remote(*self._settings, self._decided_at, generation)
        except ValueError as error:  # the name is not free yet
            raise LedgerUnavailable(_first_line(error)) from None

    def identity(self, handle: Any) -> Identity:
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        try:
            answer: Identity = ray.get(handle.identity.remote(), timeout=self._settings[2].silence_s)
            return answer
        except GetTimeoutError:
            if _has_started(handle):
                raise Silent("its actor does not answer") from None
            raise LedgerUnavailable("its actor is still starting") from None
        except RayActorError as error:  # it starts again, or was killed a moment ago
            raise LedgerUnavailable(_first_line(error)) from None

    def kill(self, generation: int) -> None:
        _kill(name_of(self._shard, generation))


def name_of(shard: int, generation: int) -> str:
    return f"paceline-ledger-{shard}-{generation}"


def living_generations() -> dict[int, list[int]]:
    """The generations that have a name, by shard."""
    import ray

    found: dict[int, list[int]] = {}
    for actor in ray.util.list_named_actors(all_namespaces=True):
        parts = str(actor["name"]).removeprefix("paceline-ledger-").split("-")
        if actor["namespace"] == NAMESPACE and len(parts) == 2 and all(part.isdecimal() for part in parts):
            found.setdefault(int(parts[0]), []).append(int(parts[1]))
    return found


def end_sessions(seconds: float, draining_s: float) -> None:
    """Before everything stops: let every shard take back the leases of replicas that draw no more.

    What is not back within `seconds` waits in quarantine after the next start.

    Args:
        draining_s: a beat that was sent before now may still be on its way for so long.
    """
    import ray

    since = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=draining_s)
    until = time.monotonic() + seconds
    for shard, generations in living_generations().items():
        ledger = ray.get_actor(name_of(shard, max(generations)), NAMESPACE)
        while time.monotonic() < until:
            if not ray.get(ledger.end_sessions.remote(since), timeout=max(until - time.monotonic(), 0.1)):
                break
            time.sleep(0.1)


def has_successor(shard: int, generation: int) -> bool:
    """Whether a younger generation of the shard has a name."""
    return max(living_generations().get(shard, ()), default=0) > generation


def _retire_beyond(shards: int) -> None:
    """End the ledgers that only a larger layout had; nobody calls them any more."""
    for shard, generations in living_generations().items():
        for generation in generations if shard >= shards else ():
            logger.warning("there are %d shards now: ending the ledger of shard %d", shards, shard)
            _kill(name_of(shard, generation))


def _kill(name: str) -> None:
    import ray

    try:
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
    except ValueError:  # somebody was faster
        return


def _has_started(handle: Any) -> bool:
    """Whether its constructor has returned: until then nobody can say that it is silent."""
    from ray._private import state  # the public state API needs the dashboard

    return bool(state.actors(handle._actor_id.hex()).get("State") == "ALIVE")


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]


def digest_of(
    database: DatabaseSettings,
    redis_url: str | None,
    ledger_settings: LedgerSettings,
    roas_settings: RoasSettings,
    shard: int,
) -> str:
    """Equal for equal settings."""
    parts = (database.model_dump_json(), redis_url, ledger_settings.model_dump_json(), roas_settings.model_dump_json())
    return hashlib.sha256(repr((*parts, shard)).encode()).hexdigest()
