"""LightGBM and XGBoost behind one interface; their predictions are the reference for the compiled form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import lightgbm as lgb
import numpy as np

from training.arrays import Floats, Singles

if TYPE_CHECKING:
    import xgboost as xgb


class Trees(Protocol):
    """Something that evaluates fitted trees: the library that grew them, or their compiled form."""

    def predict(self, rows: Singles) -> Floats:
        """(n, features) → (n,) what the trees multiply the expectation with."""
        ...


class Reference(Trees, Protocol):
    """The library that grew the trees."""

    engine: ClassVar[str]
    agreement: ClassVar[float]
    """Largest relative difference that another form's predictions may have from these."""

    @property
    def text(self) -> str:
        """The trees as text, as a version stores them; `reference` loads them again."""

    def contributions(self, rows: Singles) -> Floats:
        """(n, features + 1) SHAP values on the log scale; the last column is the base."""

    def importance(self) -> Floats:
        """(features,) total gain of each feature's splits."""


class LightGbmTrees:
    """Trees of LightGBM."""

    engine: ClassVar[str] = "lightgbm"
    agreement: ClassVar[float] = 1e-9  # both add the same doubles in the same order; only `exp` may differ

    def __init__(self, booster: lgb.Booster, text: str | None = None) -> None:
        self.booster = booster
        self._text = text

    @classmethod
    def of(cls, text: str) -> Self:
        """
        Raises:
            lightgbm.basic.LightGBMError: the text cannot be parsed.
        """
        return cls(lgb.Booster(model_str=text), text)

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = self.booster.model_to_string()
        return self._text

    def predict(self, rows: Singles) -> Floats:
        answer: Floats = np.asarray(
            self.booster.predict(rows, num_threads=1, validate_features=False), dtype=np.float64
        )
        return answer

    def contributions(self, rows: Singles) -> Floats:
        answer: Floats = np.asarray(self.booster.predict(rows, pred_contrib=True, num_threads=1), dtype=np.float64)
        return answer

    def importance(self) -> Floats:
        gains: Floats = np.asarray(self.booster.feature_importance("gain"), np.float64)
        return gains


class XgboostTrees:
    """Trees of XGBoost."""

    engine: ClassVar[str] = "xgboost"
    agreement: ClassVar[float] = 1e-5  # XGBoost adds in single precision

    def __init__(self, booster: xgb.Booster, text: str | None = None) -> None:
        self.booster = booster
        self._text = text

    @classmethod
    def of(cls, text: str) -> Self:
        """
        Raises:
            xgboost.core.XGBoostError: the text cannot be parsed.
        """
        import xgboost  # takes a second, which only its users should spend

        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(text, "utf-8"))
        return cls(booster, text)

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = bytes(self.booster.save_raw("json")).decode()
        return self._text

    def predict(self, rows: Singles) -> Floats:
        return np.asarray(self.booster.inplace_predict(rows, validate_features=False), np.float64)

    def contributions(self, rows: Singles) -> Floats:
        return np.asarray(self._asked(rows, pred_contribs=True), np.float64)

    def _asked(self, rows: Singles, **how: Any) -> Any:
        import xgboost

        data = xgboost.DMatrix(rows, feature_names=self.booster.feature_names, nthread=1)
        return self.booster.predict(data, validate_features=False, **how)

    def importance(self) -> Floats:
        gains: dict[str, Any] = self.booster.get_score(importance_type="total_gain")
        return np.array([float(gains.get(name, 0.0)) for name in self.booster.feature_names or []], np.float64)


def reference(engine: str, text: str) -> Reference:
    """The library's own trees from their text.

    Raises:
        ValueError: no such engine.
        Exception: what the library raises for a text that it cannot parse.
    """
    engines: dict[str, type[LightGbmTrees] | type[XgboostTrees]] = {
        LightGbmTrees.engine: LightGbmTrees,
        XgboostTrees.engine: XgboostTrees,
    }
    if engine not in engines:
        raise ValueError(f"there is no engine {engine!r}, only {', '.join(engines)}")
    return engines[engine].of(text)
