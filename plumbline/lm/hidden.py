"""What a model's body makes of padded sequences, whichever side the padding is on."""

import torch
from transformers import PreTrainedModel

from plumbline.lm.sampling import positions


def hidden_states(
    body: PreTrainedModel, ids_BT: torch.Tensor, mask_BT: torch.Tensor, below_BTD: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the last hidden state [B, T, D]; it means nothing at padding.

    A body that is only the upper part of one reads `below_BTD`, the output of the lower part, in place of
    ids.
    """
    read = {"input_ids": ids_BT} if below_BTD is None else {"inputs_embeds": below_BTD}
    hidden_BTD: torch.Tensor = body(
        **read, attention_mask=mask_BT, position_ids=positions(mask_BT), use_cache=False).last_hidden_state
    return hidden_BTD
