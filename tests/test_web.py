"""The example page, in a real browser: its images are torch's, its faults are sentences, it stays on its server."""

import shutil
from pathlib import Path

import pytest
import torch

import browser
import tiny
from tenshot.onnx_export import OnnxPlan, export_onnx
from tenshot.randomness import generator_for
from tenshot.sampling import latents, to_uint8

WEB = Path(__file__).parents[1] / "examples" / "web"
FILES = ("index.html", "style.css", "app.js", "model.js", "latents.js")

pytestmark = [
    pytest.mark.skipif(bool(browser.missing()), reason=f"not installed: {', '.join(browser.missing())}"),
    pytest.mark.skipif(
        not (WEB / "vendor").is_dir(), reason="examples/web/vendor is missing: npm ci && npm run build in examples/web"
    ),
]


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_model(32, (12, 10, 8, 8))


@pytest.fixture(scope="module")
def site(model, tmp_path_factory):
    """The page's folder with a model in it."""
    folder = tmp_path_factory.mktemp("site")
    for name in FILES:
        shutil.copy(WEB / name, folder / name)
    (folder / "vendor").symlink_to(WEB / "vendor")
    export_onnx(model, folder / "models" / "model.onnx", OnnxPlan(noise=2))
    return folder


@pytest.fixture(scope="module")
def address(site):
    with browser.served(site) as found:
        yield found


@pytest.fixture(scope="module")
def page():
    with browser.browser(390, 844) as found:
        yield found


def shown(page, seeds, position, truncation):
    """The picture's pixels, uint8 `[3 32 32]`, once it is the one asked for."""
    wanted = f"{seeds} {position:g} {truncation:g}"
    page.wait("return document.getElementById('picture').dataset.shown === arguments[0]", wanted)
    read = "const c = document.getElementById('picture');"
    read += "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    return torch.tensor(page.run(read), dtype=torch.uint8).view(32, 32, 4)[..., :3].permute(2, 0, 1)


def move(page, name, value):
    page.run(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))",
        name,
        str(value),
    )


def ask_for(page, seeds):
    page.run("document.getElementById('seeds').value = arguments[0]", seeds)
    page.run("document.querySelector('[type=submit]').click()")


@torch.no_grad()
def expected(model, z, truncation):
    """torch's image of one latent with the noise of seed 2, uint8 `[3 32 32]`."""
    generator = model.generator
    w = generator.truncate(generator.map(z[None]), truncation)
    return to_uint8(generator.synthesise(generator.spread(w), generator.draw_noise(1, generator_for(2, "noise"))))[0]


def differ(a, b):
    return int((a.int() - b.int()).abs().max())


def test_the_page_shows_torchs_images_of_the_seeds_and_of_what_lies_between(page, address, model):
    page.open(address)
    keys = latents(range(6), 16)
    first = shown(page, "0,1,2,3,4,5", 0, 0.8)
    assert differ(first, expected(model, keys[0], 0.8)) <= 2

    move(page, "position", 3)
    assert differ(third := shown(page, "0,1,2,3,4,5", 3, 0.8), expected(model, keys[3], 0.8)) <= 2
    assert differ(first, third) > 20

    move(page, "truncation", 0.35)
    assert differ(shown(page, "0,1,2,3,4,5", 3, 0.35), expected(model, keys[3], 0.35)) <= 2

    move(page, "position", 1.5)  # halfway, a Catmull-Rom spline is (-1 9 9 -1) / 16 of the four around
    between = (9 * (keys[1] + keys[2]) - keys[0] - keys[3]) / 16
    assert differ(shown(page, "0,1,2,3,4,5", 1.5, 0.35), expected(model, between, 0.35)) <= 2


def test_other_seeds_are_tenshots_seeds(page, address, model):
    page.open(address)
    shown(page, "0,1,2,3,4,5", 0, 0.8)
    ask_for(page, "12, 345678901")
    shown(page, "12,345678901", 0, 0.8)
    move(page, "position", 1)
    assert differ(shown(page, "12,345678901", 1, 0.8), expected(model, latents([345678901], 16)[0], 0.8)) <= 2


def test_play_moves_the_slider_and_pause_holds_it(page, address):
    page.open(address)
    shown(page, "0,1,2,3,4,5", 0, 0.8)
    where = "return Number(document.getElementById('position').value)"
    page.run("document.getElementById('play').click()")
    page.wait(f"{where} > 0.2")
    page.run("document.getElementById('play').click()")
    held = page.run(where)
    assert page.run(f"await new Promise((done) => setTimeout(done, 200)); {where}") == held


def test_on_a_phone_nothing_is_wider_than_the_screen_and_every_control_has_a_name(page, address):
    page.open(address)
    shown(page, "0,1,2,3,4,5", 0, 0.8)
    assert page.run("return document.documentElement.scrollWidth <= innerWidth && innerWidth === 390")
    nameless = page.run(
        "return [...document.querySelectorAll('input, button')]"
        ".filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert nameless == []


def test_the_page_loads_everything_from_its_own_server(page, address):
    page.open(address)
    shown(page, "0,1,2,3,4,5", 0, 0.8)
    names = page.run("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert any(name.endswith(".wasm") for name in names)
    assert [name for name in names if not name.startswith((f"{address}/", "data:", f"blob:{address}/"))] == []


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("?model=models/none.onnx", "There is no model at models/none.onnx. Make one with"),
        ("?model=style.css", "style.css cannot be opened as an ONNX model"),
        ("?model=http://127.0.0.2/m.onnx", "lies on another server"),
    ],
)
def test_a_model_that_is_not_there_is_a_sentence(page, address, query, sentence):
    page.open(f"{address}/{query}")
    page.wait("return document.body.dataset.state === 'error'")
    assert sentence in page.run("return document.getElementById('message').textContent")


def test_seeds_that_are_no_numbers_are_a_sentence_and_the_picture_stays(page, address):
    page.open(address)
    before = shown(page, "0,1,2,3,4,5", 0, 0.8)
    ask_for(page, "robots")
    assert "Write 2 to 8 whole numbers" in page.run("return document.getElementById('fault').textContent")
    assert differ(shown(page, "0,1,2,3,4,5", 0, 0.8), before) == 0


def test_without_the_vendored_runtime_the_way_out_is_told(page, site, tmp_path):
    for name in FILES:
        shutil.copy(site / name, tmp_path / name)
    shutil.copytree(site / "models", tmp_path / "models")
    with browser.served(tmp_path) as bare:
        page.open(bare)
        page.wait("return document.body.dataset.state === 'error'")
        assert 'run "npm ci" and "npm run build"' in page.run("return document.getElementById('message').textContent")


def test_opened_as_a_file_the_page_says_that_it_needs_a_server(page, site):
    page.open((site / "index.html").as_uri())
    page.wait("return getComputedStyle(document.getElementById('message')).visibility === 'visible'", seconds=20)
    told = page.run("return document.getElementById('message').innerText")
    assert "needs JavaScript and a web server" in " ".join(told.split())
    assert page.run("return document.getElementById('controls').disabled")
