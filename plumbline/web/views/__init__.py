"""What a page shows, worked out: views/X.py for pages/X.py."""
