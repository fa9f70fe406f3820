"""post_export of what TensorFlow trains and saves: Keras models, converters, SavedModels of both generations."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from tf_requant.errors import CalibrationError, UnsupportedModelError, UsageError, ValidationFailed  # noqa: E402
from tf_requant.pipeline.post_export import post_export  # noqa: E402
from tf_requant.pipeline.tfx_rewriter import Rewriter  # noqa: E402

pytestmark = pytest.mark.slow

EDGE, CLASSES, STEPS = 12, 3, 40
TARGET = "nna_sym8_pow2"


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise from -1 to 1 with one colour channel brighter, whose number is the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    images = random.normal(-0.2, 0.3, (count, EDGE, EDGE, CLASSES))
    images[np.arange(count), :, :, labels] += 0.4
    return np.clip(images, -1, 1).astype(np.float32), labels


def steps():
    for image in drawn(32, 1)[0]:
        yield [image[None]]


JUDGED = dict(zip(("data", "labels"), drawn(200, 2)), min_agreement=0.97)


@pytest.fixture(scope="module")
def model():
    import keras

    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((EDGE, EDGE, CLASSES), name="pixels"),
        keras.layers.Conv2D(8, 3, strides=2, use_bias=False),
        keras.layers.BatchNormalization(momentum=0.8),
        keras.layers.ReLU(6.0),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(CLASSES),
    ]
    made = keras.Sequential(layers)
    made.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.fit(*drawn(64 * STEPS, 0), batch_size=64, verbose=0)
    return made


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.export(folder, verbose=False)
    return folder


def assert_sound(exported) -> None:
    """It learned, it is legal, and it keeps the source's answers."""
    assert exported.passed and exported.check.passed and exported.legality.legal
    assert exported.check.reference_top1 > 0.95 and exported.check.agreement >= 0.97


def test_a_keras_model_passes_its_gate_and_one_out_of_reach_fails(model, tmp_path, capfd):
    models = post_export(model, [TARGET, "tflite_int8"], representative_dataset=steps, output=tmp_path, **JUDGED)
    assert capfd.readouterr().out == ""
    assert [p.name for p in sorted(tmp_path.iterdir())] == [f"{TARGET}.tflite", "tflite_int8.tflite"]
    for exported in models.values():
        assert_sound(exported)
    assert models[TARGET].result.source.model.main.tensors[0].dtype == "int8"
    with pytest.raises(ValidationFailed, match=f"{TARGET}: layer .* expected at most -90.0"):
        post_export(model, [TARGET], representative_dataset=steps, output=tmp_path / "no", max_layer_error=-90.0, **JUDGED)
    assert not (tmp_path / "no").exists()


def test_every_form_of_the_dataset_gives_the_same_model(model):
    images, labels = drawn(32, 1)
    expected = post_export(model, TARGET, representative_dataset=steps)[TARGET].model_bytes
    for dataset in (
        images,
        {"pixels": images},
        lambda: ({"pixels": image[None]} for image in images),
        tf.lite.RepresentativeDataset(steps),
        tf.data.Dataset.from_tensor_slices((images, labels)).batch(7),
    ):
        assert post_export(model, TARGET, representative_dataset=dataset)[TARGET].model_bytes == expected


def test_a_converter_is_told_to_quantize_and_given_back_as_it_was(saved):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    before = {k: v for k, v in vars(converter).items() if not k.startswith("_")}
    allowed = converter.target_spec.supported_ops
    assert_sound(post_export(converter, TARGET, representative_dataset=steps, **JUDGED)[TARGET])
    assert {k: v for k, v in vars(converter).items() if not k.startswith("_")} == before
    assert converter.target_spec.supported_ops == allowed


def test_a_configured_converter_converts_as_its_caller_said(saved):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = steps  # float at its ends
    exported = post_export(converter, TARGET, **JUDGED)[TARGET]
    assert_sound(exported)
    main = exported.result.source.model.main
    assert main.tensors[main.inputs[0]].dtype == "float32"


