"""Rates and limits: what a bucket lets through, and how much it remembers."""

import dataclasses

import numpy as np
import pytest

from defenses.pipeline.service_limits import RateLimiter, ServiceLimits
from defenses.randomness import seeded_rng


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


def test_a_burst_then_the_rate() -> None:
    """One minute's worth passes at once, then one unit each 60 / rate seconds, and the wait that is named is enough."""
    clock = Clock()
    rate = RateLimiter(6, clock=clock)
    assert [rate.spend("a") for _ in range(6)] == [0.0] * 6
    assert rate.spend("a") == pytest.approx(10)
    clock.now += 9.9
    assert rate.spend("a") == pytest.approx(0.1)
    clock.now += 0.1 + 1e-9
    assert rate.spend("a") == 0
    assert rate.spend("b") == 0, "another client pays for itself"


def test_a_bucket_is_a_bucket() -> None:
    """Whatever comes when, the limiter agrees with the plain token bucket that is filled step by step."""
    rng = seeded_rng(3, "bucket")
    clock = Clock()
    rate = RateLimiter(120, clock=clock)
    level, filled = 120.0, clock.now
    passed = 0
    for wait, units in zip(rng.exponential(1.0, 2000), rng.integers(1, 9, 2000), strict=True):
        clock.now += float(wait)
        level, filled = min(120.0, level + 2.0 * (clock.now - filled)), clock.now
        fits = level >= int(units)
        assert (rate.spend("a", int(units)) == 0) == fits
        level -= int(units) * fits
        passed += fits
    assert 200 < passed < 1900, "both outcomes were tried"


def test_a_burst_may_be_larger_than_a_minutes_worth() -> None:
    """The longest prompt fits even where a minute's rate is smaller; nothing larger ever would."""
    clock = Clock()
    rate = RateLimiter(10, burst=1024, clock=clock)
    assert rate.spend("a", 1024) == 0
    assert rate.spend("a", 1) == pytest.approx(6)


def test_no_rate_is_no_limit() -> None:
    """Zero lets everything pass and remembers nobody."""
    rate = RateLimiter(0)
    assert all(rate.spend("a", 1e9) == 0 for _ in range(100))
    assert not rate._paid_off


def test_a_million_addresses_do_not_fill_the_memory() -> None:
    """The limiter keeps a bounded number of keys, the last used ones."""
    rate = RateLimiter(1)
    for number in range(6000):
        rate.spend(f"client {number}")
    assert len(rate._paid_off) == 4096
    assert rate.spend("client 5999") > 0


@pytest.mark.parametrize("value", [-1, 0, np.nan])
def test_a_limit_that_would_refuse_everything_is_an_error(value: float) -> None:
    """A negative limit, or a zero where zero is no switch, is a programming error."""
    switches = {"max_queue", "requests_per_minute", "tokens_per_minute", "failures_per_minute", "grace_seconds"}
    for field in dataclasses.fields(ServiceLimits):
        if value == 0 and field.name in switches:
            assert getattr(ServiceLimits(**{field.name: 0}), field.name) == 0
            continue
        with pytest.raises(ValueError, match=field.name):
            ServiceLimits(**{field.name: value})
