"""Challenger against champion on the newest day. Pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from training.metrics import Metrics
from training.settings import ModelSettings


class Verdict(NamedTuple):
    accepted: bool
    reason: str


def decide(challenger: Metrics | None, champion: Metrics | None, settings: ModelSettings) -> Verdict:
    """
    Args:
        challenger: fitted without the newest day and judged on it; None when there is no earlier day.
        champion: the live version on the same rows; None when there is none that has not seen them.
    """
    if champion is None:
        return Verdict(True, "no champion that has not seen the newest day")
    if champion.exposure < settings.gate_exposure:
        return Verdict(True, f"the newest day has {champion.exposure:.0f} impressions, too few to judge by")
    if challenger is None:
        return Verdict(False, "the challenger could not be judged: there is one day only")
    bounds = (1 / settings.gate_calibration, settings.gate_calibration)
    off = not np.isnan(challenger.calibration) and not bounds[0] <= challenger.calibration <= bounds[1]
    # A day that surprises everybody speaks against nobody.
    if off and abs(np.log(challenger.calibration)) > abs(np.log(max(champion.calibration, 1e-9))):
        return Verdict(
            False,
            f"calibration {challenger.calibration:.3f} on the newest day, allowed {bounds[0]:.2f} to {bounds[1]:.2f}",
        )
    most = settings.gate_deviance * champion.deviance
    if challenger.deviance > most:
        return Verdict(
            False, f"deviance {challenger.deviance:.4g} on the newest day, allowed {most:.4g} by the champion's"
        )
    return Verdict(True, f"deviance {challenger.deviance:.4g} against the champion's {champion.deviance:.4g}")
