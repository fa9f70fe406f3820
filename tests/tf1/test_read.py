"""TF1 graphs read as uint8 models: the sound ones compute what the graph does, the others are refused in a sentence."""

import numpy as np
import pytest

tensorflow = pytest.importorskip("tensorflow")

from tensorflow.compat import v1  # noqa: E402

from tests.tf1 import sound, unsound  # noqa: E402
from tests.tf1.nets import INPUT_STATS, Graph, build, run_graph  # noqa: E402
from tf_requant import RequantError, requantize  # noqa: E402
from tf_requant.errors import UsageError  # noqa: E402
from tf_requant.runtime import InterpreterProcess  # noqa: E402

pytestmark = pytest.mark.slow

SAMPLES = 12
# Codes that an output may differ by. A layer's kernel rounds its result once, and so does the graph: 1. Where layers follow
# one another a code of the first that rounds otherwise reaches the last.
AVERAGES = {"avg_pool", "mean", "resize", "numbered_pools"}  # the kernel rounds an average, and the graph does not
TWO = {"residual", "residual_relu", "residual_relu6", "implied_relu", "numbered_pools", "concat", "max_pool", "avg_pool", "mean", "resize", "shared_filter", "two_inputs", "wide"}


def written(folder, graph: Graph) -> str:
    path = folder / "net.pb"
    path.write_bytes(graph.content)
    return path


def differences(graph: Graph, result) -> list[np.ndarray]:
    """By how many codes each output of the file differs from the graph's, on random codes."""
    model, random = result.model.main, np.random.default_rng(7)
    held = [model.tensors[i] for i in model.inputs]
    codes = {t.name: random.integers(0, 256, (SAMPLES, *t.shape[1:]), np.int64) for t in held}
    codes = {t.name: c - (0 if t.dtype == "uint8" else 128) for t, c in zip(held, codes.values())}
    feeds = {t.name: np.float32((codes[t.name] - int(t.quant.zero_point[0])) * t.quant.scale[0]) for t in held}
    outputs = [model.tensors[i] for i in model.outputs]
    real = run_graph(graph.content, list(result.source.graph.keep), feeds)
    with InterpreterProcess("litert_ref") as process:
        details = process.load(result.model_bytes)
        fed = {i.index: codes[t.name].astype(t.dtype) for i, t in zip(details.inputs, held)}
        found = process.run(fed)
        got = [found[o.index].reshape(r.shape) for o, r in zip(details.outputs, real)]
    low = {"uint8": (0, 255), "int8": (-128, 127)}
    expected = [
        np.clip(np.round(r / t.quant.scale[0]) + t.quant.zero_point[0], *low[t.dtype]) for r, t in zip(real, outputs)
    ]
    return [np.abs(g.astype(int) - e) for g, e in zip(got, expected)]


@pytest.mark.parametrize("name", sound.NETS)
def test_a_sound_graph_becomes_a_file_that_computes_the_same_codes(tmp_path, in_process, name):
    graph = build(name)
    stats = None if "ranged" in name else INPUT_STATS
    target = "tflite_int8" if "per_channel" in name else "tflite_uint8"  # the converter's own scheme
    result = requantize(written(tmp_path, graph), target, input_stats=stats, **graph.options)
    off = differences(graph, result)
    assert [o.max() for o in off] <= [2 if name in TWO else 1] * len(off)
    assert name in AVERAGES or all(np.mean(o > 0) <= 0.05 for o in off)  # rounding that falls otherwise is rare


@pytest.mark.parametrize(("name", "words"), unsound.NAMED.items())
def test_an_unsound_graph_is_refused_in_one_sentence_that_names_the_node(tmp_path, name, words):
    with pytest.raises(RequantError) as caught:
        requantize(written(tmp_path, build(name)), "tflite_uint8")
    sentence = str(caught.value)
    assert words in sentence
    assert "\n" not in sentence and "Traceback" not in sentence and len(sentence) < 700
    assert "TensorFlow was killed" not in sentence and "TensorFlow ended with" not in sentence


def test_an_op_that_tensorflow_does_not_know_is_named(tmp_path):
    graph = build("max_pool")
    next(n for n in graph.graph_def.node if n.op == "MaxPool").op = "MaxPoolOfOurs"
    with pytest.raises(RequantError, match=r"'pool'.*"):
        requantize(written(tmp_path, graph), "tflite_uint8")


def test_a_node_that_reads_one_that_is_missing_is_named(tmp_path):
    graph = build("conv_same")
    kept = [n for n in graph.graph_def.node if n.name != "conv/biases"]
    del graph.graph_def.node[:]
    graph.graph_def.node.extend(kept)
    with pytest.raises(RequantError, match="'conv/biases/read'.*reads 'conv/biases'"):
        requantize(written(tmp_path, graph), "tflite_uint8")


def test_a_layer_without_its_inputs_is_refused_in_a_sentence(tmp_path):
    graph = build("conv_same")
    del next(n for n in graph.graph_def.node if n.op == "Conv2D").input[1:]
    with pytest.raises(RequantError, match="conv/Conv2D"):
        requantize(written(tmp_path, graph), "tflite_uint8")