def test_a_saved_model_of_tensorflow_2_is_told_from_a_graph_and_needs_the_dataset(saved, tmp_path):
    assert_sound(post_export(saved, TARGET, representative_dataset=steps, **JUDGED)[TARGET])
    with pytest.raises(UsageError, match="give a representative_dataset"):
        post_export(saved, TARGET, output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_variables_that_the_converter_cannot_read_are_frozen(model, tmp_path):
    """What `tf.saved_model.save` makes of a Keras 3 model, signature and all, dies in TensorFlow's calibration."""
    spec = tf.TensorSpec((None, EDGE, EDGE, CLASSES), tf.float32, name="pixels")
    serve = tf.function(lambda pixels: {"scores": model(pixels)}, input_signature=[spec])
    tf.saved_model.save(model, str(tmp_path / "model"), signatures={"serving_default": serve.get_concrete_function()})
    assert_sound(post_export(tmp_path / "model", TARGET, representative_dataset=steps, **JUDGED)[TARGET])


def test_a_net_with_trained_ranges_needs_no_dataset(tmp_path):
    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(tf.random.stateless_normal((3, 3, 3, 4), (0, 1), stddev=0.2))

        @tf.function(input_signature=[tf.TensorSpec((1, EDGE, EDGE, 3), tf.float32)])
        def serve(self, pixels):
            rounded = tf.quantization.fake_quant_with_min_max_vars
            weights = rounded(self.weights, -1.0, 1.0, narrow_range=True)
            return {"y": rounded(tf.nn.relu6(tf.nn.conv2d(rounded(pixels, -1.0, 1.0), weights, 2, "SAME")), 0.0, 6.0)}

    net = Net()
    tf.saved_model.save(net, str(tmp_path / "qat"), signatures=net.serve)
    exported = post_export(tmp_path / "qat", TARGET)[TARGET]
    main = exported.result.source.model.main
    assert exported.passed and main.tensors[main.inputs[0]].dtype == "int8"


def test_what_cannot_quantize_a_model_is_a_sentence(model, saved):
    with pytest.raises(CalibrationError, match="uint8 pixels"):
        post_export(model, TARGET, representative_dataset=np.zeros((4, EDGE, EDGE, CLASSES), np.uint8))
    with pytest.raises(CalibrationError, match="in an array, a dataset or a callable"):
        post_export(model, TARGET, representative_dataset="images/")
    with pytest.raises(CalibrationError, match="infinite"):
        post_export(model, TARGET, representative_dataset=tf.data.Dataset.from_tensors(drawn(2, 0)[0]).repeat())
    with pytest.raises(UnsupportedModelError, match="converter refused the model"):
        post_export(model, TARGET, representative_dataset=np.zeros((4, EDGE + 1, 2), np.float32))
    for hybrid in (False, True):
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
        converter.optimizations = [tf.lite.Optimize.DEFAULT] if hybrid else []
        with pytest.raises(UnsupportedModelError, match="did not quantize the model fully.*representative_dataset"):
            post_export(converter, TARGET)


def test_the_rewriter_takes_what_a_trainer_saves(saved, tmp_path):
    class Described:
        def __init__(self, kind: str, path: object) -> None:
            self.model_type, self.path = kind, str(path)

    rewriter = Rewriter([TARGET], representative_dataset=steps, **JUDGED)
    rewriter.perform_rewrite(Described("SAVED_MODEL", saved), Described("TFLITE_MODEL", tmp_path / "out"))
    assert_sound(rewriter.exported[TARGET])
    assert (tmp_path / "out" / f"{TARGET}.tflite").is_file()


def test_a_graph_trained_for_quantization_is_read_once_and_can_be_written_back(shared, tmp_path):
    folder = shared / "models" / "tf1" / "mnv2_cifar_qat_saved_model"
    with np.load(shared / "data" / "cifar10" / "eval.npz") as file:
        judged = {"data": file["images"][:200], "labels": file["labels"][:200], "min_agreement": 0.95}
    models = post_export(folder, [TARGET, "nna_sym8"], output=tmp_path / "{target}.tflite", **judged)
    assert all(e.passed and e.check.reference_top1 > 0.7 for e in models.values())
    graph = post_export(folder, [TARGET], output=tmp_path / "{target}.pb")[TARGET]
    assert graph.path.read_bytes() == models[TARGET].result.graph_bytes
