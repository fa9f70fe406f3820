"""The summary: every job a cell, a picture of what constraints cost, and figures that are those of the records."""

import json
import re
from pathlib import Path

from tests.batch.jobs import by_hand, images, nets, prepared, written
from tf_requant.batch.pareto import front, picture, tightness
from tf_requant.batch.summary import COLUMNS, Summary, _named, summarize
from tf_requant.batch.summary_page import MOST_MODELS, render
from tf_requant.targets import load_target


def test_the_order_of_targets_is_from_the_freest_to_the_tightest():
    names = ("tflite_int16x8", "tflite_int8", "tflite_int8_per_tensor", "nna_sym8", "nna_sym8_pow2")
    order = [tightness(load_target(name)) for name in names]
    assert order == sorted(order) and len(set(order)) == len(order)


def test_the_front_holds_what_nothing_else_beats():
    assert front([(0, 0.9), (1, 0.99), (2, 0.95), (2, 0.97)]) == [1, 3]
    assert front([(1, 0.9), (1, 0.9)]) == [0, 1]


def test_models_of_one_name_are_told_apart_by_their_folders():
    assert _named({"/a/x/m.tflite", "/a/y/m.tflite", "/a/n.tflite"}) == {
        "/a/x/m.tflite": "x/m.tflite", "/a/y/m.tflite": "y/m.tflite", "/a/n.tflite": "n.tflite"
    }  # fmt: skip


def test_a_job_without_a_record_shows_as_lost(tmp_path):
    images(tmp_path, "data.npz", 4, 0)
    line = {"model": nets(tmp_path, 1)[0], "targets": ["nna_sym8", "ethos_u"], "data": "data.npz"}
    work, jobs, offsets = prepared(tmp_path / "out", written(tmp_path, line))
    (record,) = by_hand(work, jobs[:1], offsets[:1])
    summary = summarize(work, jobs, 1.0)
    assert [row["verdict"] for row in summary.rows] == ["pass", "lost"] and not summary.passed
    assert summary.rows[0]["agreement"] == record["quality"]["agreement"]
    summary.save(tmp_path / "out")
    assert json.loads((tmp_path / "out/summary.json").read_text())["counts"]["lost"] == 1
    page = (tmp_path / "out/summary.html").read_text()
    assert f'data-value="{record["quality"]["agreement"]}"' in page and "✗ lost" in page
    assert render(summary.to_dict()) == page


def test_a_name_with_markup_stays_text(tmp_path):
    row = dict.fromkeys(COLUMNS) | {
        "model": "<b>m</b>", "target": "nna_sym8", "verdict": "failed", "status": "failed", "sentence": "<script>", "line": 1
    }  # fmt: skip
    page = render(Summary((row,), 0.0).to_dict())
    assert "<b>m" not in page and "<script>" not in page


def test_of_very_many_models_the_page_shows_the_worst(tmp_path):
    rows = tuple(
        dict.fromkeys(COLUMNS) | {
            "model": f"m{n}", "target": "nna_sym8", "verdict": "failed" if n == 900 else "pass", "status": "done", "agreement": 0.9,
            "agreement_low": 0.8, "agreement_high": 1.0, "samples": 9, "sentence": "why", "line": n,
        }
        for n in range(1000)
    )  # fmt: skip
    page = render(Summary(rows, 0.0).to_dict())
    assert ">m900<" in page and page.count('<th scope="row">') == MOST_MODELS and "600 more models" in page


def test_a_cell_that_did_not_pass_leads_to_its_sentence(tmp_path):
    cell = dict.fromkeys(COLUMNS) | {"model": "a_b.tflite", "target": "nna_sym8", "verdict": "pass", "status": "done", "line": 1, "id": "x"}
    missed = cell | {"verdict": "missed", "sentence": "too coarse", "line": 2, "id": "y"}
    page = render(Summary((cell, missed), 0.0).to_dict())
    assert '<a href="#job-y">why</a>' in page and page.count("#job-") == 1
    assert '<li id="job-y">line 2, a_b.tflite for nna_sym8: too coarse</li>' in page
    assert '<strong class="pass">' in page and '<strong class="missed">' in page and "a_<wbr>b.<wbr>tflite</th>" in page


def test_the_picture_follows_the_page_s_colours_and_is_drawn_for_narrow_screens_too():
    drawn = picture([{"model": "m", "target": t, "agreement": a} for t, a in (("nna_sym8", 0.9), ("tflite_int8", 0.8))])
    assert drawn.count("<svg ") == 2 and 'class="wide"' in drawn and 'class="narrow"' in drawn
    assert "#ffffff" not in drawn.replace("fill: #ffffff; opacity: 0", "") and "#01010" not in drawn
    names = re.findall(r' id="([^"]*)"', drawn)
    assert len(names) == len(set(names)) and set(re.findall(r'href="#([^"]*)"', drawn)) <= set(names)


def test_the_picture_is_drawn_only_of_what_was_measured(tmp_path: Path):
    row = {"model": "m", "target": "nna_sym8", "agreement": None}
    assert picture([row]) == "" and picture([row | {"agreement": 0.9}]).startswith("<svg")
