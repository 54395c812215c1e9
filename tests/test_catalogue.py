"""Sources: what is embedded loads and says its licence; what is official is told with an address."""

from tenshot.__main__ import main
from tenshot.catalogue import OFFICIAL, embedded
from tenshot.models import load_model


def test_every_embedded_source_has_a_card_a_licence_a_discriminator_and_a_size_below_20_mb():
    sources = embedded()
    assert "faces64" in [source.name for source in sources]
    for source in sources:
        assert source.card.is_file() and source.licence != "see the card" and source.what != "see the card"
        assert source.megabytes < 20
        assert load_model(source.name).discriminator is not None


def test_official_sources_are_told_once_with_licence_and_address():
    assert len({source.name for source in OFFICIAL}) == len(OFFICIAL)
    for source in OFFICIAL:
        assert source.licence and source.resolution in (256, 512, 1024)
        assert source.where.startswith("https://") or "convert_weight.py" in source.where


def test_the_verb_names_them_all(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["sources"]) == 0
    said = capsys.readouterr().out
    assert "faces64" in said and "research and evaluation only" in said
    assert all(source.name in said for source in OFFICIAL)
