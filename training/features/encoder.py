"""The encoder of a version: tables, as of its last training day, that turn bids into features by look-ups in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from training.arrays import Codes, Floats, Integers, Singles, from_text, to_text
from training.columns import ID_COLUMNS
from training.features.histories import QUICKLY, RATES, Histories, Known
from training.features.keys import BRAND, LEVELS, NO_SCORE, PATH, Keys
from training.features.layout import (
    CODED,
    CODES_FROM,
    DAY_OF_WEEK,
    FACTORS_FROM,
    FEATURES,
    HALF_LIVES_DAYS,
    HOUR,
    LOGS_FROM,
    N_EXPOSURE,
    N_HEADS,
    NO_HOUR,
    PLACEMENT,
)
from training.features.matrix import fill

DAY_S = 86_400


class Confidence(NamedTuple):
    """How much history stands behind one placement's prediction."""

    impressions: float
    """Impressions of that level's history, older ones counting less."""
    level: str
    """The most specific level with a history of its own: one of LEVELS, or `all` for an unseen brand."""


Key = tuple[Any, ...]


class Encoder:
    """A version's tables as of the end of its last training day."""

    def __init__(
        self,
        vocabulary: list[list[str]],
        parents: list[Codes],
        words: list[npt.NDArray[Any]],
        rates: list[Floats],
        exposures: list[Floats],
        payout: list[Floats],
        clicks: list[Floats],
    ) -> None:
        """
        Args:
            vocabulary: five lists of ids.
            parents, words: by level of PATH, see `Keys`.
            rates, exposures: by level of PATH, see `Histories`.
            payout, clicks: of all brands together and of each brand, see `Histories`.

        Raises:
            ValueError: their sizes do not match, or an index is out of range.
        """
        self.vocabulary, self._parents, self._words = vocabulary, parents, words
        self._rates, self._exposures, self._payout, self._clicks = rates, exposures, payout, clicks
        self._check()
        self._codes = [
            {word: code for code, word in enumerate(known)} if position in CODED else {}
            for position, known in enumerate(vocabulary)
        ]
        self._row_of, self._keys = self._index_keys()
        """Key of any level → its row in the tables below; and the keys of the deepest level."""
        self._rows, self._heads = self._lookup_rows()

    @classmethod
    def fitted(cls, days: Integers, keys: Keys, numbers: Floats) -> Self:
        """The tables as of the end of the last of `days`, for the next day. Arguments as of `Histories.of`."""
        histories = Histories.of(days, keys, numbers)
        return cls(
            keys.vocabulary,
            keys.parents,
            keys.labels,
            histories.rates,
            histories.exposures,
            histories.payout,
            histories.clicks,
        )

    def __len__(self) -> int:
        """Number of placements that are known."""
        return len(self._keys)

    def tuples(self, picked: Integers) -> tuple[list[list[str]], list[float | None]]:
        """(five columns of ids, placement scores) of the known placements at these positions."""
        keys = [self._keys[position] for position in picked.tolist()]
        ids = [[key[column] for key in keys] for column in range(len(ID_COLUMNS))]
        return ids, [None if key[-1] == NO_SCORE else key[-1] for key in keys]

    def _check(self) -> None:
        """Raises: ValueError. Numbers from a file are used as indices, so they must be in range."""
        counts = [len(words) for words in self._words]
        if len(self.vocabulary) != len(ID_COLUMNS) or len(counts) != len(PATH) or counts[0] != 1:
            raise ValueError("the encoder has other levels than this program")
        for level in range(1, len(PATH)):
            parents, words = self._parents[level], self._words[level]
            most = len(self.vocabulary[level - 1]) if level <= len(ID_COLUMNS) else None
            if parents.shape != (counts[level],) or words.shape != (counts[level],):
                raise ValueError(f"the keys of level {PATH[level]} have tables of different lengths")
            if counts[level] and not (parents.min() >= 0 and parents.max() < counts[level - 1]):
                raise ValueError(f"a key of level {PATH[level]} has a parent out of range")
            if most is not None and counts[level] and not (words.min() >= 0 and words.max() < most):
                raise ValueError(f"a key of level {PATH[level]} has an id out of range")
        for level, count in enumerate(counts):
            if self._rates[level].shape != (count, len(RATES)):
                raise ValueError(f"level {PATH[level]} has not one row of rates per key")
            if self._exposures[level].shape != (count, len(HALF_LIVES_DAYS)):
                raise ValueError(f"level {PATH[level]} has not one row of exposures per key")
            if level <= BRAND and not (self._payout[level].shape == self._clicks[level].shape == (count,)):
                raise ValueError("there is not one payout and one number of clicks for each of the brands")

    def _index_keys(self) -> tuple[dict[Key, int], list[Key]]:
        row_of: dict[Key, int] = {(): 0}
        above: list[Key] = [()]
        for level in range(1, len(PATH)):
            if level <= len(ID_COLUMNS):
                known = self.vocabulary[level - 1]
                words: list[Any] = [known[code] for code in self._words[level].tolist()]
            else:
                words = np.where(np.isnan(self._words[level]), NO_SCORE, self._words[level]).tolist()
            parents = self._parents[level].tolist()
            above = [(*above[parent], word) for parent, word in zip(parents, words, strict=True)]
            row_of.update(zip(above, range(len(row_of), len(row_of) + len(above)), strict=True))
        return row_of, above

    def _lookup_rows(self) -> tuple[Singles, Floats]:
        """The look-up tables: (r, len(FEATURES)) rows; (r, N_HEADS + 1) heads and exposure by the longest half-life.

        A key's row holds the features of a bid of which nothing more specific is known.
        """
        number = sum(len(words) for words in self._words)
        rows, heads = np.empty((number, len(FEATURES)), np.float32), np.empty((number, N_HEADS + 1))
        exposures = np.zeros((1, N_EXPOSURE), np.float32)
        factors = np.zeros((1, len(LEVELS)), np.float32)
        payout, clicks = self._payout[0], np.zeros(1)
        codes = np.full((1, len(CODED)), -1.0, np.float32)
        each = len(HALF_LIVES_DAYS)
        start = 0
        for level in range(len(PATH)):
            parents, end = self._parents[level], start + len(self._words[level])
            if level:
                exposures, factors, codes = exposures[parents], factors[parents], codes[parents]
                with np.errstate(invalid="ignore"):
                    own = self._rates[level][:, QUICKLY] - self._rates[level - 1][parents, QUICKLY]
                factors[:, level - 1] = own
                payout, clicks = payout[parents], clicks[parents]
            if level == BRAND:
                payout, clicks = self._payout[BRAND], self._clicks[BRAND]
            if level - 1 in CODED:
                codes[:, CODED.index(level - 1)] = self._words[level]
            exposures[:, level * each : (level + 1) * each] = np.log1p(self._exposures[level])
            rows[start:end, :N_EXPOSURE] = exposures
            rows[start:end, FACTORS_FROM:LOGS_FROM] = factors
            fill(rows[start:end], heads[start:end], Known(list(self._rates[level].T), payout, clicks))
            rows[start:end, CODES_FROM:PLACEMENT] = codes
            start = end
        rows[:, PLACEMENT], rows[:, DAY_OF_WEEK], rows[:, HOUR] = np.nan, 0.0, NO_HOUR
        heads[:, N_HEADS] = np.concatenate([level[:, -1] for level in self._exposures])
        return rows, heads

    def encode(
        self, ids: Sequence[Sequence[str]], placement_score: Floats, at: Integers | None = None
    ) -> tuple[Singles, Floats]:
        """Columns of bids → ((n, len(FEATURES)) matrix; (n, N_HEADS + 1) heads and the placement's own impressions).

        Args:
            ids: five sequences of n ids, in the order of ID_COLUMNS.
            placement_score: (n,), NaN for none.
            at: (n,) UTC seconds since 1970; None: hour unknown, and the day a Monday.
        """
        scores = np.where(np.isnan(placement_score), NO_SCORE, placement_score).tolist()
        keys = list(zip(*ids, scores, strict=True))
        row_of = self._row_of.get
        found = list(map(row_of, keys))
        new_ids: list[tuple[int, int]] = []  # (position of a bid, the first level at which it is new)
        for n, row in enumerate(found):
            if row is not None:
                continue
            key, depth = keys[n], len(ID_COLUMNS)
            while (row := row_of(key[:depth])) is None:
                depth -= 1
            found[n] = row
            if depth < len(ID_COLUMNS):
                new_ids.append((n, depth))
        places = np.array(found, np.intp)
        out, heads = self._rows.take(places, axis=0), self._heads.take(places, axis=0)
        for n, depth in new_ids:  # new there, but its device and creative may be known from other placements
            heads[n, N_HEADS] = 0.0
            for position, column in enumerate(CODED):
                if column >= depth:
                    out[n, CODES_FROM + position] = self._codes[column].get(keys[n][column], -1)
        out[:, PLACEMENT] = placement_score
        if at is not None:
            out[:, DAY_OF_WEEK] = (at // DAY_S + 3) % 7
            out[:, HOUR] = at // 3600 % 24
        return out, heads

    def confidence(self, ids: Sequence[str], placement_score: float | None = None) -> Confidence:
        """How much history, by the longest half-life, stands behind one placement's prediction."""
        key = (*ids, NO_SCORE if placement_score is None else placement_score)
        depths = range(len(LEVELS), 0, -1) if placement_score is not None else range(len(LEVELS) - 1, 0, -1)
        for depth in depths:
            row = self._row_of.get(key[:depth])
            if row is not None and (impressions := float(self._heads[row, N_HEADS])) > 0:
                return Confidence(impressions, LEVELS[depth - 1])
        return Confidence(float(self._heads[0, N_HEADS]), "all")

    def to_document(self) -> dict[str, Any]:
        """The encoder for JSON, exact to the bit."""
        tables = {
            "parents": self._parents,
            "words": self._words,
            "rates": self._rates,
            "exposures": self._exposures,
            "payout": self._payout,
            "clicks": self._clicks,
        }
        return {
            "vocabulary": self.vocabulary,
            "half_lives_days": list(HALF_LIVES_DAYS),
            "rates_of": list(RATES),
            **{name: [to_text(array) for array in arrays] for name, arrays in tables.items()},
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """The encoder from what `to_document` has made.

        Raises:
            ValueError, KeyError, TypeError: it is not an encoder that this program can use.
        """
        if document["half_lives_days"] != list(HALF_LIVES_DAYS) or document["rates_of"] != list(RATES):
            raise ValueError("the encoder has other half-lives or rates than this program")
        names = ("parents", "words", "rates", "exposures", "payout", "clicks")
        return cls(document["vocabulary"], *([from_text(array) for array in document[name]] for name in names))
