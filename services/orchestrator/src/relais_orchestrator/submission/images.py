"""Checks and fetches a draft's images before it is queued."""

from __future__ import annotations

from dataclasses import replace

from relais_common.jobs.chat import with_images
from relais_common.jobs.errors import InvalidRequest, images_refused
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.api.schemas.images import is_address
from relais_orchestrator.submission.catalogue import Catalogue
from relais_orchestrator.submission.drafts import Draft
from relais_orchestrator.submission.image_urls import ImageFetcher
from relais_orchestrator.submission.model_states import ModelStates


class Images:
    """Fetches images, and refuses those that could not be answered.

    Args:
        fetcher: None if no host is allowed.
    """

    def __init__(
        self, catalogue: Catalogue, states: ModelStates, fetcher: ImageFetcher | None
    ) -> None:
        self._catalogue = catalogue
        self._states = states
        self._fetcher = fetcher

    async def check(self, draft: Draft, caller: Caller) -> Draft:
        """Return the draft as it may be queued.

        Raises:
            InvalidRequest: its model is known to take no images, or an image could not be fetched.
            ModelNotFound: there is no such model.
        """
        images = draft.images
        if not images:
            return draft
        model = self._catalogue.root_of(draft.model, caller)
        state = (await self._states.all()).get(model)
        if state is not None and state.supports_images is False:
            raise images_refused(model, images[0][0])
        addresses = {
            field: part.image_url.url for field, _, part in images if is_address(part.image_url.url)
        }
        if not addresses or self._fetcher is None:
            refuse_addresses(draft)
            return draft
        fetched = await self._fetcher.fetch(caller.key_id, addresses)
        urls = {path: fetched[field] for field, path, _ in images if field in fetched}
        messages = with_images(draft.messages or (), urls)
        return replace(draft, messages=messages)


def refuse_addresses(draft: Draft) -> None:
    """Raise InvalidRequest if an image is still to be fetched."""
    for field, _, part in draft.images:
        if is_address(part.image_url.url):
            raise InvalidRequest(
                f"{field}: images are not fetched here; send a data URL: data:image/png;base64,...",
                param=field,
                code="unsupported_value",
            )
