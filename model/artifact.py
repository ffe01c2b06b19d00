"""A model on disk: safetensors and JSON with a manifest of hashes, written whole or not at all.

    model.safetensors  tokenizer.json  identifiers.safetensors  items.json  config.json  curve.json  manifest.json

An artifact carries its own identifiers and vocabulary; the two never part. Nothing here is a pickle, and a file whose hash differs
from the manifest's is refused before it is read. Checkpoints are folders of the same kind.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from model.vocabulary import Vocabulary

MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_folder(folder: Path, files: Mapping[str, Callable[[Path], None]], facts: Mapping[str, Any]) -> None:
    """Write each file by its function, then the manifest, all under a temporary name; rename when everything is on the disk.

    A crash leaves the old folder, or none, and never a half: the rename is what makes it exist.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, write in files.items():
        write(temporary / name)
        sync(temporary / name)
    hashes = {name: sha256(temporary / name) for name in files}
    (temporary / MANIFEST).write_text(json.dumps({**facts, "files": hashes}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sync(temporary / MANIFEST)
    sync(temporary)
    if folder.exists():
        retired = folder.with_name(f".{folder.name}.old.{os.getpid()}")
        folder.rename(retired)
        temporary.rename(folder)
        shutil.rmtree(retired)
    else:
        temporary.rename(folder)
    sync(folder.parent)


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, once every file it names is there and has its hash. Raises ValueError naming the file that does not."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no {MANIFEST}: not a complete artifact")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name, expected in manifest["files"].items():
        if Path(name).name != name or Path(name).suffix not in (".safetensors", ".json"):
            raise ValueError(f"{folder}: manifest names {name!r}; only .safetensors and .json files of the folder itself are loaded")
        found = sha256(folder / name) if (folder / name).is_file() else "no file"
        if found != expected:
            raise ValueError(f"{folder / name} has hash {found}, the manifest says {expected}: the artifact is damaged or was changed")
    return manifest


def write_json(value: Any) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8") and None


def write_tensors(tensors: Mapping[str, torch.Tensor]) -> Callable[[Path], None]:
    return lambda path: save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The module's parameters by name, a shared one once (named_parameters counts it so)."""
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def save(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    vocabulary: Vocabulary,
    item_ids: list[str],
    config: Mapping[str, Any],
    curve: list[dict[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """config: everything the ranker needs (`t5`: the T5 config, recipe, tasks, lengths). facts: what the manifest tells besides."""
    files: dict[str, Callable[[Path], None]] = {
        "model.safetensors": write_tensors(weights),
        "identifiers.safetensors": lambda path: save_arrays(dict(vocabulary.codes), path),
        "tokenizer.json": lambda path: vocabulary.tokenizer.save(str(path)),
        "items.json": write_json(item_ids),
        "config.json": write_json({**config, **shape_of(vocabulary)}),
        "curve.json": write_json(curve),
    }
    write_folder(folder, files, facts)


def shape_of(vocabulary: Vocabulary) -> dict[str, Any]:
    return {"text_size": vocabulary.text_size, "shared": vocabulary.shared, "level_sizes": list(vocabulary.level_sizes)}


def load(folder: Path) -> tuple[dict[str, torch.Tensor], Vocabulary, list[str], dict[str, Any], dict[str, Any]]:
    """weights, vocabulary, item_ids, config, manifest. Raises ValueError where a file is missing or changed."""
    manifest = read_manifest(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    codes = load_arrays(folder / "identifiers.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = Vocabulary(tokenizer, config["text_size"], {view: codes[view] for view in sorted(codes)}, config["shared"], tuple(config["level_sizes"]))
    item_ids = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    return load_file(folder / "model.safetensors"), vocabulary, item_ids, config, manifest
