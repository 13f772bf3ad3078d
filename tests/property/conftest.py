"""Hypothesis profiles: `dev`, `ci` and `nightly`, chosen by the environment variable HYPOTHESIS_PROFILE."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A queue machine has no clock: a slow example is a slow computer. Building a definition draws a lot, and is not the test.
_CALM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("dev", max_examples=100, **_CALM)
settings.register_profile("ci", max_examples=1_000, derandomize=True, **_CALM)
settings.register_profile("nightly", max_examples=50_000, **_CALM)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
