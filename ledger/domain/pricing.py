"""The price of cost, κ, and the λ of the score that follows from it. Pure."""

from __future__ import annotations

KAPPA_MOST = 3.0
"""κ stays within this many times the target; the price of a budget comes on top."""


def kappa(
    mu_brand: float,
    target_brand: float,
    mu_portfolio: float = 0.0,
    target_portfolio: float = 0.0,
    nu_brand: float = 0.0,
    nu_portfolio: float = 0.0,
) -> float:
    """Price of a micro of cost in micros of revenue at which a brand is indifferent.

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


def lambda_(strategy_multiplier: float, kappa: float) -> float:
    """The λ of the score. The multiplier moves a brand against others, never its own ROAS."""
    return strategy_multiplier * kappa
