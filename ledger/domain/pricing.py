"""κ, the price of cost, and λ, which the score uses. Pure."""

from __future__ import annotations

import math

FALL_S = 60.0
"""By day κ falls by a factor of e in so many seconds at most; it may rise at once."""

KAPPA_MOST = 3.0
"""The ROAS part of κ is at most this many times the target; a budget's part is added to it."""


def kappa(
    mu_brand: float,
    target_brand: float,
    mu_portfolio: float = 0.0,
    target_portfolio: float = 0.0,
    nu_brand: float = 0.0,
    nu_portfolio: float = 0.0,
) -> float:
    """κ: the revenue in micros that a brand must expect per micro of cost for a bid to be worth winning.

    Args:
        mu_brand, mu_portfolio: multipliers of the ROAS constraints, ≥ 0.
        nu_brand, nu_portfolio: multipliers of the budget constraints, ≥ 0.

    Returns:
        (μ_b τ_b + μ_p τ_p + ν_b + ν_p) / (1 + μ_b + μ_p); its part without ν is kept within [0, 3 τ_b].

    Source: Lagrangian of revenue under ROAS and budget constraints, arXiv:2302.08530.

    >>> kappa(1.0, 2.0)
    1.0
    """
    scale = 1.0 + mu_brand + mu_portfolio
    roas_price = (mu_brand * target_brand + mu_portfolio * target_portfolio) / scale
    return min(max(roas_price, 0.0), KAPPA_MOST * target_brand) + (nu_brand + nu_portfolio) / scale


def fallen(before: float, wanted: float, elapsed_s: float) -> float:
    """κ after so many seconds: the wanted one, or what it may have fallen to if that is more.

    >>> fallen(1.0, 2.0, 0.0), fallen(1.0, 0.9, 60.0), round(fallen(1.0, 0.0, 60.0), 4)
    (2.0, 0.9, 0.3679)
    """
    return max(wanted, before * math.exp(-max(elapsed_s, 0.0) / FALL_S))


def lambda_(strategy_multiplier: float, kappa: float) -> float:
    """The λ of the score. The strategy multiplier changes a brand's place among others, not its own ROAS."""
    return strategy_multiplier * kappa
