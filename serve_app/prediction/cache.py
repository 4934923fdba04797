"""Caches predictions within the hour, and asks the predictor for those that are missing.

A prediction depends only on the placement, the hour and the model version, and partners offer the same slots again and
again: a cached prediction is exact, and needs neither trees nor a call. Missing ones go to the predictor in batches:
see `batching.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from serve_app.prediction.batching import Batcher
from serve_app.prediction.columns import PlacementKey, columns_of
from serve_app.prediction.expectation import Expectation
from serve_app.prediction.predictions import Predictions
from serve_app.prediction.predictor import concatenated
from training.model.model import Columns

HOUR_S = 3600


class Memory:
    """Predictions of one version and one hour. When it is full it is emptied.

    Args:
        most: placements at a time; 0 caches nothing. Each takes half a kilobyte.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: tuple[str, int] | None = None  # version, hour
        self._row: dict[PlacementKey, int] = {}
        self._used = 0
        self._values = np.empty((most, 4))  # revenue, ctr, cvr, impressions of a placement in one row

    def find(
        self, version: str, hour: int, keys: Sequence[PlacementKey]
    ) -> tuple[Expectation | None, list[int | None]]:
        """(the predictions of all keys, None unless all are cached; each key's row, None where it is not cached)."""
        if self._of != (version, hour):
            return None, [None] * len(keys)
        rows = list(map(self._row.get, keys))
        return (None if None in rows else self._at(np.array(rows, np.intp))), rows

    def _at(self, rows: npt.NDArray[np.intp]) -> Expectation:
        assert self._of is not None
        revenue, ctr, cvr, impressions = self._values.take(rows, axis=0).T
        return Expectation(revenue, ctr, cvr, impressions, self._of[0])

    def learn(self, hour: int, keys: Sequence[PlacementKey], predicted: Expectation) -> None:
        """Cache predictions; those of another version or hour are dropped first. `hour`: since 1970."""
        first, end = self._used, self._used + len(keys)
        if self._of != (predicted.model_version, hour) or end > self._most:
            self._of = predicted.model_version, hour
            self._row.clear()
            first, end = 0, len(keys)
        self._used = first
        if end > self._most:
            return
        for column, values in enumerate(predicted[:4]):
            self._values[first:end, column] = values
        self._row.update(zip(keys, range(first, end), strict=True))
        self._used = end


class PredictionCache:
    """Answers from the cache where it can, else asks the predictor.

    Args:
        most_rows: of one call to the predictor.
        calls: to the predictor at a time.
        remembered: placements in the cache, see `Memory`.
    """

    def __init__(self, predictions: Predictions, most_rows: int, calls: int, remembered: int) -> None:
        self._predictions = predictions
        self._memory = Memory(remembered)
        self._batcher: Batcher[Columns, Expectation] = Batcher(self._call, len, most_rows, calls)

    def known(self, keys: Sequence[PlacementKey], at: int) -> Expectation | None:
        """From the cache; None unless all keys are in it. `at`: epoch seconds."""
        version = self._predictions.version
        return None if version is None else self._memory.find(version, at // HOUR_S, keys)[0]

    def at_once(self, keys: Sequence[PlacementKey], at: int) -> Expectation | None:
        """Without waiting: missing keys are predicted in this process. None: this process has no model. `at`: epoch
        seconds."""
        if (predict_now := self._predictions.predict_now) is None:
            return None
        if not (missing := self._missing(keys, at)):
            return self.known(keys, at)
        predicted = predict_now(columns_of(missing, at))
        return None if predicted is None else self._remember(keys, at, missing, predicted)

    async def of(self, keys: Sequence[PlacementKey], at: int, is_now: bool = True) -> Expectation:
        """From the cache, and from the predictor where keys are missing.

        Args:
            at: epoch seconds.
            is_now: whether `at` is the present, so that caching pays: other requests will ask for this hour.

        Raises:
            NoModel, CallLost, RayError, RayServeException: as the predictor.
        """
        if not is_now or self._predictions.version is None:
            return await self._batcher.submit(columns_of(keys, at))
        if missing := self._missing(keys, at):
            predicted = await self._batcher.submit(columns_of(missing, at))
            found = self._remember(keys, at, missing, predicted)
        else:
            found = self.known(keys, at)
        # Asked again where the version has changed meanwhile, or the cache is too small: one answer, one version.
        return found or await self._batcher.submit(columns_of(keys, at))

    def _missing(self, keys: Sequence[PlacementKey], at: int) -> list[PlacementKey]:
        """The keys that are not in the cache, each once."""
        version = self._predictions.version
        if version is None:
            return list(dict.fromkeys(keys))
        rows = self._memory.find(version, at // HOUR_S, keys)[1]
        return list(dict.fromkeys(key for key, row in zip(keys, rows, strict=True) if row is None))

    def _remember(
        self, keys: Sequence[PlacementKey], at: int, missing: list[PlacementKey], predicted: Expectation
    ) -> Expectation | None:
        """The predictions of all keys, now that the missing ones are there; None if the cache could not hold them."""
        hour = at // HOUR_S
        self._memory.learn(hour, missing, predicted)
        if missing == keys:
            return predicted
        row_of = dict(zip(missing, range(len(missing)), strict=True))
        if None not in (places := [row_of.get(key) for key in keys]):
            return _at(predicted, np.array(places, np.intp))
        return self._memory.find(predicted.model_version, hour, keys)[0]

    async def _call(self, parts: Sequence[Columns]) -> list[Expectation]:
        whole = await self._predictions.predict(concatenated(parts))
        bounds = accumulate(map(len, parts), initial=0)
        return [_at(whole, slice(start, end)) for start, end in pairwise(bounds)]


def _at(whole: Expectation, rows: slice | npt.NDArray[np.intp]) -> Expectation:
    revenue, ctr, cvr, impressions, version = whole
    return Expectation(revenue[rows], ctr[rows], cvr[rows], impressions[rows], version)
