"""The learning: supervised fine-tuning, reward models, proximal policy optimisation."""
