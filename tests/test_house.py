"""The papers of the house: versions agree, all that ships has a licence, cards tell the truth."""

import re
from pathlib import Path

import pytest
from safetensors import safe_open

import tenshot
from tenshot.data import load_images
from tenshot.models import EMBEDDED, embedded_sources

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir() and path.name != "web")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("pyproject.toml", r'^version = "(.+)"$'),
        ("CITATION.cff", r"^version: (.+)$"),
        ("CHANGELOG.md", r"^## \[(\d.*)\]"),
    ],
)
def test_versions_agree(name, pattern):
    found = re.search(pattern, text_of(name), re.MULTILINE)
    assert found and found[1] == tenshot.__version__, f"{name} names another version than tenshot.__version__"


def test_the_licence_is_complete_and_named_alike_everywhere():
    licence = text_of("LICENSE")
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence
    assert "9. Accepting Warranty or Additional Liability" in licence and "END OF TERMS AND CONDITIONS" in licence
    assert re.search(r'^license = "Apache-2.0', text_of("pyproject.toml"), re.MULTILINE)
    assert re.search(r"^license: Apache-2.0$", text_of("CITATION.cff"), re.MULTILINE)


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_ten_images_and_a_licence_that_intake_passes_over(folder):
    files = {path.name for path in folder.iterdir()}
    assert len(files) == 11 and "LICENSE.md" in files
    shots = load_images(folder, 64)
    assert files - {"LICENSE.md"} == set(shots.names) == {record.name for record in shots.records}
    assert not any(record.refused or record.warnings for record in shots.records)


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda path: path.name)
def test_an_example_names_title_author_source_licence_and_changes(folder):
    licence = (folder / "LICENSE.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w[\w ]*) \| (.+) \|$", licence, re.MULTILINE))
    assert {"Title", "Author", "Source", "Licence"} <= rows.keys()
    assert re.search(r"\]\(\S+\)", rows["Licence"]), "the licence has no link"
    assert "**Changed:**" in licence
    assert f"examples/{folder.name} " in text_of("NOTICE"), "NOTICE does not name it"
    assert f"({folder.name}/LICENSE.md)" in text_of("examples/README.md"), "examples/README.md does not name it"


@pytest.mark.parametrize("name", embedded_sources())
def test_an_embedded_source_has_a_card_a_notice_and_true_numbers(name):
    card = (EMBEDDED / f"{name}.md").read_text(encoding="utf-8")
    assert f"src/tenshot/sources/{name}.safetensors" in text_of("NOTICE"), "NOTICE does not name its file"
    for heading in ("## How it was made", "## Intended use", "## Known weaknesses", "## Licence"):
        assert heading in card
    with safe_open(EMBEDDED / f"{name}.safetensors", framework="pt") as file:
        sizes = {key: file.get_tensor(key).numel() for key in file.keys()}  # noqa: SIM118, not a dict

    def count(prefix):
        return sum(n for key, n in sizes.items() if key.startswith(prefix) and not re.search(r"gate$|latent_avg$", key))

    for part, prefix in (
        ("generator", "generator."),
        ("mapping", "generator.style."),
        ("discriminator", "discriminator."),
    ):
        assert f"{count(prefix):,}" in card, f"the card's number of parameters is not that of the file: {part}"
    spec = tenshot.load(name).generator.spec
    assert f"| {spec.resolution} x {spec.resolution} px" in card
    assert f"| {', '.join(map(str, spec.channels))} at " in card


def test_contributing_names_only_targets_that_the_makefile_has():
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    named = set(re.findall(r"^make (\w+)", text_of("CONTRIBUTING.md"), re.MULTILINE))
    assert named == {"test", "check", "format", "demo"} and named <= targets
