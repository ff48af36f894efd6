"""Plumbline: keep a language model aligned with human preferences, and know which data made which model."""

import os

# pydantic looks for plugins in every installed package, in each process of ours and of Prefect: there are
# none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

__version__ = "0.1.0"