def test_a_graph_that_reads_itself_is_refused_in_a_sentence(tmp_path):
    graph = build("conv_same")
    node = next(n for n in graph.graph_def.node if n.op == "BiasAdd")
    node.input[0] = "conv/act_quant/FakeQuantWithMinMaxVars"
    with pytest.raises(RequantError) as caught:
        requantize(written(tmp_path, graph), "tflite_uint8")
    assert "ended with code" not in str(caught.value) and "killed" not in str(caught.value)


def test_random_bytes_an_empty_file_and_half_a_graph_are_no_graphs(tmp_path):
    whole = build("wide").content
    random = np.random.default_rng(3)
    bad = [random.bytes(n) for n in (1, 17, 300, 5000)] + [b"", whole[: len(whole) // 2], whole[:-3], b"\n\0", b"\0" * 64]
    for content in bad:
        path = tmp_path / "bad.pb"
        path.write_bytes(content)
        with pytest.raises(RequantError) as caught:
            requantize(path, "tflite_uint8")
        sentence = str(caught.value)
        assert "\n" not in sentence and "ended with code" not in sentence and "killed" not in sentence, content[:20]


def test_a_tflite_file_with_a_graphs_name_is_no_graph(tmp_path):
    path = tmp_path / "model.pb"
    path.write_bytes(requantize(written(tmp_path, build("dense")), "tflite_uint8").model_bytes)
    with pytest.raises(RequantError, match="model.pb"):
        requantize(path, "tflite_uint8")


def test_paths_that_are_no_graphs_are_refused_with_what_is_missing(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        requantize(tmp_path / "nothing.pb", "tflite_uint8")
    with pytest.raises(UsageError, match="without saved_model.pb"):
        requantize(tmp_path, "tflite_uint8")
    meta = v1.MetaGraphDef()
    meta.graph_def.CopyFrom(build("dense").graph_def)
    (tmp_path / "model.meta").write_bytes(meta.SerializeToString())
    with pytest.raises(UsageError, match=r"model\.index"):
        requantize(tmp_path / "model.meta", "tflite_uint8")
    (tmp_path / "saved_model.pb").write_bytes(b"no protobuf")
    with pytest.raises(RequantError, match="saved_model.pb is no SavedModel"):
        requantize(tmp_path, "tflite_uint8")


def test_a_checkpoint_whose_index_is_damaged_is_refused_by_its_name(tmp_path, shared):
    held = shared / "models/tf1/mnv2_cifar_qat_ckpt"
    (tmp_path / "model.meta").write_bytes((held / "model.meta").read_bytes())
    (tmp_path / "model.index").write_bytes(b"no index at all")
    with pytest.raises(RequantError, match="the checkpoint cannot be read"):
        requantize(tmp_path / "model.meta", "tflite_uint8")


def test_a_saved_model_of_tensorflow_2_is_refused_with_the_way_to_take(tmp_path):
    module = tensorflow.Module()
    module.scale = tensorflow.Variable(2.0)
    module.run = tensorflow.function(lambda x: x * module.scale, [tensorflow.TensorSpec((1, 4))])
    tensorflow.saved_model.save(module, str(tmp_path), module.run.get_concrete_function())
    with pytest.raises(RequantError, match="TF2 SavedModel"):
        requantize(tmp_path, "tflite_uint8")


def test_names_that_the_graph_lacks_are_refused_with_the_nearest(tmp_path):
    path = written(tmp_path, build("early_output"))
    with pytest.raises(UsageError, match="'outptu'.*did you mean 'output'"):
        requantize(path, "tflite_uint8", outputs=["outptu"])
    with pytest.raises(UsageError, match="'inputs'.*did you mean 'input'"):
        requantize(path, "tflite_uint8", inputs=["inputs"])


def test_several_outputs_are_converted_when_they_are_named(tmp_path):
    graph = build("two_ends")
    names = ["one/act_quant/FakeQuantWithMinMaxVars", "other/act_quant/FakeQuantWithMinMaxVars"]
    for outputs in (names, names[::-1]):
        result = requantize(written(tmp_path, graph), "tflite_uint8", outputs=outputs, input_stats=INPUT_STATS)
        assert list(result.source.graph.keep) == outputs
        assert len(result.model.main.outputs) == 2
        assert max(o.max() for o in differences(graph, result)) <= 2


def test_an_output_before_its_range_is_read_behind_it_and_said_so(tmp_path):
    result = requantize(written(tmp_path, build("early_output")), "tflite_uint8", outputs=["output"])
    assert result.source.graph.keep == ("last/act_quant/FakeQuantWithMinMaxVars",)
    assert any("'output' lies before it" in w for w in result.report.to_dict()["warnings"])


def test_an_input_size_that_was_given_is_the_files(tmp_path):
    graph = build("unknown_size")
    result = requantize(written(tmp_path, graph), "tflite_uint8", inputs=["input:1x6x10x3"])
    assert result.model.main.tensors[result.model.main.inputs[0]].shape == (1, 6, 10, 3)
