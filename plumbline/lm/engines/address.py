"""Where vLLM servers are found. It is no parameter, so that no result depends on it:

    PLUMBLINE_VLLM_URL=http://127.0.0.1:8000      or as many as there are ranks, with commas between

Imports no torch: whoever checks a run before it begins asks, too.
"""

import os

from plumbline.errors import UserError

URLS = "PLUMBLINE_VLLM_URL"


def vllm_addresses(wanted: int = 1) -> list[str]:
    """Return the addresses, without a slash at the end. Raises UserError if there are fewer than `wanted`."""
    found = [url.strip().rstrip("/") for url in os.environ.get(URLS, "").split(",") if url.strip()]
    if len(found) < wanted or not all(url.startswith(("http://", "https://")) for url in found):
        ranks = f", one for each of {wanted} ranks" if wanted > 1 else ""
        raise UserError(f"engine: vllm wants the address of a vLLM server in the environment variable "
                        f"{URLS}, such as http://127.0.0.1:8000{ranks}; found {', '.join(found) or 'none'}. "
                        "docs/scale.md says how to start one; engine: own does without.")
    return found
