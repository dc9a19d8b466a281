import pytest

from seva_ray.core.durations import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.034, "0.034 s"),
        (4.23, "4.2 s"),
        (9.99, "10 s"),
        (89.4, "89 s"),
        (90, "1.5 min"),
        (5399, "90.0 min"),
        (5400, "1.5 h"),
        (172_799, "48.0 h"),
        (172_800, "2.0 d"),
    ],
)
def test_a_duration_is_written_in_the_unit_that_fits(seconds: float, text: str):
    assert duration(seconds) == text
