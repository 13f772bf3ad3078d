"""Hypothesis profiles: `dev`, `ci` and `nightly`, chosen by the environment variable HYPOTHESIS_PROFILE."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A queue machine has no clock: a slow example is a slow computer.
CALM = settings(deadline=None, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile("dev", CALM, max_examples=100)
settings.register_profile("ci", CALM, max_examples=200, derandomize=True)
settings.register_profile("nightly", CALM, max_examples=50_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
