"""Charts, graphs and texts as HTML and SVG; knows nothing of runs."""
