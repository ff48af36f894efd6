"""Plumbline: keep a language model aligned with human preferences, and know which data made which model."""

import os

# pydantic looks for plugins in every installed package, in each process of ours and of Prefect: there are
# none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# How often a thread of torch looks whether the others are done before it sleeps. With libgomp's own 300,000 a
# training is many times slower where another process wants a core, because threads that wait keep it from
# those that work; with a thousand it is hardly slower alone (benchmarks/busy.py). Read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
