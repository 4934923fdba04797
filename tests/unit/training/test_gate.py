import pytest

from training.gate import decide
from training.metrics import Metrics
from training.settings import ModelSettings


def judged(deviance, calibration=1.0, exposure=1e6):
    return Metrics(100, exposure, 0.9, deviance, calibration)


@pytest.mark.parametrize(
    ("challenger", "champion", "accepted"),
    [
        (judged(1.0), None, True),
        (None, None, True),
        (None, judged(1.0), False),
        (judged(0.9), judged(1.0), True),
        (judged(1.01), judged(1.0), True),
        (judged(1.1), judged(1.0), False),
        (judged(0.9, calibration=2.5), judged(1.0), False),
        (judged(0.9, calibration=0.3), judged(1.0), False),
        (judged(0.9, calibration=2.5), judged(1.0, calibration=3.0), True),
        (judged(0.9, calibration=float("nan")), judged(1.0), True),
        (judged(9.0, calibration=0.0, exposure=1.0), judged(1.0, exposure=1.0), True),  # too little to judge by
    ],
)
def test_the_challenger_must_not_be_worse(challenger, champion, accepted):
    verdict = decide(challenger, champion, ModelSettings())
    assert verdict.accepted is accepted
    assert verdict.reason
