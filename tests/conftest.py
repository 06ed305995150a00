"""Fixtures that every test may use."""

import os

# Under `make asan` the sanitizer is preloaded into this process; programs of others, started from here, hang in it.
if "libasan" in os.environ.get("LD_PRELOAD", ""):
    del os.environ["LD_PRELOAD"]
