"""A reservation id says what was drawn, and nobody else can make one."""

import base64
import datetime as dt
import string
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.domain.budget import MONEY_MOST
from ledger.domain.reservation_ids import MODELS, DecodedId, decode, decode_all, encode
from tests.unit.ledger.books import is_genuine

ALPHABET = string.ascii_letters + string.digits + "-_"
DRAWN = DecodedId(1_714_564_800_000, 7, 1, 300, dt.date(2024, 5, 1), "cpm")
LENGTH = len(encode(DRAWN, "b", "p", b"secret"))
BYTES = len(base64.urlsafe_b64decode(encode(DRAWN, "b", "p", b"secret")))
NAMES = st.text(st.sampled_from(string.ascii_letters + string.digits + "._:-é"), min_size=1, max_size=64)
SECRETS = st.binary(min_size=16, max_size=32)
LAST_MS = (
    int((dt.datetime(9999, 12, 31, tzinfo=dt.UTC) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)).total_seconds()) * 1000
)
WINS = st.builds(
    DecodedId,
    st.integers(0, LAST_MS),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, MONEY_MOST),
    st.dates(),
    st.sampled_from(MODELS),
)


@given(drawn=WINS, brand=NAMES, partner=NAMES, secret=SECRETS)
@example(DecodedId(0, 0, 0, 0, dt.date.min, "cpm"), "b", "p", b"")
@example(DecodedId(LAST_MS, 2**63 - 1, 2**32 - 1, MONEY_MOST, dt.date.max, "revshare"), "b" * 64, "p" * 64, bytes(64))
def test_what_was_drawn_is_read_again(drawn, brand, partner, secret):
    id_ = encode(drawn, brand, partner, secret)
    assert decode(id_) == drawn
    assert is_genuine(id_, brand, partner, secret)
    assert len(id_) == LENGTH <= 64 and set(id_) <= set(ALPHABET), "an id as the API allows it"


@given(
    ids=st.lists(
        st.one_of(
            st.builds(encode, WINS, NAMES, NAMES, SECRETS),
            st.text(max_size=2 * LENGTH),
            st.text(st.sampled_from(ALPHABET), min_size=LENGTH, max_size=LENGTH),
        ),
        max_size=5,
    )
)
def test_many_are_read_as_each_is(ids):
    assert decode_all(ids) == {id_: decode(id_) for id_ in ids}


@pytest.mark.parametrize("text", ["A" * 55 + "=", "A" * 54 + "==", "", "A" * 4, "A" * (LENGTH + 4), "A" * 2 * LENGTH])
def test_what_has_another_length_is_no_id(text):
    assert decode(text) is None
    assert decode_all([text]) == {text: None}
    assert not is_genuine(text, "b", "p", b"secret")


def test_many_that_are_right_together_only_are_none():
    """Characters of one id moved to its neighbour: as long, all of them, and no id."""
    one, other = (encode(DRAWN._replace(sequence=number), "b", "p", b"secret") for number in (1, 2))
    assert decode_all([one[:-4], other + one[-4:]]) == {one[:-4]: None, other + one[-4:]: None}
    assert decode_all([]) == {}


def test_two_wins_never_share_an_id():
    wins = [DRAWN, DRAWN._replace(sequence=2), DRAWN._replace(session_id=8), DRAWN._replace(created_ms=0)]
    assert len({encode(drawn, "b", "p", b"secret") for drawn in wins}) == len(wins)


@given(drawn=WINS, position=st.integers(0, LENGTH - 1), other=st.sampled_from(ALPHABET))
def test_any_other_character_is_a_forgery(drawn, position, other):
    id_ = encode(drawn, "b", "p", b"secret")
    forged = id_[:position] + other + id_[position + 1 :]
    assert is_genuine(forged, "b", "p", b"secret") == (forged == id_)


@given(names=st.tuples(NAMES, NAMES), others=st.tuples(NAMES, NAMES), secrets=st.tuples(SECRETS, SECRETS))
@example(("bc", "p"), ("b", "cp"), (b"1" * 16, b"1" * 16))
@example(("b", "p"), ("p", "b"), (b"1" * 16, b"1" * 16))
@example(("b", "p"), ("b", "p"), (b"1" * 16, b"2" * 16))
def test_an_id_is_good_for_one_brand_one_partner_and_one_session(names, others, secrets):
    id_ = encode(DRAWN, names[0], names[1], secrets[0])
    assert is_genuine(id_, others[0], others[1], secrets[1]) == ((others, secrets[1]) == (names, secrets[0]))


@given(raw=st.binary(min_size=BYTES, max_size=BYTES))
def test_well_made_nonsense_is_no_ones_win(raw):
    """Of the right length and alphabet: it may say something, but nothing true, and nothing raises."""
    id_ = base64.urlsafe_b64encode(raw).decode()
    drawn = decode(id_)
    if drawn is not None:
        assert drawn.created_at.year <= 9999 and drawn.pricing_model in MODELS
        assert max(drawn.session_id, drawn.amount_micros) < 2**63, "a database can be asked for it"
    assert not is_genuine(id_, "b", "p", b"secret")


@given(text=st.text(max_size=80) | st.text(st.sampled_from(ALPHABET + "=+/ \n"), max_size=64))
@example("")
@example("never-made")
@example("é" * LENGTH)
@example("\udc80" * LENGTH)
@example("\0" * LENGTH)
@example("A" * (LENGTH - 1))
@example("=" * LENGTH)
def test_garbage_is_nothing_and_never_raises(text):
    assert not is_genuine(text, "b", "p", b"secret")
    if len(text) != LENGTH or not set(text) <= set(ALPHABET):
        assert decode(text) is None


def with_body(**fields: int) -> str:
    """An id of ours with other numbers in its body."""
    raw = base64.urlsafe_b64decode(encode(DRAWN, "b", "p", b"secret"))
    names = ("created_ms", "session_id", "sequence", "amount_micros", "day", "model")
    body = struct.Struct(">QQIQIB")
    numbers = dict(zip(names, body.unpack(raw[: body.size]), strict=True)) | fields
    return base64.urlsafe_b64encode(body.pack(*(numbers[name] for name in names)) + raw[body.size :]).decode()


@pytest.mark.parametrize(
    "impossible",
    [
        {"created_ms": LAST_MS + 86_400_000},  # the year 10000
        {"created_ms": 2**64 - 1},
        {"session_id": 2**63},
        {"amount_micros": 2**63},
        {"day": 0},
        {"day": dt.date.max.toordinal() + 1},
        {"model": len(MODELS)},
    ],
    ids=repr,
)
def test_an_id_that_says_the_impossible_is_nothing(impossible):
    assert decode(with_body()) == DRAWN
    assert decode(with_body(**impossible)) is None


@pytest.mark.parametrize(
    "spelling", [lambda id_: id_ + "\n", lambda id_: id_ + "====", str.swapcase, lambda id_: " " + id_]
)
def test_there_is_one_spelling(spelling):
    id_ = encode(DRAWN, "b", "p", b"secret")
    assert not is_genuine(spelling(id_), "b", "p", b"secret")


@pytest.mark.parametrize("field", ["created_ms", "session_id", "sequence", "amount_micros"])
def test_a_number_without_room_is_refused(field):
    for value in (-1, 2**64):
        with pytest.raises(struct.error):
            encode(DRAWN._replace(**{field: value}), "b", "p", b"secret")
