"""Signatures of webhooks, as the Standard Webhooks specification has them (standardwebhooks.com).

The header `webhook-signature` holds one or more `v1,BASE64`, the HMAC-SHA256 of `ID.TIMESTAMP.BODY`; ID and
TIMESTAMP are the headers `webhook-id` and `webhook-timestamp`. The key is the secret, without `whsec_`,
decoded from base64.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable

from plumbline.errors import UserError

PREFIX = "whsec_"
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


def sign(secret: str, name: str, timestamp: str, body: bytes) -> str:
    """Return the value of `webhook-signature`. Raises UserError for a secret that is not base64."""
    content = f"{name}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(_key(secret), content, hashlib.sha256)).decode()


def is_signed(secret: str, name: str, timestamps: Iterable[str], body: bytes, signatures: str) -> bool:
    """True if one of the signatures is right for one of the timestamps. Compares in constant time."""
    wanted = [sign(secret, name, timestamp, body).encode() for timestamp in timestamps]
    given = [signature.encode() for signature in signatures.split()]
    return any(hmac.compare_digest(one, other) for one in wanted for other in given)


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:  # also for letters outside of ASCII
        raise UserError("The secret of a webhook must be base64, with or without `whsec_` before it. Make "
                        "one with `openssl rand -base64 32`.") from None
