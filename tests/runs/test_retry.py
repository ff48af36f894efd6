"""A retry of a run that another version made."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from plumbline.config import Params, load_params
from plumbline.errors import UserError
from plumbline.runs.retry import OtherVersionParams

ROOT = Path(__file__).resolve().parents[2]


def test_the_parameters_of_another_version_are_passed_on_as_they_are(tmp_path: Path) -> None:
    """A run's own code reads them again: it would refuse a key that it does not know, and miss one that is gone."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    old = re.sub(r"  missing_stop_deviations: .*", "  missing_stop_reward: -3.0", text)
    old = re.sub(r"  judge_fraction: .*\n", "", old) + "gone:\n  version: '1'\n"
    (tmp_path / "params.yaml").write_text(old, encoding="utf-8")
    with pytest.raises(UserError, match=r"`ingest\.judge_fraction` is missing"):
        load_params(tmp_path)
    found = OtherVersionParams.read(tmp_path)
    assert found.model_dump() == YAML(typ="safe").load(old)
    assert (found.seed, found.promote.model_name) == (0, "policy")
    changed = found.model_copy(update={"retrain": load_params(ROOT).retrain}).model_dump()
    assert changed == YAML(typ="safe").load(old)
    (tmp_path / "params.yaml").write_text(old.replace("seed: 0", "seed: 7").replace("clip: 0.2", "clip: 0.3"))
    whole = OtherVersionParams.read(tmp_path).completed(ROOT)
    assert type(whole) is Params and (whole.seed, whole.ppo.clip) == (7, 0.3)
    assert whole.ingest == load_params(ROOT).ingest
