"""Reads `/metrics` as Prometheus does."""

from __future__ import annotations

import aiohttp
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


class Scraped:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples: list[Sample] = [
            sample for family in self.families.values() for sample in family.samples
        ]

    def of(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels; 0 without any."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def names(self, prefix: str) -> set[str]:
        """Return the names of families; a counter's without `_total`."""
        return {name for name in self.families if name.startswith(prefix)}


def read(registry: CollectorRegistry) -> Scraped:
    """Read a registry as a scraper would."""
    return Scraped(generate_latest(registry).decode())


async def scrape(session: aiohttp.ClientSession, base_url: str) -> Scraped:
    """Read `GET /metrics`."""
    async with session.get(f"{base_url}/metrics") as response:
        assert response.status == 200, await response.text()
        return Scraped(await response.text())
