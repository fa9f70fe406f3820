"""Golden vectors: the archive equals the simulator, and a C header alone lets a firmware test check a layer."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tf_requant
from tests.builders import Builder
from tests.export.replay import compiled
from tf_requant.errors import CalibrationError, UnsupportedModelError, UsageError
from tf_requant.export.flatbuffer import from_bytes
from tf_requant.export.folder import write
from tf_requant.export.lowering import tensor_keys
from tf_requant.pipeline.export import Export, export
from tf_requant.sample import evaluation_path, model_path

TARGET = "nna_sym8_pow2"


@cache
def images() -> Any:
    with np.load(evaluation_path()) as file:
        return file["images"][:6]


@cache
def model() -> Any:
    return tf_requant.requantize(model_path(), TARGET, corrections="none").model


@cache
def exported() -> Export:
    return export(model(), TARGET, images())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "program"
    exported().save(path)
    return path


def test_the_folder_holds_the_program_its_listing_and_the_golden_vectors(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["golden", "program.json", "program.nna"]
    assert from_bytes((folder / "program.nna").read_bytes()) == exported().program
    assert len(list((folder / "golden").glob("op_*.h"))) == 22


def test_the_archive_is_what_simulate_gives_for_the_same_pixels(folder: Path) -> None:
    tensor = model().main.tensors[model().main.inputs[0]]
    with np.load(folder / "golden" / "golden.npz") as file:
        golden = dict(file)
    keys = tensor_keys(exported().program)
    codes = golden[keys[model().main.inputs[0]]]
    assert codes.shape == (4, *tensor.shape) and codes.dtype == np.int8
    np.testing.assert_array_equal(codes[:, 0], images()[:4].astype(int) - 128, "pixel p is the source's code p, zero point 128")
    expected = tf_requant.simulate(model(), codes[:, 0], arithmetic=TARGET, tensors="all")
    for index, held in enumerate(model().main.tensors):
        if held.data is None:
            np.testing.assert_array_equal(golden[keys[index]][:, 0], expected[held.name], held.name)
    assert len(golden) == len(expected)


def test_the_same_export_gives_the_same_files() -> None:
    assert export(model(), TARGET, images()).files() == exported().files()


FIRMWARE = """
#include <stdio.h>
#include "golden.h"
/* Op 4, a depthwise layer of a shift-only device, from its header alone. */
int main(void) {
  const int32_t *in = op0004_input0_shape, *out = op0004_output0_shape;
  long wrong = 0;
  for (int y = 0; y < out[1]; y++)
    for (int x = 0; x < out[2]; x++)
      for (int c = 0; c < out[3]; c++) {
        int32_t sum = op0004_bias[c];
        for (int i = 0; i < op0004_window_rows; i++)
          for (int j = 0; j < op0004_window_columns; j++) {
            int r = y * op0004_window_stride_rows - op0004_window_pad_top + i;
            int k = x * op0004_window_stride_columns - op0004_window_pad_left + j;
            if (r < 0 || r >= in[1] || k < 0 || k >= in[2]) continue; /* the pad code is the zero point */
            sum += op0004_input0[(r * in[2] + k) * in[3] + c] * op0004_filter[(i * op0004_window_columns + j) * out[3] + c];
          }
        int32_t shift = op0004_layer_output_rescale_shift[0], code = (sum + (1 << (shift - 1))) >> shift;
        if (code < op0004_layer_output_low) code = op0004_layer_output_low;
        if (code > op0004_layer_output_high) code = op0004_layer_output_high;
        wrong += code != op0004_output0[(y * out[2] + x) * out[3] + c];
      }
  printf("%ld\\n", wrong);
  return 0;
}
"""


def test_a_firmware_test_checks_a_layer_from_its_header_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "firmware.c").write_text(FIRMWARE)
    program = compiled(tmp_path / "firmware.c", f"-I{folder / 'golden'}")
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "0\n"


@pytest.mark.parametrize("target", ["gemmini_f32", "tflite_int16x8"])
def test_the_headers_of_every_kind_of_target_compile_as_strict_c99(target: str, tmp_path: Path) -> None:
    result = tf_requant.requantize(model_path(), target, corrections="none")
    export(result, target, images(), samples=1).save(tmp_path / "out")
    (tmp_path / "all.c").write_text('#include "golden.h"\nint main(void) { return 0; }\n')
    compiled(tmp_path / "all.c", "-pedantic", f"-I{tmp_path / 'out' / 'golden'}")


def named(name: str, count: int = 4) -> bytes:
    """x + x, all tensors of one name, which a C comment, an archive and a path could trip over."""
    b = Builder()
    data, output = (b.tensor([1, count], "int8", 0.5, 0, name=name or None) for _ in range(2))
    for tensor in b.graph.tensors:
        tensor.name = name
    b.op("ADD", [data, data], [output], "AddOptions", 2, potScaleInt16=False)
    return b.finish([data], [output])


@pytest.mark.parametrize("name", ["*/ int evil; /*", "../../up\n\\", "\u00fc??/", "", "x" * 300])
def test_no_name_of_a_tensor_leaves_its_comment_its_archive_or_its_folder(name: str, tmp_path: Path) -> None:
    found = export(named(name), TARGET, np.arange(4, dtype=np.int8)[None], samples=1)
    found.save(tmp_path / "out")
    (tmp_path / "all.c").write_text('#include "golden.h"\nint main(void) { return op0000_output0[3] != 6; }\n')
    assert subprocess.run([compiled(tmp_path / "all.c", f"-I{tmp_path / 'out' / 'golden'}")], check=False).returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.c", "out"]
    assert {p.name for p in (tmp_path / "out" / "golden").iterdir()} == {"golden.h", "golden.npz", "op_0000_add.h"}
    with np.load(tmp_path / "out" / "golden" / "golden.npz") as file:
        assert [n[:6] for n in file.files] == ["t0000_", "t0001_"]


def test_large_layers_get_no_header_unless_all_are_asked_for(tmp_path: Path) -> None:
    content, data = named("x", 30000), np.zeros((1, 30000), np.int8)
    found = export(content, TARGET, data, samples=1)
    assert found.left_out == ("op 0 (ADD): 90000 elements",)
    assert "no header: op 0 (ADD): 90000 elements" in str(found)
    assert json.loads(found.files()["program.json"])["golden"]["headers_left_out"] == list(found.left_out)
    assert "golden/op_0000_add.h" in export(content, TARGET, data, samples=1, headers="all").files()
    assert not [n for n in export(content, TARGET, data, samples=1, headers="none").files() if n.endswith(".h")]


def test_the_listing_names_every_op_and_tensor_without_bulk_data(folder: Path) -> None:
    listing = json.loads((folder / "program.json").read_text())
    assert [op["code"] for op in listing["ops"]] == [op.code for op in model().main.ops]
    assert [t["name"] for t in listing["tensors"]] == [t.name for t in model().main.tensors]
    assert (listing["ops"][21]["runs"], listing["ops"][20]["runs"]) == ("host", "device")
    first = listing["ops"][0]["parameters"]["layer"]["output"]["rescale"]
    assert (first["kind"], first["stages"]) == ("SHIFT", [{"drop": -1, "rounding": "HALF_UP"}])
    assert listing["golden"]["samples"] == 4


def test_fewer_samples_than_asked_for_are_taken_and_said() -> None:
    found = export(model(), TARGET, images()[:2])
    assert len(found.samples) == 2
    assert found.notes == ("4 samples were asked for, and the data hold 2",)


@pytest.mark.parametrize(("change", "sentence"), [({"samples": 0}, "at least 1"), ({"headers": "some"}, "auto, all, none")])
def test_an_argument_that_cannot_be_used_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        export(model(), TARGET, images(), **change)


def test_a_model_that_breaks_the_target_is_refused_with_a_sentence_for_each_breach() -> None:
    asymmetric = tf_requant.requantize(model_path(), "tflite_int8", corrections="none").model
    with pytest.raises(UnsupportedModelError) as refused:
        export(asymmetric, TARGET, images())
    lines = str(refused.value).splitlines()
    assert len(lines) > 20 and all("op " in line for line in lines)
    assert lines[0].startswith("the model is not legal for 'nna_sym8_pow2': re-express it with requantize first: op 0 (CONV_2D")


def test_a_model_of_which_nothing_runs_on_the_target_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="all its ops are left to the host, op 0 .* kept in uint8"):
        export(model_path(), TARGET, images())


def test_data_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CalibrationError):
        export(model(), TARGET, np.zeros((1, 7, 7, 3), np.float32))


def test_an_earlier_export_is_replaced_only_when_asked_and_other_files_never(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write(folder, {"program.nna": b"1"})
    with pytest.raises(UsageError, match="pass --overwrite"):
        write(folder, {"program.nna": b"2"})
    assert (folder / "program.nna").read_bytes() == b"1"
    write(folder, {"program.nna": b"2", "golden/golden.h": b"3"}, overwrite=True)
    assert (folder / "golden" / "golden.h").read_bytes() == b"3"
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="'thesis.tex', which no export wrote"):
        write(folder, {"program.nna": b"4"}, overwrite=True)
    assert (folder / "program.nna").read_bytes() == b"2"
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "nothing is left beside it"


def test_a_folder_that_cannot_be_written_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    write(folder, {"program.nna": b"1"})

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="No space left"):
        write(folder, {"program.nna": b"2"}, overwrite=True)
    assert (folder / "program.nna").read_bytes() == b"1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
