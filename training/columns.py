"""The columns that say where an impression happened, in every history, matrix and file."""

from __future__ import annotations

ID_COLUMNS = ("brand_id", "partner_id", "slot_id", "device_type", "creative_type")
EVERYBODY = ""
"""Stands for brands without a share of their own; no brand is called so."""
