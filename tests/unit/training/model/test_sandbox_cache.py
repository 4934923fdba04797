"""A version is tried once on a node, in a process that may crash, hang or eat memory; the finding cannot be forged."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.mutants import signed_anew
from tests.unit.training.conftest import KEY
from training.features.layout import FEATURES
from training.model.bundle import TREES, ModelRefused, ModelUnavailable, Parts, parts_in
from training.model.model import Model
from training.model.sandbox import ResourceLimits, verify_in_child
from training.model.sandbox_cache import LOCK, MOST_FINDINGS, SandboxCache
from training.trees.bitvector_tables import Ready, checked, packed, ready, unpacked
from training.trees.tree_format import NotCompilable

VERSION, OTHER = {"version": "v1"}, {"version": "v2"}


class Child:
    """Stands for the process: counts how often it is asked."""

    def __init__(self, answer: Exception | None = None, takes_s: float = 0.0) -> None:
        self.answer, self.takes_s, self.asked = answer, takes_s, 0

    def __call__(self, _manifest, _texts):
        self.asked += 1
        time.sleep(self.takes_s)
        if self.answer is not None:
            raise self.answer
        return {"a1": "too many leaves"}


@pytest.fixture
def parts(model: Model) -> Parts:
    return parts_in(model.to_bundle(KEY), model.version)


def test_many_who_ask_at_once_are_served_by_one_child(tmp_path: Path) -> None:
    child = Child(takes_s=0.2)
    with ThreadPoolExecutor(8) as pool:  # a lock of each, as of processes
        found = list(pool.map(lambda _: SandboxCache(tmp_path, KEY, child).verify(VERSION, {}), range(8)))
    assert child.asked == 1
    assert found == [{"a1": "too many leaves"}] * 8


def test_a_refusal_is_remembered_with_its_reason(tmp_path: Path) -> None:
    child = Child(ModelRefused("v1", "it is odd"))
    for _ in range(3):
        with pytest.raises(ModelRefused, match="v1 refused: it is odd"):
            SandboxCache(tmp_path, KEY, child).verify(VERSION, {})
    assert child.asked == 1


def test_what_could_not_be_asked_is_asked_again(tmp_path: Path) -> None:
    child = Child(ModelUnavailable("v1", "no memory"))
    check = SandboxCache(tmp_path, KEY, child)
    with pytest.raises(ModelUnavailable):
        check.verify(VERSION, {})
    child.answer = None
    assert check.verify(VERSION, {}) == {"a1": "too many leaves"}
    assert child.asked == 2


def test_versions_are_found_out_one_by_one(tmp_path: Path) -> None:
    child = Child(ModelRefused("v1", "it is odd"))
    check = SandboxCache(tmp_path, KEY, child)
    with pytest.raises(ModelRefused):
        check.verify(VERSION, {})
    child.answer = None
    check.verify(OTHER, {})
    with pytest.raises(ModelRefused):
        check.verify(VERSION, {})


@pytest.mark.parametrize(
    "forge",
    [
        lambda path, other: path.write_bytes(b""),
        lambda path, other: path.write_bytes(other.read_bytes()),
        lambda path, other: path.write_bytes(path.read_bytes().replace(b'"it is odd"', b"null")),
        lambda path, other: path.write_bytes(b"0" * 64 + b'\n{"refusal": null}\n' + packed({})),
        lambda path, other: path.write_bytes(os.urandom(100)),
    ],
    ids=["emptied", "another version's", "edited", "made up", "noise"],
)
def test_a_finding_that_we_have_not_signed_counts_for_nothing(tmp_path: Path, forge) -> None:
    child = Child()
    check = SandboxCache(tmp_path, KEY, child)
    check.verify(OTHER, {})
    (other,) = (path for path in tmp_path.iterdir() if path.name != LOCK)
    child.answer = ModelRefused("v1", "it is odd")
    with pytest.raises(ModelRefused):
        check.verify(VERSION, {})
    (path,) = (path for path in tmp_path.iterdir() if path.name not in (LOCK, other.name))
    forge(path, other)
    with pytest.raises(ModelRefused):
        check.verify(VERSION, {})
    assert child.asked == 3
    with pytest.raises(ModelRefused):
        SandboxCache(tmp_path, b"another key", child).verify(OTHER, {})


def test_only_so_many_findings_are_kept(tmp_path: Path) -> None:
    check = SandboxCache(tmp_path, KEY, Child())
    for number in range(MOST_FINDINGS + 5):
        check.verify({"version": f"v{number}"}, {})
    assert len(list(tmp_path.iterdir())) == MOST_FINDINGS + 1


@pytest.mark.parametrize("folder", ["gone/checked", "file/checked"])
def test_where_nothing_can_be_remembered_everybody_finds_out_alone(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    child = Child()
    for _ in range(2):
        SandboxCache(tmp_path / folder, KEY, child).verify(VERSION, {})
    assert child.asked == 2


def _holds_the_lock(folder: Path) -> None:
    SandboxCache(folder, KEY, Child(takes_s=60.0)).verify(VERSION, {})


def test_whoever_dies_at_it_leaves_no_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_holds_the_lock, args=(tmp_path,))
    process.start()
    while not (tmp_path / LOCK).exists():
        time.sleep(0.02)
    time.sleep(0.2)
    child = Child()
    waiting = threading.Thread(target=SandboxCache(tmp_path, KEY, child).verify, args=(VERSION, {}))
    waiting.start()
    time.sleep(0.3)
    assert child.asked == 0, "the other one is at it"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    waiting.join(10.0)
    assert child.asked == 1


# The real child


def test_a_version_that_works_is_found_to_and_its_tables_come_back(parts: Parts, model: Model) -> None:
    prepared = verify_in_child(parts.body, parts.texts)
    loaded = Model.opened(parts.body, parts.texts, prepared)
    assert list(prepared.values()) != [] and all(isinstance(made, Ready) for made in prepared.values())
    assert loaded.trees is not loaded.reference
    rows = np.random.default_rng(1).normal(size=(200, len(FEATURES))).astype(np.float32)
    assert loaded.trees.predict(rows).tolist() == model.trees.predict(rows).tolist()


def test_trees_that_turn_in_circles_are_refused_for_the_cpu_they_take(parts: Parts) -> None:
    every_child = re.compile(r"(?m)^(?:left|right)_child=.*$")
    text = every_child.sub(lambda line: re.sub(r"-?\d+", "0", line[0]), parts.texts[TREES])
    circling = signed_anew(parts, KEY, trees=_with_right_sizes(text))
    with pytest.raises(ModelRefused, match="more than 3 s of CPU"):
        verify_in_child(circling.body, circling.texts, ResourceLimits(3, 60.0, 4 << 30))


def test_a_child_that_cannot_begin_says_nothing_against_the_version(parts: Parts) -> None:
    with pytest.raises(ModelUnavailable):
        verify_in_child(parts.body, parts.texts, ResourceLimits(10, 60.0, 60 << 20))


def test_a_child_that_the_clock_stops_says_nothing_against_the_version(parts: Parts) -> None:
    with pytest.raises(ModelUnavailable, match="longer than"):
        verify_in_child(parts.body, parts.texts, ResourceLimits(10, 0.01, 4 << 30))


def _with_right_sizes(text: str) -> str:
    """`tree_sizes` say how long each tree's text is."""
    head, first, rest = text.partition("Tree=0\n")
    trees, end, tail = (first + rest).partition("end of trees")
    sizes = [len(tree) for tree in re.split(r"(?=^Tree=\d+\n)", trees, flags=re.MULTILINE) if tree]
    return re.sub(r"tree_sizes=.*", "tree_sizes=" + " ".join(map(str, sizes)), head) + trees + end + tail


