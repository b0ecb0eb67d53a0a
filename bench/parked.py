def measure(place, **k):  # noqa: D100, D103
    return {}
