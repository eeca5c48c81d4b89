"""Write tensorflow.onnx and tensorflow.npz beside this file: a small Keras model as tf2onnx exports it, x and y.

Made with TensorFlow 2.21, Keras 3 and tf2onnx 1.17: pip install tensorflow-cpu tf2onnx; python make_tensorflow.py
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tf2onnx

FOLDER = Path(__file__).parent

layers = keras.layers
x = keras.Input((None, 6))
y = layers.Conv1D(8, 3, padding="causal", dilation_rate=2)(x)
y = layers.LayerNormalization()(y)
inner = layers.Dense(8)(layers.Activation(lambda value: keras.activations.gelu(value, approximate=True))(y))
y = layers.Add()([y, inner])
y = layers.Dense(5)(layers.Activation("silu")(y))
model = keras.Model(x, y)
rng = np.random.default_rng(0)
for weights in model.weights:
    weights.assign(weights.numpy() + rng.uniform(-0.2, 0.2, weights.shape).astype(np.float32))
call = tf.function(lambda x: model(x), input_signature=[tf.TensorSpec((None, None, 6), tf.float32, name="x")])
tf2onnx.convert.from_function(
    call, input_signature=call.input_signature, opset=15, output_path=str(FOLDER / "tensorflow.onnx")
)
given = rng.standard_normal((2, 7, 6)).astype(np.float32)
np.savez(FOLDER / "tensorflow.npz", x=given, y=model(given).numpy())
