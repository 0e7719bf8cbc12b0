"""Lines of a metrics file (crates/metrics/src/events.rs)."""


def by_kind(events):
    """Lists of them by the name of their event."""
    found = {}
    for event in events:
        found.setdefault(event["event"], []).append(event)
    return found


def fallback_text(event):
    return f"{event['feature']}: {event['used']} instead of {event['wanted']}: {event['reason']}"
