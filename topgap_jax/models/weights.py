"""Files of weights: what `pretrained` may name, read without PyTorch, and our own format."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from topgap_jax.models.torch_files import read_torch_file

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
METADATA = "topgap_jax"  # of our own files: the settings of the model, as JSON


class Weights(NamedTuple):
    """A state dict without its framework, and what its publisher says about it."""

    tensors: dict[str, np.ndarray]
    source: str  # how messages call it
    mean: tuple[float, ...] | None = None  # normalisation of the images in [0, 1], where it is stated
    std: tuple[float, ...] | None = None
    settings: dict[str, Any] | None = None  # of our own files: the arguments of `create_model`


def read_weights(source: str | Path) -> Weights:
    """Reads the weights that `source` names.

    Args:
      source: a file (`.safetensors`, or PyTorch's `.pth`, `.pt`, `.bin`), `hf:OWNER/NAME[@REVISION]` for a
        repository of the Hugging Face hub, or `package:NAME` for an installed Python package that contains
        one such file.

    Raises:
      ValueError: nothing there, of another kind, damaged or unsafe; the message says which.
    """
    kind, colon, name = str(source).partition(":")
    if colon and kind == "hf":
        return _from_hub(name)
    if colon and kind == "package":
        return _from_package(name)
    return _from_file(Path(source).expanduser())


def write_weights(path: str | Path, tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
    """Writes our own format: safetensors, with the settings of the model in its metadata.

    A file of that name is replaced only once the new one is complete.

    Raises:
      ValueError: a name without the ending `.safetensors`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{str(path)!r}: a model is saved as .safetensors")
    temporary = path.with_suffix(".tmp")
    save_file(dict(tensors), temporary, metadata={METADATA: json.dumps(dict(settings))})
    temporary.replace(path)


def _from_file(path: Path) -> Weights:
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"pretrained={str(path)!r} is neither a file of weights ({', '.join(SUFFIXES)}) "
            "nor hf:OWNER/NAME nor package:NAME"
        )
    if not path.is_file():
        raise ValueError(f"there is no file of weights {str(path)!r}")
    if path.suffix == ".safetensors":
        return _from_safetensors(path)
    return Weights(read_torch_file(path), path.name)


def _from_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is not a whole safetensors file: {error}") from error
    if METADATA not in metadata:
        return Weights(tensors, path.name)
    settings = json.loads(metadata[METADATA])
    return Weights(tensors, path.name, tuple(settings["mean"]), tuple(settings["std"]), settings)


def _from_package(name: str) -> Weights:
    specification = importlib.util.find_spec(name) if name.isidentifier() else None
    if specification is None or not specification.submodule_search_locations:
        raise ValueError(f"the package {name!r} is not installed")
    folders = [Path(location) for location in specification.submodule_search_locations]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in SUFFIXES]
    if len(files) != 1:
        raise ValueError(f"the package {name!r} must contain one file of weights, not {len(files)}")
    return _from_file(files[0])._replace(source=f"package:{name}")


def _from_hub(name: str) -> Weights:
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1:
        raise ValueError(
            f"pretrained='hf:{name}' must have the form hf:OWNER/NAME, such as hf:timm/resnet18.a1_in1k"
        )
    path = _download(repository, ("model.safetensors", "pytorch_model.bin"), revision or None)
    if path is None:
        raise ValueError(f"hf:{name} contains neither model.safetensors nor pytorch_model.bin")
    weights = _from_file(path)._replace(source=f"hf:{name}")
    config = _download(repository, ("config.json",), revision or None)
    stated = json.loads(config.read_text()).get("pretrained_cfg", {}) if config else {}
    if "mean" in stated and "std" in stated:
        weights = weights._replace(mean=tuple(stated["mean"]), std=tuple(stated["std"]))
    return weights


def _download(repository: str, names: tuple[str, ...], revision: str | None) -> Path | None:
    """The first of these files that the repository has, from the cache or the network."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise ValueError(f"hf:{repository} needs the hub's client: pip install huggingface_hub") from error
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision))
        except LocalEntryNotFoundError as error:
            raise ValueError(f"hf:{repository} is not in the cache, and the hub cannot be reached") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise ValueError(f"hf:{repository} cannot be downloaded: {str(error).splitlines()[0]}") from error
    return None
