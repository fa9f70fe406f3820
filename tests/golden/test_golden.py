"""Known answers that no one here made: CMSIS-NN's unit tests and TensorFlow Lite Micro's seanet models."""

from pathlib import Path

import numpy as np

import tf_requant
from tests.golden.cmsis_nn import UNSUPPORTED, Case, kind_of
from tf_requant.pipeline.simulate import checked_model, tensor_names


def test_every_cmsis_nn_case_is_reproduced(shared: Path) -> None:
    paths = sorted((shared / "data/golden/cmsis_nn").glob("*.npz"))
    wrong, skipped = {}, {}
    for path in paths:
        case = Case.read(path)
        run = kind_of(case)
        if isinstance(run, str):
            skipped[path.stem] = UNSUPPORTED[run]
            continue
        found = run(case).reshape(-1).astype(np.int64)
        differing = int((found != case.arrays["output_ref"]).sum())
        if differing:
            wrong[path.stem] = f"{differing} of {found.size}"
    assert wrong == {}
    assert sorted(skipped) == ["lstm_2", "svdf_3", "svdf_int8", "svdf_int8_2"]
    assert len(paths) - len(skipped) == 60


def test_the_lstm_case_contradicts_itself(shared: Path) -> None:
    case = Case.read(shared / "data/golden/cmsis_nn/lstm_2.npz")
    sums = case.arrays["recurrent_input_to_cell_w"].reshape(7, 7).astype(int).sum(axis=1)
    assert (case.arrays["recurrent_to_cell_eff_bias"] == 24 * sums).all()
    assert set(case.arrays["output_state"].tolist()) == {-24} and case["OUTPUT_ZERO_POINT"] == 89


def test_every_seanet_model_is_reproduced(shared: Path) -> None:
    paths = sorted((shared / "data/golden/tflm_seanet").glob("*.npz"))
    assert len(paths) == 76
    wrong = {}
    for path in paths:
        with np.load(path) as file:
            model = checked_model(file["model"].tobytes())
            names, tensors = tensor_names(model.main), [(t, model.main.tensors[t]) for t in model.main.inputs]
            inputs = {names[i]: file[f"input{n}"].astype(t.dtype).reshape(t.shape) for n, (i, t) in enumerate(tensors)}
            golden = file["golden"]
        with tf_requant.Simulation(model, strict=True) as simulation:
            codes = next(iter(simulation.run(inputs).values()))
        differing = int((codes.reshape(-1).astype(np.int64) != golden.reshape(-1)).sum())
        if differing:
            wrong[path.stem] = f"{differing} of {codes.size}"
    assert wrong == {}
