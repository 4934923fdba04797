"""Replicas with the same settings share one ledger; newer settings, or its silence, bring the next generation."""

import pytest

from db.settings import DatabaseSettings
from ledger.domain.errors import LedgerUnavailable
from ledger.domain.settings import LedgerSettings, RoasSettings
from ledger.runtime import generations
from ledger.runtime.generations import CONNECT_TRIES, Identity, Silent, agree, digest_of

DATABASE = DatabaseSettings(url="sqlite+aiosqlite:///x.db")
OLD, NEW, LATER = Identity("old", 1.0), Identity("new", 2.0), Identity("new", 3.0)


class Cluster:
    """One shard's named actors, as Ray keeps them."""

    def __init__(self, *running: Identity) -> None:
        self.actors: dict[int, Identity] = dict(enumerate(running, 1))
        self.killed: list[int] = []
        self.stopped: set[int] = set()

    def seen_by(self, wanted: Identity) -> "Replica":
        return Replica(self, wanted)


class Replica:
    """Generations as one replica meets them."""

    def __init__(self, cluster: Cluster, wanted: Identity) -> None:
        self.cluster, self.wanted = cluster, wanted

    def living(self) -> list[int]:
        return list(self.cluster.actors)

    def get_or_start(self, generation: int) -> tuple[int, Identity]:
        return generation, self.cluster.actors.setdefault(generation, self.wanted)

    def identity(self, handle: tuple[int, Identity]) -> Identity:
        if handle[0] in self.cluster.stopped:
            raise Silent("stopped")
        if handle[0] not in self.cluster.actors:
            raise LedgerUnavailable("killed")
        return handle[1]

    def kill(self, generation: int) -> None:
        if self.cluster.actors.pop(generation, None):
            self.cluster.killed.append(generation)


def connect(cluster, wanted, seen=0):
    reached = agree(wanted, cluster.seen_by(wanted), seen, sleep=lambda _: None)
    return reached.identity, reached.generation


@pytest.mark.parametrize(
    ("story", "running", "wanted", "served", "generation"),
    [
        ("nobody is there", [], NEW, NEW, 1),
        ("the same settings", [NEW], LATER, NEW, 1),
        ("the old ones make room", [OLD], NEW, NEW, 2),
        ("a replica of the last deployment follows", [NEW], OLD, NEW, 1),
        ("two of one moment do not fight", [Identity("other", 2.0)], NEW, Identity("other", 2.0), 1),
        ("the youngest counts, whatever else is left", [OLD, NEW], NEW, NEW, 2),
    ],
)
def test_the_newest_settings_are_served(story, running, wanted, served, generation):
    cluster = Cluster(*running)
    assert connect(cluster, wanted) == (served, generation), story
    assert cluster.killed == list(range(1, generation)), story
    assert list(cluster.actors) == [generation], story


def test_who_gives_up_the_same_one_meets_the_same_successor():
    cluster = Cluster(NEW)
    assert connect(cluster, NEW, seen=1) == (NEW, 2)
    assert connect(cluster, LATER, seen=1) == (NEW, 2)
    assert connect(cluster, NEW) == (NEW, 2)
    assert cluster.killed == [1]


def test_a_silent_one_is_replaced_by_whoever_looks_for_it():
    cluster = Cluster(NEW)
    cluster.stopped = {1}
    assert connect(cluster, NEW) == (NEW, 2)
    assert cluster.killed == [1]


def test_a_replica_of_the_last_deployment_follows_the_successor_too():
    cluster = Cluster(NEW)
    assert connect(cluster, NEW, seen=1) == (NEW, 2)
    assert connect(cluster, OLD, seen=1) == (NEW, 2)


def test_replicas_that_meet_the_old_one_together_end_with_one_new_one():
    cluster = Cluster(OLD)

    class Late(Replica):
        """Has looked before the other replica came, and meets after it has gone."""

        looked = False

        def living(self):
            if not self.looked:
                self.looked = True
                before = list(self.cluster.actors)
                assert connect(self.cluster, NEW) == (NEW, 2)
                return before
            return super().living()

    reached = agree(LATER, Late(cluster, LATER), sleep=lambda _: None)
    assert (reached.identity, reached.generation) == (NEW, 2)
    assert list(cluster.actors) == [2], "what it made under a name of before is gone again"


def test_a_name_that_is_not_free_yet_is_asked_for_again():
    cluster, busy = Cluster(), iter(range(3))

    class Busy(Replica):
        def get_or_start(self, generation):
            if next(busy, None) is not None:
                raise LedgerUnavailable("being removed")
            return super().get_or_start(generation)

    assert agree(NEW, Busy(cluster, NEW), sleep=lambda _: None).generation == 1


@pytest.mark.parametrize(
    ("reason", "asked"), [(LedgerUnavailable("being removed"), [1] * CONNECT_TRIES), (Silent("stopped"), [1, 2])]
)
def test_a_ledger_that_never_comes_is_given_up(reason, asked):
    tries = []

    class Never(Replica):
        def identity(self, handle):
            tries.append(handle[0])
            raise reason

    with pytest.raises(LedgerUnavailable) as told:
        agree(NEW, Never(Cluster(), NEW), sleep=lambda _: None)
    assert told.value is reason
    assert tries == asked


def test_other_rules_count_as_other_settings(monkeypatch):
    """A ledger of the version before, which cannot read what replicas send now, is replaced by the deployment."""
    settings = (DATABASE, None, LedgerSettings(), RoasSettings(), 0)
    now = digest_of(*settings)
    monkeypatch.setattr(generations, "RULES", generations.RULES - 1)
    assert digest_of(*settings) != now


def test_every_setting_counts():
    same = (DATABASE, None, LedgerSettings(), RoasSettings(), 0)
    others = [
        (DatabaseSettings(url="sqlite+aiosqlite:///y.db"), *same[1:]),
        (DATABASE, "redis://r", *same[2:]),
        (*same[:2], LedgerSettings(conversion_days=7), *same[3:]),
        (*same[:3], RoasSettings(window="1d"), 0),
        (*same[:4], 1),
    ]
    assert digest_of(*same) == digest_of(DATABASE.model_copy(), None, LedgerSettings(), RoasSettings(), 0)
    assert len({digest_of(*settings) for settings in (same, *others)}) == len(others) + 1
