"""The GPU's engine: the same canonical layers on an NVIDIA device, through CuPy.

`gru.cu` holds the kernels, `arguments.py` their argument structures; `plan.py` decides how a layer runs; `forward.py`
and `backward.py` are the loops over layers and steps. These are written over a `Device`: an array module and a way to
launch a kernel. `device.py` has the real one, on CuPy; the tests have one on NumPy, which runs the same kernels' text
on the processor. `intake.py` takes arrays as they come. `engine.py` is the engine made of them.

A call puts work on CuPy's current stream and returns without waiting for it. Needs CuPy: pip install "cgru[cuda12]" or
"cgru[cuda13]".
"""
