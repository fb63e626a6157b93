"""What can be wrong with a picture file, each with the words that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

TRUNCATED = ("truncated", "broken", "unexpected end", "not enough", "premature")  # words of the libraries


class PictureError(ValueError):
    """A picture that cannot be used. `kind` is the heading under which reports count it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)  # both, so that it survives the way out of a worker process
        self.kind = kind

    def __str__(self) -> str:
        return self.args[1]


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Turns whatever a damaged file makes a library raise into one message that names the file."""
    try:
        yield
    except PictureError:
        raise
    except FileNotFoundError as error:
        raise PictureError("missing", f"{where} does not exist") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise gigantic(where) from error
    except UnidentifiedImageError as error:
        raise PictureError("unreadable", f"{where} cannot be decoded: it is no picture") from error
    except Exception as error:  # damaged files make decoders fail in every way there is
        kind = "truncated" if any(word in str(error).lower() for word in TRUNCATED) else "unreadable"
        raise PictureError(kind, f"{where} cannot be decoded: {error}") from error


def gigantic(where: str) -> PictureError:
    limit = f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f}"
    return PictureError(
        "gigantic",
        f"{where} has more than {limit} million pixels, Pillow's limit against decompression bombs: cut or "
        "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it",
    )


def cmyk(where: str) -> PictureError:
    message = "is CMYK, whose colours depend on a printer's profile: convert it to RGB"
    return PictureError("CMYK", f"{where} {message}")


def not_finite(where: str) -> PictureError:
    return PictureError("not finite", f"{where} holds NaN or infinite values: replace them")
