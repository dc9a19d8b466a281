"""How a duration is written, for terminal lines, pages and plans alike."""


def duration(seconds: float) -> str:
    """`4.2 s`, `45 s`, `3.5 min`, `2.1 h` or `2.0 d`: two digits or more, in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    for limit, divisor, unit in ((5400, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"
