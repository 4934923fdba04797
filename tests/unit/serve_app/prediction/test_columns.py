"""What a model is asked for."""

from serve_app.prediction.columns import columns_of

PLACE = ("camp-1", "p", "s:1", "mobile", "160x600")


def test_columns_have_one_row_a_bid() -> None:
    columns = columns_of([(*PLACE, 0.5), (*PLACE, None)], 7)
    assert (columns.brand_id, columns.slot_id) == (("camp-1", "camp-1"), ("s:1", "s:1"))
    assert columns.placement_score[0] == 0.5
    assert columns.placement_score[1] != columns.placement_score[1], "none is NaN"
    assert columns.at is not None
    assert columns.at.tolist() == [7, 7]
