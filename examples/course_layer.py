"""LoRA in one page: a frozen layer learns a change that it was never told.

A pretrained layer computes y = x W^T. A better layer has the weight W + D, where D has low rank. We see only
inputs x and the better layer's outputs. W stays frozen; two thin matrices A and B are trained until s B A = D.

    python examples/course_layer.py
"""

import numpy as np

from npl_lora import ops
from npl_lora.layers import LoRALinear

rng = np.random.default_rng(0)

# 1. The layer. x is (batch, positions, features), and so is y.
layer = LoRALinear(in_features=512, out_features=512, rank=4, rng=rng)
print(layer)
print(f"trainable: {layer.n_trainable:,} numbers, A {layer.A.shape} and B {layer.B.shape}")
print(f"frozen:    {layer.n_frozen:,} numbers, W {layer.W.shape}")

x = rng.standard_normal((2, 10, 512), dtype=np.float32)
y, _ = layer(x)
print(f"x {x.shape} -> y {y.shape}")

# 2. B starts at zero, so the new layer does exactly what the pretrained one did.
assert np.array_equal(y, x @ layer.W.T)

# 3. The change to find: D = B* A*, of rank 4. The columns of B* and the rows of A* are orthonormal, so D has
#    four singular values, all 1. The layer sees it through the data only.
B_star, _ = np.linalg.qr(rng.standard_normal((512, 4)))
A_star, _ = np.linalg.qr(rng.standard_normal((512, 4)))
D = (B_star @ A_star.T).astype(np.float32)

# 4. Plain gradient descent. The loss is a mean over 512 outputs, so its curvature is 2/512. That is why the
#    learning rate is large.
learning_rate = 100.0
print("\nstep      loss   |sBA - D| / |D|")
for step in range(81):
    x = rng.standard_normal((8, 32, 512), dtype=np.float32)
    target = x @ (layer.W + D).T

    y, pullback = layer(x)  # forward, going down
    loss, loss_pullback = ops.mean_squared_error(y, target)

    dy = loss_pullback(1.0)["prediction"]  # backward, coming up
    grads = pullback(dy, wrt=("A", "B"))  # the first layer of a model needs no dx

    if step % 10 == 0:
        error = np.linalg.norm(layer.scale * layer.B @ layer.A - D) / np.linalg.norm(D)
        print(f"{step:4d}  {loss:8.2e}   {error:8.2e}")

    for name, parameter in layer.trainable.items():
        parameter -= learning_rate * grads[name]

# 5. Check the change itself, not the loss alone: s B A equals D.
error = np.linalg.norm(layer.scale * layer.B @ layer.A - D) / np.linalg.norm(D)
assert error < 1e-3, f"the planted change was not recovered: relative error {error:.1e}"

# 6. Merge: from here on it is one ordinary linear layer, as fast as before training.
layer.merge()
y_merged, _ = layer(x)
assert np.allclose(y_merged, target, atol=1e-3)
print(
    f"\nrecovered the planted change to {error:.1e}: {layer.n_trainable:,} trained numbers, {layer.n_frozen:,} frozen"
)
