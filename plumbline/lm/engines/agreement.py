"""How far an engine and the training agree about the policy: two log-probabilities of each sampled token.

`prob_error`, the mean of exp|difference|, is the factor by which a token's probability differs on average: 1
is agreement (NeMo-RL's `token_mult_prob_error`). It shows whatever an engine does wrong: weights that did not
arrive, another temperature, log-probabilities of something else, kernels that are too coarse.
"""

import torch

from plumbline.errors import UserError

LIMITS = {"fp32": 1.001, "bf16": 1.1}
"""By precision. Rounding to bf16 makes some hundredths; in fp32 engines agree to a millionth."""
FLAGS = {"fp32": "float32", "bf16": "bfloat16"}
"""What vLLM calls a precision."""


def prob_error(gap_N: torch.Tensor) -> float:
    """Return the mean of exp|gap| of the differences of two log-probabilities, in nats, of each token."""
    return float(gap_N.cpu().double().abs().exp().mean())  # not every accelerator has float64


def require_agreement(error: float, precision: str, when: str) -> None:
    """Raise UserError if a `prob_error` is beyond what the precision explains, or not a number."""
    if not error <= LIMITS[precision]:
        raise UserError(
            f"At {when}, the vLLM server and the training disagree about the policy: the probabilities of "
            f"its tokens differ by a factor of {error:.4g} on average, where at most {LIMITS[precision]:g} "
            f"is expected with precision: {precision}. Start the server with --dtype {FLAGS[precision]} "
            "--logprobs-mode processed_logprobs, and without quantisation; if it was, restart it. What else "
            "to try stands in docs/scale.md; engine: own does without it.")
