"""Packs a beat into bytes. It may name thousands of wins, and Ray would take 4 µs to send each of them as an object."""

from __future__ import annotations

import msgspec

from ledger.domain.messages import Beat

pack_beat = msgspec.msgpack.Encoder().encode
unpack_beat = msgspec.msgpack.Decoder(Beat).decode