# Tables on their way


def test_tables_travel_as_they_are(parts: Parts) -> None:
    made = ready(parts.texts[TREES])
    (back,) = unpacked(packed({"x": made})).values()
    assert isinstance(back, Ready) and back.n_features == made.n_features
    assert made.tables._fields == back.tables._fields
    for name in made.tables._fields:
        mine, theirs = getattr(made.tables, name), getattr(back.tables, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "harm",
    [
        {"feature": lambda a: a + np.uint32(len(FEATURES))},
        {"stride": lambda a: a * np.uint32(256)},
        {"stride": lambda a: a + np.uint32(2)},
        {"strikes": lambda a: a | np.uint8(255)},
        {"strikes": lambda a: a[:-1]},
        {"ends": lambda a: a[::-1].copy()},
        {"ends": lambda a: a[:-1]},
        {"ends": lambda a: a + np.uint32(1 << 30)},
        {"leaves": lambda a: a[:-1]},
        {"leaves": lambda a: a[:-64]},
        {"cuts": lambda a: a[:-1]},
        {"cuts": lambda a: a.astype(np.float64)},
        {"missing": lambda a: a[:-1]},
    ],
)
def test_tables_that_lead_the_kernel_astray_are_refused(parts: Parts, harm) -> None:
    made = ready(parts.texts[TREES])
    changed = made.tables._replace(**{name: change(getattr(made.tables, name)) for name, change in harm.items()})
    with pytest.raises(NotCompilable):
        checked(made._replace(tables=changed))
    with pytest.raises(NotCompilable):
        unpacked(packed({"x": made._replace(tables=changed)}))


@pytest.mark.parametrize("data", [b"", b"PK", b"\x00" * 100, packed({})[:-10]])
def test_what_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(NotCompilable):
        unpacked(data)
