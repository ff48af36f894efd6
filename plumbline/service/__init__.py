"""Always on: what `plumbline up` starts and keeps running, what it watches, and whom it tells."""
