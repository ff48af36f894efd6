"""The markers of chat templates: texts that carry them were rendered for a model already.

The model's own template would be put around them once more, and the markers learnt as plain text.
"""

import re

_TEMPLATE = (
    r"<\|(?:im_start|im_end|im_sep|start_header_id|end_header_id|eot_id|begin_of_text|end_of_text|endoftext"
    r"|user|assistant|system|prompter|end"
    r"|START_OF_TURN_TOKEN|END_OF_TURN_TOKEN)\|>"  # ChatML, Llama 3, Zephyr, Phi, Cohere
    r"|</?(?:start_of_turn|end_of_turn)>|\[/?INST\]|<</?SYS>>"  # Gemma, Mistral, Llama 2
    r"|<｜(?:User|Assistant|begin▁of▁sentence|end▁of▁sentence)｜>"  # DeepSeek
    # Alpaca, Vicuna; in JSON a line break is spelt.
    r"|(?:^|\n|\\n|\")### (?:Instruction|Response|Human|Assistant):")
TEMPLATE_IN_TEXT = re.compile(_TEMPLATE)
_TEMPLATE_IN_BYTES = re.compile(_TEMPLATE.encode())
_IN_EVERY_MARKER = (b"<", b"INST]", b"### ")
"""Each marker holds one of these, and finding none of them in a line is quicker than matching the pattern."""


def has_template(line: bytes) -> bool:
    """True if a text in a line of JSON holds a marker."""
    return any(part in line for part in _IN_EVERY_MARKER) and _TEMPLATE_IN_BYTES.search(line) is not None
