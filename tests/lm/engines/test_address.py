"""Where servers are found."""

import pytest

from plumbline.errors import UserError
from plumbline.lm.engines.address import vllm_addresses


def test_one_address_for_each_rank(monkeypatch):
    monkeypatch.setenv("PLUMBLINE_VLLM_URL", "http://127.0.0.1:8000/, https://host:1")
    assert vllm_addresses(2) == ["http://127.0.0.1:8000", "https://host:1"]
    with pytest.raises(UserError, match=r"one for each of 3 ranks; found http://127.0.0.1:8000, https://host:1"):
        vllm_addresses(3)


@pytest.mark.parametrize("value", ["", " , ", "127.0.0.1:8000", "file:///etc/passwd"])
def test_what_is_no_address_is_refused(monkeypatch, value):
    monkeypatch.setenv("PLUMBLINE_VLLM_URL", value)
    with pytest.raises(UserError, match=r"such as http://127.0.0.1:8000; found"):
        vllm_addresses()
