"""Changes of the feedback store's tables, in order; run by `plumbline.feedback.store` when it is opened."""
