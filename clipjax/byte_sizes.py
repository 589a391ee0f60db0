"""Numbers of bytes as text."""


def text(count: float) -> str:
    """A number of bytes as short text with a unit."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} TB"
