"""What a model is: options, parameters, equations. Nothing here runs fast, and nothing knows of engines or files.

`spec.py` has the options, `value.py` options with parameters, `cells/` the equations of one step, one file a cell,
`layer.py` the canonical layer that engines run, and `reference.py` runs any model in NumPy: the specification.
"""
