"""A net trained for quantization with today's TensorFlow, exported to int8, re-expressed for an accelerator and validated."""

import numpy as np
import pytest

tensorflow = pytest.importorskip("tensorflow")

from tf_requant import requantize, validate  # noqa: E402

pytestmark = pytest.mark.slow

CLASSES, STEPS, BATCH, EDGE = 4, 80, 64, 12


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise from -1 to 1 with a brighter quadrant, whose number is the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    images = random.normal(-0.3, 0.3, (count, EDGE, EDGE, 3))
    for image, label in zip(images, labels):
        row, column = EDGE // 2 * (label // 2), EDGE // 2 * (label % 2)
        image[row : row + EDGE // 2, column : column + EDGE // 2] += 0.35
    return np.clip(images, -1, 1).astype(np.float32), labels


def rounded(x, low, high):
    return tensorflow.quantization.fake_quant_with_min_max_vars(x, low, high)


def rounded_filter(w):
    """Symmetric, a range per output channel of a convolution; the gradient goes straight through."""
    if len(w.shape) == 2:  # the converter cannot transpose a range per channel
        top = tensorflow.stop_gradient(tensorflow.reduce_max(tensorflow.abs(w))) + 1e-6
        return tensorflow.quantization.fake_quant_with_min_max_vars(w, -top, top, narrow_range=True)
    top = tensorflow.stop_gradient(tensorflow.reduce_max(tensorflow.abs(w), list(range(len(w.shape) - 1)))) + 1e-6
    return tensorflow.quantization.fake_quant_with_min_max_vars_per_channel(w, -top, top, narrow_range=True)


class Net(tensorflow.Module):
    """Two convolutions and a dense layer, each behind fake quantization."""

    def __init__(self) -> None:
        super().__init__()
        tensorflow.random.set_seed(1)
        shapes = {"first": (3, 3, 3, 8), "second": (3, 3, 8, 8), "dense": (3 * 3 * 8, CLASSES)}
        self.weights = {
            n: tensorflow.Variable(tensorflow.random.normal(s, stddev=np.prod(s[:-1]) ** -0.5), name=n) for n, s in shapes.items()
        }
        self.biases = {n: tensorflow.Variable(tensorflow.zeros(s[-1]), name=f"{n}_bias") for n, s in shapes.items()}

    def __call__(self, x):
        x = rounded(x, -1.0, 1.0)
        for name in ("first", "second"):
            x = tensorflow.nn.conv2d(x, rounded_filter(self.weights[name]), 2, "SAME") + self.biases[name]
            x = rounded(tensorflow.nn.relu6(x), 0.0, 6.0)
        x = tensorflow.reshape(x, (-1, 3 * 3 * 8))
        return rounded(x @ rounded_filter(self.weights["dense"]) + self.biases["dense"], -8.0, 8.0)


@pytest.fixture(scope="module")
def exported() -> tuple[bytes, Net]:
    net, optimizer = Net(), tensorflow.keras.optimizers.Adam(0.01)

    @tensorflow.function
    def step(images, labels) -> None:
        with tensorflow.GradientTape() as tape:
            loss = tensorflow.reduce_mean(
                tensorflow.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=net(images))
            )
        optimizer.apply_gradients(zip(tape.gradient(loss, net.trainable_variables), net.trainable_variables))

    for n in range(STEPS):
        step(*drawn(BATCH, n))
    serve = tensorflow.function(net.__call__, [tensorflow.TensorSpec((1, EDGE, EDGE, 3))]).get_concrete_function()
    converter = tensorflow.lite.TFLiteConverter.from_concrete_functions([serve], net)
    converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tensorflow.int8
    return converter.convert(), net


def test_the_net_learned_and_its_export_decides_as_it_does(exported):
    content, net = exported
    images, labels = drawn(256, 1000)
    decisions = net(images).numpy().argmax(1)
    assert np.mean(decisions == labels) >= 0.95
    check = validate(content, reference=content, data=images, labels=labels, layers=0)
    assert check.top1 is not None and abs(check.top1 - np.mean(decisions == labels)) <= 0.02


def test_an_export_of_a_net_trained_for_quantization_is_re_expressed_and_passes_validation(exported):
    content, _ = exported
    images, labels = drawn(256, 1001)
    result = requantize(content, "nna_sym8_pow2", calibration=drawn(64, 999)[0])
    check = validate(
        result.model_bytes, reference=content, data=images, labels=labels, target="nna_sym8_pow2", min_agreement=0.97,
        against=("litert", "sim"),
    )  # fmt: skip
    assert check.passed, check.failures
    assert check.legality is not None and check.legality.legal
