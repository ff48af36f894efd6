"""What is kept and shown of parameters that are secrets: enough to recognise them, not enough to use them.

Whoever knows the address of a chat's webhook can post there, so of it only the host is kept. Of any other
text, what an address carries besides the place goes: a name with a password, and the values of keys and
tokens.
"""

import json
import re
from urllib.parse import urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from plumbline.config.values import SECRETS

MASK = "***"
LOGIN = re.compile(r"(?<=://)[^/@\s\"']+(?=@)")
QUERY = re.compile(r"([?&](?:[\w.-]*(?:token|secret|password|signature|credential|key)|sig|pwd|code)=)"
                   r"[^&\s\"'#]+", re.I)


def masked(text: str) -> str:
    """Return a text without the passwords, keys and tokens in its addresses."""
    return QUERY.sub(rf"\1{MASK}", LOGIN.sub(MASK, text))


def masked_value(name: str, value: str) -> str:
    """Return the value of a parameter for display: of a secret address only the host."""
    if not SECRETS.search(name) or value in ("", "None", "null"):
        return masked(value)
    place = urlsplit(value) if "://" in value else None
    return f"{place.scheme}://{place.netloc.rpartition('@')[2]}/{MASK}" if place else MASK


def masked_setting(setting: str) -> str:
    """Return `name=value` with the value for display; of a whole block, each of its values."""
    name, equals, value = setting.partition("=")
    if not equals:
        return setting
    block = _block(value)
    if block is None:
        return f"{name}={masked_value(name.strip(), value.strip())}"
    shown = _masked_block(name.strip(), block)
    return setting if shown == block else f"{name}={json.dumps(shown, ensure_ascii=False)}"


def _block(text: str) -> object:
    """Return the mapping or list that a setting's value is as YAML; None for any other value."""
    try:
        value = YAML(typ="safe").load(text)
    except (YAMLError, ValueError):  # such as a date that there is not
        return None
    return value if isinstance(value, dict | list) else None


def _masked_block(name: str, value: object) -> object:
    if isinstance(value, dict):
        return {key: _masked_block(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked_block(name, inner) for inner in value]
    return masked_value(name, value) if isinstance(value, str) else value
