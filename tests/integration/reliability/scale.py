"""How much is tried: a share of it in every run, all of it with `HYPOTHESIS_PROFILE=nightly`.

    HYPOTHESIS_PROFILE=nightly python -m pytest tests/integration/reliability

takes about ten minutes; a table of the figures stands at the end of either.
"""

from __future__ import annotations

import os

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"

# Settings of clients and servers: the defaults at night, else short ones, so that an outage can be short.
CONFIG: dict[str, float] = {} if NIGHTLY else {"heartbeat_s": 0.1, "lost_s": 0.5}
LOST_S = 3.0 if NIGHTLY else 0.5

# Over TCP nobody is known to be dead: what a killed consumer was sent comes back when its session ends.
SESSION_S = 60.0 if NIGHTLY else 2.0

STOPPED_S = 5.0 if NIGHTLY else 1.0
LINK_DOWN_S = 20.0 if NIGHTLY else 1.5
# Within which all flows again, after whatever it was.
FLOWS_S = 6.0

KILLS = 20 if NIGHTLY else 2
KILLS_OF_MEMORY = 100 if NIGHTLY else 2  # of producers and consumers in turn; of servers half as many
RESTARTS = 20 if NIGHTLY else 2
CANCELS = 10_000 if NIGHTLY else 600  # of each event loop at each address

TEST_S = 600 if NIGHTLY else 60
