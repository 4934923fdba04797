"""Reads and checks files of auctions (CSV) and of the brands that take part in them (brands.json)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from db.brands import BrandSettings, Id
from db.errors import UserError, file_error
from db.fields import ID, ID_IN_WORDS
from ledger.bidding.brand_state import Limits
from ledger.domain.budget import MONEY_MOST
from training.arrays import Floats, Indices

MONEY = ("predicted_revenue_micros", "predicted_cost_micros", "revenue_micros", "cost_micros")
COLUMNS = ("t_s", "brand_id", *MONEY)


class BadInput(UserError):
    """A file or an option that cannot be used; the text is shown to the user."""


class AuctionTerms(BaseModel, frozen=True, extra="forbid"):
    """A brand's target, budget, portfolio, first λ and least share of the target that λ may be."""

    target_roas: float = Field(gt=0, allow_inf_nan=False)
    daily_budget_micros: int | None = Field(None, gt=0, le=MONEY_MOST)
    portfolio_id: Id | None = None
    lambda0: float | None = Field(None, ge=0, allow_inf_nan=False)
    lambda_floor: float = Field(default=BrandSettings().lambda_floor, ge=0, le=1)


class PortfolioTerms(BaseModel, frozen=True, extra="forbid"):
    """A portfolio's target and budget, which its brands share."""

    target_roas: float | None = Field(None, gt=0, allow_inf_nan=False)
    daily_budget_micros: int | None = Field(None, gt=0, le=MONEY_MOST)


class Document(BaseModel, frozen=True, extra="forbid"):
    """The content of brands.json."""

    brands: dict[Id, AuctionTerms]
    portfolios: dict[Id, PortfolioTerms] = {}


@dataclass(frozen=True, slots=True)
class Auctions:
    """The n auctions of a file, in its order."""

    t_s: Floats  # seconds since the budget day began
    brand: Indices  # position in `names`
    names: list[str]
    predicted_revenue: Floats  # in micros, as the next three
    predicted_cost: Floats
    revenue: Floats
    cost: Floats

    def __len__(self) -> int:
        return len(self.t_s)


@dataclass(frozen=True, slots=True)
class Market:
    """The brands of a file, by their position in `names`, and the portfolios that they share."""

    names: list[str]
    limits: list[Limits]
    lambda0: list[float | None]
    kappa_least: list[float]
    portfolio: list[str | None]
    portfolios: dict[str, Limits]

    def groups(self) -> Iterator[tuple[str, list[int], Limits]]:
        """(name, positions of the members, shared limits) of each portfolio, and of each brand without one."""
        shared: dict[str, list[int]] = {}
        for position, portfolio_id in enumerate(self.portfolio):
            if portfolio_id is None:
                yield self.names[position], [position], Limits()
            else:
                shared.setdefault(portfolio_id, []).append(position)
        for portfolio_id, members in shared.items():
            yield portfolio_id, members, self.portfolios[portfolio_id]


def read_auctions(path: Path) -> Auctions:
    """The auctions of a file.

    Raises:
        BadInput: it cannot be read, or a row is wrong; the first row after the header is row 1.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8", index_col=False)
    except pd.errors.EmptyDataError:
        raise BadInput(f"{path} is empty") from None
    except OSError as error:
        raise BadInput(f"cannot read {file_error(error)}") from None
    except (ValueError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} is not a CSV file: {str(error).splitlines()[0]}") from None
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise BadInput(f"{path}: no column {', '.join(missing)}; it needs {','.join(COLUMNS)}")
    if not len(frame):
        raise BadInput(f"{path} has no rows, only a header")
    numbers = {name: _numbers(path, frame[name]) for name in ("t_s", *MONEY)}
    back = np.flatnonzero(np.diff(numbers["t_s"]) < 0.0)
    if len(back):
        raise BadInput(f"{path}, row {back[0] + 2}: t_s goes back in time; sort the file by t_s")
    codes, names = pd.factorize(frame["brand_id"])
    bad = [code for code, name in enumerate(names) if not ID.fullmatch(name)]
    if bad:
        row = int(np.argmax(np.isin(codes, bad)))
        raise BadInput(f"{path}, row {row + 1}: brand_id {_quoted(names[codes[row]])} is not an id: {ID_IN_WORDS}")
    return Auctions(numbers["t_s"], codes, [str(name) for name in names], *(numbers[name] for name in MONEY))


def _numbers(path: Path, column: pd.Series[str]) -> Floats:
    numbers: Floats = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    for wrong, what in (
        (~np.isfinite(numbers), "is not a number"),
        (numbers < 0.0, "is negative"),
        (numbers > MONEY_MOST, "is too large"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise BadInput(f"{path}, row {row + 1}: {column.name} {_quoted(column.iloc[row])} {what}")
    return numbers


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


def read_market(path: Path | None, names: list[str], default: AuctionTerms | None = None) -> Market:
    """The terms of the brands of an auctions file.

    Args:
        path: brands.json; None: every brand has the default terms and no portfolio.
        default: terms of brands that the document does not name.

    Raises:
        BadInput: the document is wrong, or a brand has no terms.
    """
    document = Document(brands={}) if path is None else _read_document(path)
    terms: list[AuctionTerms] = []
    for name in names:
        mine = document.brands.get(name, default)
        if mine is None:
            raise BadInput(f"{path}: nothing on brand {name}; add it there, or give --target-roas for such brands")
        if mine.portfolio_id is not None and mine.portfolio_id not in document.portfolios:
            raise BadInput(f"{path}: brand {name} is in portfolio {mine.portfolio_id}, which the file does not define")
        terms.append(mine)
    return Market(
        names,
        [Limits(mine.target_roas, mine.daily_budget_micros) for mine in terms],
        [mine.lambda0 for mine in terms],
        [mine.lambda_floor * mine.target_roas for mine in terms],
        [mine.portfolio_id for mine in terms],
        {name: Limits(one.target_roas, one.daily_budget_micros) for name, one in document.portfolios.items()},
    )


def _read_document(path: Path) -> Document:
    try:
        return Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"cannot read {file_error(error)}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{path}: {where + ': ' if where else ''}{first['msg']}") from None
