"""The actor's class as Ray sends it to whoever calls the actor, to replicas of the version before too."""

import base64
import subprocess
import sys
from pathlib import Path

from tests.pickled_names import names_in

BEFORE = base64.b64decode((Path(__file__).parents[3] / "data" / "before" / "actor_class.pickle.b64").read_text())


def test_the_class_that_the_version_before_sends_can_be_read():
    """An actor that it has started goes on: a replica of today that cannot read its class cannot call it."""
    assert "ledger.actor.LedgerActor.beat" in names_in(BEFORE)


def test_the_class_that_is_sent_names_nothing_that_the_version_before_lacks():
    """Ray names every function of the class, private ones too. Another name than before, and older replicas fail."""
    # In a process of its own, for Ray changes the signatures of the class that it sends.
    program = (
        "import ray, sys; from ray import cloudpickle; from ledger.runtime.actor import LedgerActor;"
        "sys.stdout.buffer.write(cloudpickle.dumps(ray.remote(LedgerActor).__ray_metadata__.modified_class))"
    )
    sent = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, check=True).stdout
    assert names_in(sent) == names_in(BEFORE)
