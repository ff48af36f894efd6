"""Parameters: one block a stage, checked before anything runs.

`params.yaml` holds every value; a file given with `--params` and settings given with `--set` override some of
them. `blocks.py` says what each value means, `methods.py` what the methods
beside PPO add.
"""

from plumbline.config.blocks import (
    BaseParams,
    DirectParams,
    IngestParams,
    JudgeParams,
    PpoParams,
    PreferenceEvalParams,
    PromoteParams,
    RetrainParams,
    RewardEvalParams,
    RewardModelParams,
    RewardParts,
    SftParams,
    SnapshotParams,
)
from plumbline.config.load import check_params, keys, load_params, read_blocks, read_yaml, registered_name
from plumbline.config.methods import METHODS
from plumbline.config.params import Params, candidate_params
from plumbline.config.values import EngineName, ParamsBlock, Precision, VersionedBlock

__all__ = [
    "METHODS",
    "BaseParams",
    "DirectParams",
    "EngineName",
    "IngestParams",
    "JudgeParams",
    "Params",
    "ParamsBlock",
    "PpoParams",
    "Precision",
    "PreferenceEvalParams",
    "PromoteParams",
    "RetrainParams",
    "RewardEvalParams",
    "RewardModelParams",
    "RewardParts",
    "SftParams",
    "SnapshotParams",
    "VersionedBlock",
    "candidate_params",
    "check_params",
    "keys",
    "load_params",
    "read_blocks",
    "read_yaml",
    "registered_name",
]
