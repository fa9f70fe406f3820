"""What a target's own limits do to an op: it stays on the host, or the model is refused."""

import pytest

import tf_requant
from tf_requant.errors import UnsupportedOpError
from tf_requant.io import tflite
from tf_requant.sample import model_path
from tf_requant.validation.legality import check_legality


@pytest.mark.parametrize(
    ("rule", "reason"),
    [({"kernel_max": 2}, "its kernel is 3 wide, the target allows 2"), ({"stride_max": 1}, "its stride is 2, the target allows 1")],
)
def test_an_op_beyond_a_limit_stays_on_the_host(rule: dict[str, int], reason: str) -> None:
    target = tf_requant.load_target("nna_sym8").derive(name="small", ops={"DEPTHWISE_CONV_2D": rule})
    result = tf_requant.requantize(model_path(), target)
    assert reason in {why for _, why in result.report.host_ops}
    assert check_legality(tflite.read(result.model_bytes), target).violations == ()


def test_a_target_that_refuses_unlisted_ops_refuses_the_model() -> None:
    target = tf_requant.load_target("nna_sym8").derive(name="strict", unlisted_ops="refuse")
    with pytest.raises(UnsupportedOpError, match="op 21 .SOFTMAX"):
        tf_requant.requantize(model_path(), target)
