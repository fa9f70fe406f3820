"""The bundled sample: a small quantization-aware trained network and some labelled images.

`mnv2_cifar_qat_uint8.tflite` is a MobileNetV2-style network for CIFAR-10, trained for this project with
TF 1.15's `tf.contrib.quantize` and converted by TF 1.15 itself: uint8, asymmetric, per tensor. The images
are CIFAR-10's (JPEG copies): evaluation from its test set, calibration from its training set.
"""

from pathlib import Path

_HERE = Path(__file__).parent


def model_path() -> Path:
    """The quantized model, a TFLite file."""
    return _HERE / "mnv2_cifar_qat_uint8.tflite"


def evaluation_path() -> Path:
    """256 test images: an npz with `images` uint8[256, 32, 32, 3] and `labels` int[256]."""
    return _HERE / "cifar10_evaluation.npz"


def calibration_path() -> Path:
    """64 training images, none of them among the test images, in the same form."""
    return _HERE / "cifar10_calibration.npz"
