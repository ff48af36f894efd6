"""Which of the nodes this is, and where the first of them is found: what the ranks of several nodes meet by.

A launcher says it in two variables. Those of Slurm, SkyPilot and Kubeflow's Trainer say it in their own way.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from plumbline.errors import UserError

NODE, FIRST_NODE = "PLUMBLINE_NODE", "PLUMBLINE_FIRST_NODE"
"""The number of a node, from 0 on, and the name or address of number 0: how a launcher says it."""
SAID = ((NODE, FIRST_NODE), ("SLURM_NODEID", "SLURM_STEP_NODELIST"),
        ("SKYPILOT_NODE_RANK", "SKYPILOT_NODE_IPS"), ("PET_NODE_RANK", "PET_MASTER_ADDR"))
"""The variables of launchers that are known, in pairs like the first."""
FIRST_NAME = re.compile(r"([^\s,\[]+)(?:\[(\d+)[^\]]*\]([^\s,]*))?")


@dataclass(frozen=True)
class ComputeNode:
    """One of the machines of a stage."""

    number: int
    first: str
    """The name or the address of number 0."""


def this_node(variables: Mapping[str, str] = os.environ) -> ComputeNode:
    """Return which node this is. Raises UserError if the launcher does not say it."""
    for number, first in SAID:
        if number in variables and (named := FIRST_NAME.match(variables.get(first, ""))):
            return ComputeNode(int(variables[number]), "".join(part or "" for part in named.groups()))
    raise UserError(f"The launcher started this node without saying which one it is: expected {NODE} (0 for "
                    f"the first node) and {FIRST_NODE} (its name or address) in the environment, or what "
                    "Slurm, SkyPilot or Kubeflow's Trainer set. docs/scale.md says what launchers do.")
