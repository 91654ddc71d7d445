"""What requests cost: prices by modality, length and date, and what is not known."""

from __future__ import annotations

import pytest

from agm.config.prices import shipped
from agm.core.money import HALF, Price, Prices, dollars, is_free, tier_of
from agm.core.wire.usage import Usage

PRICE = Price(
    input=1.0, output=10.0, cached=0.1, audio_input=2.0, audio_cached=0.2, audio_output=20.0, image_output=30.0
)
NOW = 1_796_000_000.0


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(prompt=1_000_000), 1.0),
        (Usage(prompt=1_000_000, cached=400_000), 0.6 + 0.04),
        (Usage(output=500_000, thoughts=500_000), 10.0),
        (Usage(tool=1_000_000), 1.0),
        (Usage(prompt=1_000_000, modalities=(("prompt", "AUDIO", 250_000),)), 0.75 + 0.5),
        (
            Usage(
                prompt=1_000_000,
                cached=300_000,
                modalities=(("prompt", "AUDIO", 500_000), ("cached", "AUDIO", 100_000)),
            ),
            # 400k of audio and 300k of text are read anew, 100k of audio and 200k of text come from the cache
            0.8 + 0.3 + 0.02 + 0.02,
        ),
        (Usage(output=1_000_000, modalities=(("output", "IMAGE", 900_000),)), 27.0 + 1.0),
        (Usage(output=1_000_000, modalities=(("output", "AUDIO", 1_000_000),)), 20.0),
        (Usage(prompt=1_000_000, modalities=(("prompt", "VIDEO", 900_000),)), 1.0),
        (Usage(), 0.0),
    ],
)
def test_a_request_costs_its_tokens_by_their_kind(usage: Usage, cost: float) -> None:
    """Cached tokens are part of the prompt, thoughts are paid for as output, and tools' tokens as input."""
    assert PRICE.of(usage) == pytest.approx(cost)


def test_a_price_that_is_not_known_makes_no_cost_and_never_zero() -> None:
    """Only a request that takes it is concerned."""
    price = Price(input=1.0, output=1.0)
    assert price.of(Usage(prompt=10, output=10)) == pytest.approx(20 / 1e6)
    assert price.of(Usage(prompt=10, cached=1)) is None
    assert price.of(Usage(prompt=10, modalities=(("prompt", "AUDIO", 1),))) is None
    assert price.of(Usage(output=10, modalities=(("output", "IMAGE", 1),))) is None
    assert price.of(Usage(images=1)) is None
    assert Price(image=0.04).of(Usage(images=3)) == pytest.approx(0.12)


def test_a_long_prompt_has_prices_of_its_own() -> None:
    """All of a request has them, as soon as its prompt is longer."""
    price = Price(input=1.0, output=2.0, cached=0.5, long_above=200_000, long_input=2.0, long_output=3.0)
    assert price.of(Usage(prompt=200_000, output=100_000)) == pytest.approx(0.2 + 0.2)
    assert price.of(Usage(prompt=200_001, output=100_000)) == pytest.approx(0.400002 + 0.3)
    assert price.of(Usage(prompt=300_000, cached=300_000)) == pytest.approx(0.15)


def test_a_persons_price_stands_before_the_one_that_ships() -> None:
    """By the model's name first, then by the most specific pattern; what they leave out costs what text does."""
    prices = Prices(shipped(), {"gemini-2.5-*": Price.plain(input=7.0, output=8.0), "tuned": Price.plain(input=1.0)})
    usage = Usage(prompt=1_000_000, cached=500_000, modalities=(("prompt", "AUDIO", 100_000),))
    assert prices.cost("generateContent", "gemini-2.5-flash", usage, NOW) == pytest.approx(7.0)
    assert prices.cost("generateContent", "gemini-2.0-flash", Usage(prompt=1_000_000), NOW) == pytest.approx(0.1)
    assert prices.cost("generateContent", "tuned", Usage(prompt=10, output=1), NOW) is None
    assert prices.cost("generateContent", "nobody-knows", Usage(prompt=10), NOW) is None


def test_a_price_holds_from_its_date_on() -> None:
    """A request costs what it cost on its day."""
    prices = Prices(shipped())
    million = Usage(prompt=1_000_000)
    december, january = 1_798_700_000.0, 1_798_800_000.0
    assert prices.cost("generateContent", "gemini-3.8-flash", million, december) == pytest.approx(0.75)
    assert prices.cost("generateContent", "gemini-3.8-flash", million, january) == pytest.approx(1.5)


def test_what_may_wait_costs_half_and_other_tiers_are_not_known() -> None:
    """As the request asks, or as Vertex AI says that it was."""
    prices = Prices(shipped())
    million = Usage(prompt=1_000_000)
    flex = tier_of(b'{"contents": [], "serviceTier": "flex"}')
    assert prices.cost("generateContent", "gemini-2.5-flash", million, NOW, flex) == pytest.approx(0.3 * HALF)
    told = Usage(prompt=1_000_000, tier="ON_DEMAND_FLEX")
    assert prices.cost("generateContent", "gemini-2.5-flash", told, NOW) == pytest.approx(0.3 * HALF)
    for other in (tier_of(b'{"service_tier":"priority"}'), "PROVISIONED_THROUGHPUT"):
        assert prices.cost("generateContent", "gemini-2.5-flash", million, NOW, other) is None
    assert tier_of(b'{"contents": [{"parts": [{"text": "\\"serviceTier\\": \\"flex\\""}]}]}') == ""
    assert tier_of(b'{"contents": "' + b"x" * 200_000 + b'", "serviceTier": "flex"}') == "flex"


def test_what_google_asks_nothing_for_is_zero_and_the_rest_is_unknown() -> None:
    """A count of tokens is free, and so is a look at a file; an answer that told of no tokens is not."""
    prices = Prices(shipped())
    assert prices.cost("countTokens", "gemini-2.5-flash", None, NOW) == 0.0
    assert prices.cost("files.get", "", None, NOW) == 0.0
    assert prices.cost("generateContent", "gemini-2.5-flash", None, NOW) is None
    assert prices.cost("predictLongRunning", "veo", None, NOW) is None
    for free in ("files.create", "batches.cancel", "vertex.computeTokens", "auth_tokens.create", "openai.files.create"):
        assert is_free(free)
    for paid in ("cachedContents.create", "batchGenerateContent", "fileSearchStores.upload", "openai.batches.create"):
        assert not is_free(paid)


def test_every_price_that_ships_is_a_price() -> None:
    """The table is read, each model has an input or an image's price, and none is 0."""
    table = shipped()
    assert "gemini-2.5-pro" in table
    for model, dated in table.items():
        assert [since for since, _ in dated] == sorted(since for since, _ in dated), model
        for _, price in dated:
            assert price.input or price.image, model
            assert 0 not in (price.input, price.output, price.cached, price.image), model


@pytest.mark.parametrize(
    ("amount", "text"), [(0.0, "$0.00"), (0.0000123, "$0.000012"), (0.05, "$0.05"), (1234.5, "$1,234.50")]
)
def test_amounts_are_told_in_cents_or_as_fine_as_they_need(amount: float, text: str) -> None:
    """A request costs less than a cent, and a team's month thousands of dollars."""
    assert dollars(amount) == text
