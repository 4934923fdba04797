"""The id columns of every history, matrix and file: where an impression happened."""

from __future__ import annotations

ID_COLUMNS = ("brand_id", "partner_id", "slot_id", "device_type", "creative_type")
EVERYBODY = ""
"""The key that stands for brands without a value of their own; it is not a valid brand id."""
