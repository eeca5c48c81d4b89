"""What a model is: options, parameters, equations. Nothing here runs fast, and nothing knows of engines or files.

`spec.py` has the options, `value.py` options with parameters, `cells/` the equations of one step, one file a cell,
`layer.py` the canonical layer that engines run, and `reference.py` runs any model in NumPy: the specification.

Whole networks: `nodes/` has the operators, `graph.py` a network, `building.py` makes one, `timing.py` says what of it
runs over time, `interpret.py` and `stepping.py` run one in NumPy, whole and frame by frame.
"""
