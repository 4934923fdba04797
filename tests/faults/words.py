"""How a history tells its steps."""

from ledger.domain.messages import Beat, Event, Offer, Reply, Win
from ledger.domain.reservation_ids import decode


def beat_in_short(beat: Beat) -> str:
    lines = " ".join(
        f"{line.brand_id}/{line.day:%d}:{line.holds_micros}+{line.least_micros}..{line.want_micros}"
        for line in beat.lines
    )
    return f"{beat.session_id}#{beat.number}{' last' if beat.is_last else ''} {len(beat.wins)} wins [{lines}]"


def reply_in_short(reply: Reply) -> str:
    grants = " ".join(f"{grant.brand_id}/{grant.day:%d}+{grant.micros}" for grant in reply.grants)
    return f"{reply.session_id} {'open' if reply.is_open else 'over'} [{grants}] {reply.refused or ''}"


def win_in_short(win: Win, offer: Offer) -> str:
    drawn = decode(win.reservation_id)
    assert drawn is not None
    return (
        f"{offer.where.brand_id}/{drawn.day:%d} {offer.where.partner_id} {offer.pricing_model} "
        f"{win.reserved_micros} ({drawn.session_id}.{drawn.sequence}) until {win.expires_at:%m-%d %H:%M:%S}"
    )


def event_in_short(event: Event) -> str:
    drawn = decode(event.reservation_id or "")
    of = f"{drawn.session_id}.{drawn.sequence}" if drawn else event.reservation_id
    return (
        f"{event.event_id} {event.type} {event.brand_id} {event.partner_id} {event.conversion_id or ''} "
        f"{event.status or ''} cost {event.cost_micros} of {of}"
    )
