"""Training: starting weights in, an exported dual encoder out.

Needs the `train` extra. Nothing on the query path imports it.
"""
