"""Language models: base models, chat templates, tokens, sampling."""
