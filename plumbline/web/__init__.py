"""The pages: lineage to inspect, feedback to give. Server-rendered HTML and SVG, no build step, hardly any
script.
"""
