"""The report's page: whole, self-contained, accessible, and true to the files that it is made from."""

from __future__ import annotations

import base64
import dataclasses
import importlib.resources
import io
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest
from PIL import Image
from report_case import STEP, Page, make_workdir, without_measures
from test_robustness_results import degraded, diagnostics
from tiny_run import make_run

from dis2_jax.cli.main import main
from dis2_jax.evaluation.pictures.palette import readable
from dis2_jax.evaluation.report import inputs as report_inputs
from dis2_jax.evaluation.report.build import ReportOptions, build_report
from dis2_jax.evaluation.report.drawing.style import printable
from dis2_jax.evaluation.results import Evaluation
from dis2_jax.evaluation.run import Report

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(2)>",
    r"$\frac{1}{0}$ & {{ 7*7 }}",
    "路 \x01\n</svg>",
    "ordinary",
)


def build(workdir, **options):
    return build_report(workdir, ReportOptions(**{"tiles": 0, **options}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A report with every result but tiles: (evaluation, what was built, page text)."""
    workdir = tmp_path_factory.mktemp("report") / "run"
    evaluation = make_workdir(workdir)
    (workdir / "evaluation" / "diagnostics.json").write_text(diagnostics(step=STEP).to_json())
    (workdir / "evaluation" / "degraded.json").write_text(degraded(step=STEP, checkpoint="best").to_json())
    built = build(workdir)
    return evaluation, built, built.page.read_text()


def check_page(text):
    """What holds for every page."""
    page = Page(text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    local = [v[1:] for a in ("href", "xlink:href") for v in page.values(a) if v.startswith("#")]
    local += re.findall(r"url\(#([^)]+)\)", text)
    assert local
    assert set(local) <= set(ids), "a link or a clip path leads nowhere"
    links = [v for a in ("src", "href", "xlink:href", "srcset", "data", "action") for v in page.values(a)]
    assert all(v.startswith(("#", "data:")) for v in links)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert page.count("script") == 0
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert all(a.get("alt") for t, a in page.elements if t == "img")
    assert all(a.get("aria-label") for _, a in page.elements if a.get("role") == "img")
    assert page.count("svg") == sum(a.get("role") == "img" for _, a in page.elements)
    assert all("scope" in a for t, a in page.elements if t == "th")
    return page


def test_page_is_whole_and_self_contained(whole):
    _, built, text = whole
    page = check_page(text)
    assert not [m for m in built.missing if not m.startswith(("Tiles", "Code"))]
    titles = [a["href"] for t, a in page.elements if t == "a"]
    assert titles[:3] == ["#summary", "#scores", "#confusion"]
    assert len(titles) == page.count("section") == 11
    # 2 of scores, 3 confusion, 3 calibration, 3 compensation, 1 degraded, 3 training; gaps is one of the scores
    assert page.count("svg") >= 14


def test_numbers_are_those_of_the_evaluation(whole):
    evaluation, built, text = whole
    stored = json.loads((built.page.parent / "evaluation" / "evaluation.json").read_text())
    page = Page(text)

    def shown(value):
        return "–" if value is None else f"{value:.3f}"

    for caption, key in (("IoU", "iou"), ("F1", "f1"), ("Precision", "precision"), ("Recall", "recall")):
        head, *rows = page.tables[f"{caption} per class"]
        assert head[1:] == list(evaluation.classes)
        wanted = [[s["name"], *(shown(c[key]) for c in s["classes"])] for s in stored["scenarios"]]
        assert rows == wanted
    head, *rows = page.tables["Every scenario"]
    for row, s in zip(rows, stored["scenarios"], strict=True):
        cells = dict(zip(head, row, strict=True))
        assert cells["mIoU"] == shown(s["miou"])
        assert cells["95 % interval"] == "{:.3f} to {:.3f}".format(*s["intervals"]["miou"])
        assert cells["gap"] == ("–" if s["kind"] == "full" else shown(s["gap_to_full"]))
        assert cells["mIoU, eroded"] == shown(s["eroded"]["miou"])
        assert cells["boundary F1"] == shown(s["boundary"]["mean_f1"])
        assert cells["ECE"] == shown(s["calibration"]["ece"])
    marked = [row[0] for row in rows if row[0].endswith(" worst")]
    assert marked == [f"{stored['worst_scenario']} worst"]
    for s in stored["scenarios"]:  # every cell of the matrices tells its pixels
        if s["kind"] != "baseline":
            total = sum(s["confusion"][0])
            assert f"ground predicted as building: {s['confusion'][0][1]:,} of {total:,} px" in page.text


def test_hostile_names_are_only_text(tmp_path):
    make_workdir(tmp_path / "<i>run</i>", classes=HOSTILE)
    built = build(tmp_path / "<i>run</i>")
    page = check_page(built.page.read_text())
    names = [printable(n) for n in HOSTILE]
    assert page.tables["IoU per class"][0][1:] == names
    assert page.count("i") == 3, "bars of intervals; none from the folder's name"
    assert page.count("b") == 0
    assert "<b>towns</b>" in page.text
    for path in built.figures.glob("*.svg"):
        ET.parse(path)
    labels = (built.figures / "scores.svg").read_text()
    assert r"$\frac" in labels, "drawn as it is, not as a formula"


def test_figures_are_files_too(whole):
    _, built, text = whole
    index = json.loads((built.figures / "index.json").read_text())["figures"]
    assert {f"figure-{f['name']}" for f in index} <= set(Page(text).values("id"))
    files = {f for entry in index for f in entry["files"]}
    assert {p.name for p in built.figures.iterdir()} == {*files, "index.json"}
    for name in files:
        if name.endswith(".svg"):
            root = ET.parse(built.figures / name).getroot()
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert root.get("width"), "opens at a size"
        else:
            with Image.open(built.figures / name) as image:
                assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert all(entry["alt"] for entry in index)


def test_colours_follow_the_theme(whole):
    _, _, text = whole
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--ink)" in drawn
    assert "var(--s1)" in drawn
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", text)) - {"--width", "--s"}
    defined = re.findall(r"(--[a-z0-9]+): *[#s]", text)
    assert used <= set(defined)
    dark = text[text.index("prefers-color-scheme: dark") :]
    assert {n for n in used if n != "--font"} <= set(re.findall(r"(--[a-z0-9]+): *#", dark))


def test_missing_pieces_cost_a_line_each(tmp_path):
    workdir = tmp_path / "run"
    evaluation = make_workdir(workdir)
    (workdir / "metrics.jsonl").unlink()
    (workdir / "evaluation" / "tiles.csv").unlink()
    (workdir / "evaluation" / "evaluation.json").write_text(without_measures(evaluation).to_json())
    (workdir / "evaluation" / "degraded.json").write_text("{}")
    (workdir / "evaluation" / "diagnostics.json").write_text(diagnostics(step=STEP - 1).to_json())
    built = build(workdir, tiles=1)
    page = check_page(built.page.read_text())
    told = dict(line.split(": ", 1) for line in built.missing)
    assert set(told) == {
        "Scores", "Tiles", "Calibration", "Compensation", "Degraded inputs", "Training", "Code, hardware, cost",
    }  # fmt: skip
    assert "is of step 11, this report of step 12" in told["Compensation"]
    assert "not results of degraded inputs" in told["Degraded inputs"]
    for section, command in (
        ("Tiles", "evaluate"),
        ("Calibration", "evaluate"),
        ("Compensation", "diagnose"),
        ("Degraded inputs", "degrade"),
        ("Training", "train"),
    ):
        assert told[section].endswith(f"(dis2 {command} --workdir {workdir})")
        assert f"dis2 {command} --workdir {workdir}" in page.text
    assert "95 % interval" not in page.text


def test_damaged_tiles_are_not_shown(tmp_path):
    make_workdir(tmp_path / "run")
    path = tmp_path / "run" / "evaluation" / "tiles.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")  # a baseline's: not needed
    assert "add up" not in str(build(tmp_path / "run", tiles=1).missing)
    path.write_text("\n".join(path.read_text().splitlines()[:4]) + "\n")
    told = [m for m in build(tmp_path / "run", tiles=1).missing if m.startswith("Tiles")]
    assert "does not add up to the evaluation (scenario rgb+ndsm)" in told[0]


@pytest.mark.parametrize("why", ["missing", "damaged", "other step", "older"])
def test_evaluates_unless_it_is_of_the_same_checkpoint(tmp_path, monkeypatch, why):
    workdir = tmp_path / "run"
    evaluation = make_workdir(workdir)
    path = workdir / "evaluation" / "evaluation.json"
    good = path.read_text()
    metadata = workdir / "checkpoints" / str(STEP) / "_CHECKPOINT_METADATA"
    metadata.write_text(json.dumps({"commit_timestamp_nsecs": 1_700_000_000 * 10**9}))
    asked, said = [], []

    def evaluate(folder, options, *, on_batch):
        asked.append((options.split, options.checkpoint))
        path.write_text(good)
        return Report(evaluation, (path,))

    monkeypatch.setattr(report_inputs, "evaluate_workdir", evaluate)
    report_inputs.read_inputs(workdir, say=said.append)
    assert (asked, said) == ([], [f"reused {path} (step 12)"])
    if why == "missing":
        path.unlink()
    elif why == "damaged":
        path.write_text("{")
    elif why == "other step":
        path.write_text(good.replace('"step": 12', '"step": 6'))
    else:
        os.utime(path, (1_600_000_000,) * 2)
    found = report_inputs.read_inputs(workdir, say=said.append)
    assert asked == [("test", "best")]
    assert found.evaluation == evaluation
    assert "evaluated for this report" in found.origin
    words = {"missing": "is not there", "damaged": "not an evaluation", "other step": "is of step 6"}
    assert words.get(why, "is older than checkpoint 12") in said[1]


def test_figures_of_an_older_report_go_and_foreign_files_stay(tmp_path):
    workdir = tmp_path / "run"
    make_workdir(workdir)
    (workdir / "evaluation" / "diagnostics.json").write_text(diagnostics(step=STEP).to_json())
    first = build(workdir, out=str(tmp_path / "out" / "page.html"))
    assert (first.page, first.figures) == (tmp_path / "out/page.html", tmp_path / "out/page_figures")
    assert (first.figures / "class-falls.svg").is_file()
    (first.figures / "notes.png").write_text("mine")
    (workdir / "evaluation" / "diagnostics.json").unlink()
    again = build(workdir, out=str(first.page))
    assert not (again.figures / "class-falls.svg").exists()
    assert (again.figures / "notes.png").read_text() == "mine"
    assert not list(again.page.parent.rglob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "page.txt"], "--out page.txt: name a file that ends in .html"),
        (["--tiles", "-1"], "--tiles -1: it must be at least 0"),
        (["--split", "tets"], "no split 'tets' (did you mean 'test'?)"),
        (["--checkpoint", "7"], "has no step 7"),
        (["--checkpoint", "newest"], "--checkpoint 'newest': write best, last or a step"),
        (["--tiels", "3"], "unknown argument '--tiels' (did you mean '--tiles'?)"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, capsys, arguments, message):
    make_workdir(tmp_path / "run")
    assert main(["report", "--workdir", str(tmp_path / "run"), *arguments]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert err[-1].startswith("dis2: error: ")
    assert message in err[-1]
    assert not (tmp_path / "run" / "report.html").exists()


def test_places_that_cannot_be(tmp_path, capsys):
    assert main(["report", "--workdir", str(tmp_path / "none")]) == 2
    assert "is not a training workdir" in capsys.readouterr().err
    make_workdir(tmp_path / "run")
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "page.html")
    assert main(["report", "--workdir", str(tmp_path / "run"), "--tiles", "0", "--out", out]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_command_from_a_checkpoint_to_a_page(mini_dataset, mini_card, tmp_path, capsys):
    """Evaluates, shows tiles with maps and attention; a second time the evaluation is reused."""
    workdir = tmp_path / "run"
    alike = ((255, 255, 255), (0, 255, 255), (0, 0, 255))  # the first two are 8 apart in protanopia
    legend = dataclasses.replace(mini_card.legend, colors=alike)
    card = dataclasses.replace(mini_card, legend=legend)
    dataset = shutil.copytree(mini_dataset, tmp_path / "data")
    (dataset / "dataset_card.json").write_text(card.to_json())
    make_run(workdir, card=card, dataset=dataset, step=STEP, eval_batch_size=2, panels=0)
    assert main(["report", "--workdir", str(workdir), "--tiles", "1"]) == 0
    out, err = capsys.readouterr()
    assert "evaluation.json is not there; evaluating step 12 on test" in err
    assert out.splitlines()[-1] == f"report   {workdir / 'report.html'}"
    page = check_page((workdir / "report.html").read_text())
    found = Evaluation.load(workdir / "evaluation" / "evaluation.json")
    assert f"{found.mean_miou:.3f}" in page.text
    articles = [a["id"] for t, a in page.elements if t == "article"]
    assert articles == ["figure-tile-best-1", "figure-tile-typical-1", "figure-tile-worst-1"]
    alts = page.values("alt")
    assert sum(a.startswith("Map, ") for a in alts) == 9
    assert sum(a.startswith("Attention of class") for a in alts) == 3 * 3 * 3
    assert (workdir / "report_figures" / "tile-best-1.png").is_file()
    allowed = {*readable(legend).colors}
    assert (0, 255, 255) not in allowed
    pictures = [a["src"] for t, a in page.elements if t == "img" and a["alt"].startswith("Map, ")]
    for source in pictures:
        picture = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB")
        assert {color for _, color in picture.getcolors(2**20)} <= allowed

    assert main(["report", "--workdir", str(workdir), "--tiles", "0"]) == 0
    assert "reused" in capsys.readouterr().err
    assert not (workdir / "report_figures" / "tile-best-1.png").exists()

    (dataset / "dataset_card.json").write_text(mini_card.to_json())  # other colours since
    (workdir / "evaluation" / "evaluation.json").unlink()
    assert main(["report", "--workdir", str(workdir), "--tiles", "0"]) == 0
    other = workdir / "evaluation" / "evaluation-data.json"
    assert Evaluation.load(other).scenarios == found.scenarios
    assert f"into {other}" in (workdir / "report.html").read_text()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
]


def browse(page, tmp_path, *flags):
    """Load a page in Chromium: (the document after loading, lines of its console)."""
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *FLAGS, profile, *flags, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def measured(text, what, tmp_path, *, width):
    """Numbers that a JavaScript expression gives in a page shown ``width`` pixels wide."""
    probe = f"<script>document.title = {what}.join(' ')</script></body>"
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<!doctype html><iframe id="f" style="border:0;width:{width}px;height:800px" srcdoc="'
        + text.replace("</body>", probe).replace("&", "&amp;").replace('"', "&quot;")
        + '"></iframe><script>document.getElementById("f").onload = () => {'
        "document.title = document.getElementById('f').contentDocument.title }</script>"
    )
    document, _ = browse(frame, tmp_path, "--virtual-time-budget=5000")
    seen = re.search(r"<title>([\d ]+)</title>", document)
    assert seen, document[:300]
    return [int(n) for n in seen[1].split()]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_has_nothing_to_complain_about(whole, tmp_path):
    _, built, text = whole
    bad = tmp_path / "bad.html"
    bad.write_text("<script>nothing.there()</script>")
    assert browse(bad, tmp_path)[1], "complaints would be seen"

    document, complaints = browse(built.page, tmp_path)
    assert complaints == []
    assert document.count("<svg") == text.count("<svg")
    assert document.rstrip().endswith("</html>")

    # The page holds no script; this one measures a copy of it on a narrow screen.
    inner, whole_width = measured(
        text, "[innerWidth, document.documentElement.scrollWidth]", tmp_path, width=360
    )
    assert inner == 360
    assert whole_width <= 360, "the page is wider than a phone"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [360, 500, 570])
def test_pictures_fill_their_rows_on_narrow_screens(tmp_path, width):
    """Three maps beside each other, four pictures of attention: as many as fit in whole rows."""
    css = (importlib.resources.files("dis2_jax.evaluation.report") / "templates/style.css").read_text()

    def row(kind, count):
        return (
            f'<div class="{kind}"><h4>x</h4><div class="pictures">{"<figure>x</figure>" * count}</div></div>'
        )

    tile = f'<div class="tile"><div class="rows">{row("row", 3)}{row("row small-row", 4)}</div></div>'
    page = f"<!doctype html><html><head><style>{css}</style></head><body>{tile}</body></html>"
    tops = "[...document.querySelectorAll('figure')].map(f => Math.round(f.getBoundingClientRect().top))"
    found = measured(page, tops, tmp_path, width=width)
    assert found[:3] == found[:1] * 3
    assert found[3:] == found[3:4] * 4
