"""Images in chats, as OpenAI's content parts have them: data URLs, and addresses that are fetched before queueing."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from pydantic_core import PydanticCustomError

from relais_common.jobs import chat
from relais_orchestrator.api.schemas.hints import CachedPart
from relais_orchestrator.api.schemas.sampling import STRICT

MAX_IMAGES = 32
"""Of one request."""

MAX_IMAGE_BYTES = 20 << 20
"""Of one image, without the encoding; `MAX_BODY_BYTES` holds as well."""

MAX_ADDRESS = 2048
"""Characters of an address."""

_BEGINNINGS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
MEDIA_TYPES = (*_BEGINNINGS, "image/jpg")


def media_type_of(image: bytes) -> str | None:
    """Return the media type that an image's first bytes say; None if it is not supported."""
    for media_type, beginning in _BEGINNINGS.items():
        if image.startswith(beginning):
            is_webp = media_type == "image/webp"
            return None if is_webp and image[8:12] != b"WEBP" else media_type
    return None


def data_url(image: bytes) -> str | None:
    """Return an image as a data URL of the type that it is; None if that is not supported."""
    media_type = media_type_of(image)
    if media_type is None:
        return None
    return f"data:{media_type};base64,{base64.b64encode(image).decode()}"


def from_base64(data: str) -> str:
    """Return an image that is given in base64 as a data URL. Raises PydanticCustomError, without the data."""
    if len(data) > MAX_IMAGE_BYTES * 4 // 3 + 4:
        raise _wrong("an image has at most {most} bytes", most=MAX_IMAGE_BYTES)
    try:
        image = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong("not valid base64") from None
    media_type = media_type_of(image)
    if media_type is None:
        raise _wrong("not an image in a supported format: PNG, JPEG, WebP or GIF")
    return f"data:{media_type};base64,{data}"


def is_address(url: str) -> bool:
    """Return whether an image is still to be fetched."""
    return not url.startswith("data:")


def _checked(url: str) -> str:
    scheme = url[:8].lower()
    if scheme.startswith("data:"):
        head, comma, data = url[5:].partition(",")
        media_type, *parameters = head.lower().split(";")
        if not comma or media_type not in MEDIA_TYPES or parameters[-1:] != ["base64"]:
            raise _wrong(
                "a data URL of an image begins with data:image/png;base64, or jpeg, webp or gif"
            )
        return from_base64(data)
    if not scheme.startswith(("http://", "https://")):
        raise PydanticCustomError("unsupported_value", "send a data URL: data:image/png;base64,...")
    if len(url) > MAX_ADDRESS:
        raise _wrong("an address has at most {most} characters", most=MAX_ADDRESS)
    return url


def _wrong(message: str, **values: int) -> PydanticCustomError:
    # Messages are templates.
    return PydanticCustomError("image", message, values)


ImageAddress = Annotated[str, StringConstraints(min_length=1), AfterValidator(_checked)]
ImageDetail = Literal["auto", "low", "high", "original"]


class ImageUrl(BaseModel):
    model_config = STRICT

    url: Annotated[
        ImageAddress,
        Field(
            description="`data:image/png;base64,...` (PNG, JPEG, WebP, or a GIF's first frame), or an `http(s)` address"
            " at a host of `IMAGE_URL_HOSTS`."
        ),
    ]
    detail: ImageDetail | None = Field(
        default=None, description="No effect, as in vLLM; passed on to remote servers."
    )


class ImagePart(CachedPart):
    type: Literal["image_url"]
    image_url: ImageUrl

    def to_part(self) -> chat.ImagePart:
        return chat.ImagePart(chat.ImageUrl(self.image_url.url, self.image_url.detail))


def few_images(count: int) -> None:
    """Raise PydanticCustomError if a request has too many."""
    if count > MAX_IMAGES:
        raise _wrong("at most {most} images in one request", most=MAX_IMAGES)
