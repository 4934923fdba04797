"""Where the night's workers run."""

import pytest

from training.fitting.ray_fit import _where

NODES = [
    {"NodeID": "head", "Resources": {"CPU": 4.0, "memory": 1e9}},
    {"NodeID": "other", "Resources": {"CPU": 8.0}},
    {"NodeID": "manager", "Resources": {"memory": 1e9}},
]


@pytest.mark.parametrize(
    ("workers", "driver", "label"),
    [
        (1, "head", {"ray.io/node-id": "head"}),
        (1, "other", {"ray.io/node-id": "other"}),
        (1, "manager", None),
        (2, "head", None),
    ],
)
def test_a_single_worker_stays_with_its_driver_where_that_has_a_core(workers, driver, label):
    assert _where(workers, driver, NODES) == label
