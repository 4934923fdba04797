"""How replicas agree on a shard's ledger, or start the next one if there is none or it is silent.

A shard's ledgers are numbered: `paceline-ledger-{shard}-{generation}` is the name of a detached actor, and the one with
the highest number is the shard's ledger. Ray keeps the numbers: a name exists as long as its actor, and a shard without
an actor begins at 1. The number decides which actor to call, not which may write: that is decided by the epoch in the
database, which every start of every generation increments.

    there is none               → generation 1
    it runs with older settings → the next generation, and the old one is killed
    it is silent                → the next generation, and the old one is killed
    it has crashed              → Ray starts the same generation again, in a new epoch

Ray frees a killed actor's name at once. A running process ends at once, too; a stopped one (SIGSTOP) gets Ray's SIGKILL
5 s later (`kill_worker_timeout_milliseconds`), and until then it may hold a lock in the database. One that Ray could
not reach ends by itself when it wakes, because it is fenced and has a successor (`LedgerActor`).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar

from db.settings import DatabaseSettings
from ledger.domain.errors import LedgerUnavailable
from ledger.domain.settings import LedgerSettings, RoasSettings
from ledger.former_names import pickled_as

logger = logging.getLogger("paceline.ledger")
Handle = TypeVar("Handle")
NAMESPACE = "paceline"
CONNECT_TRIES, CONNECT_RETRY_S = 10, 0.1
RULES = 2
"""Another number where replicas of this version send what ledgers of the version before do not know, such as a
`Change`: a deployment then replaces them, although no setting has changed."""


@pickled_as("ledger.reach")
class Identity(NamedTuple):
    """Which settings an actor runs with."""

    digest: str
    decided_at: float  # seconds since 1970


class Reached(NamedTuple, Generic[Handle]):
    """The ledger of a shard that replicas agreed on."""

    handle: Handle
    generation: int
    identity: Identity


class Silent(LedgerUnavailable):
    """The actor runs, but does not answer: the next generation replaces it."""


class Generations(Protocol[Handle]):
    """One shard's ledgers."""

    def living(self) -> list[int]:
        """The numbers of those that exist."""

    def get_or_start(self, generation: int) -> Handle:
        """This generation's actor, started with the wanted settings if it does not exist.

        Raises:
            LedgerUnavailable: its name is being removed at this moment.
        """

    def identity(self, handle: Handle) -> Identity:
        """Which settings it runs with.

        Raises:
            Silent: it runs, and has not answered within `silence_s`.
            LedgerUnavailable: it is starting, or has just been removed.
        """

    def kill(self, generation: int) -> None:
        """Kill it for good, if it exists. It has a younger generation then, so its number is not used again."""


def agree(
    wanted: Identity,
    generations: Generations[Handle],
    seen: int = 0,
    sleep: Callable[[float], None] = time.sleep,
    shard: int = 0,
) -> Reached[Handle]:
    """The youngest generation, if it has the wanted settings or newer ones and is younger than `seen`; else the next.

    Older generations are killed before the youngest is asked, since a stopped process may hold a database lock. One
    call gives up at most one generation for its silence.

    Args:
        seen: the generation that the caller has given up; 0: none.
        shard: named in log lines and errors.

    Raises:
        Silent: two generations in a row did not answer.
        LedgerUnavailable: none could be reached in CONNECT_TRIES tries; try again.
    """
    reason = LedgerUnavailable(f"shard {shard}: each of {CONNECT_TRIES} generations had been replaced; try again")
    has_given_up = False
    for _ in range(CONNECT_TRIES):
        living = generations.living()
        generation = next_generation(living, seen)
        try:
            handle = generations.get_or_start(generation)
            for older in sorted(living):
                if older < generation:
                    logger.warning("ledger shard %d: generation %d replaces %d", shard, generation, older)
                    generations.kill(older)
            found = generations.identity(handle)
        except Silent as error:
            if has_given_up:
                raise  # two in a row: perhaps this replica's own connection is broken
            line = "ledger shard %d: generation %d is silent (%s), starting the next one"
            logger.warning(line, shard, generation, error.reason)
            seen, has_given_up = generation, True
            continue
        except LedgerUnavailable as error:
            reason = error
        else:
            if max(generations.living(), default=generation) > generation:
                continue  # another replica has started a younger one meanwhile
            if found.digest == wanted.digest or found.decided_at >= wanted.decided_at:
                return Reached(handle, generation, found)
            line = "ledger shard %d: generation %d runs with older settings, starting the next one"
            logger.warning(line, shard, generation)
            seen = generation
            continue
        sleep(CONNECT_RETRY_S)
    raise reason


def next_generation(living: Iterable[int], seen: int) -> int:
    """The generation to call: the youngest, but younger than `seen`.

    >>> next_generation([], 0), next_generation([3], 0), next_generation([3], 3), next_generation([3, 4], 3)
    (1, 3, 4, 4)
    """
    return max([*living, seen + 1])


def name_of(shard: int, generation: int) -> str:
    return f"paceline-ledger-{shard}-{generation}"


def living_generations() -> dict[int, list[int]]:
    """By shard, the generations whose actors exist."""
    import ray

    found: dict[int, list[int]] = {}
    for actor in ray.util.list_named_actors(all_namespaces=True):
        parts = str(actor["name"]).removeprefix("paceline-ledger-").split("-")
        if actor["namespace"] == NAMESPACE and len(parts) == 2 and all(part.isdecimal() for part in parts):
            found.setdefault(int(parts[0]), []).append(int(parts[1]))
    return found


def has_successor(shard: int, generation: int) -> bool:
    """Whether a younger generation of the shard exists."""
    return max(living_generations().get(shard, ()), default=0) > generation


def digest_of(
    database: DatabaseSettings,
    redis_url: str | None,
    ledger_settings: LedgerSettings,
    roas_settings: RoasSettings,
    shard: int,
) -> str:
    """A hash of the settings, and of the rules that the ledger keeps."""
    parts = (database.model_dump_json(), redis_url, ledger_settings.model_dump_json(), roas_settings.model_dump_json())
    return hashlib.sha256(repr((RULES, *parts, shard)).encode()).hexdigest()
