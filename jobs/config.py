"""The one configuration: typed, frozen, validated.     Light: no Spark, no torch.

Precedence: defaults < the recipe's own settings (`model.recipes`) < the file (`--config FILE`, else $TANDEM_CONFIG) < `--set section.key=value`.
The defaults run the simulated warehouse on a laptop. `python -m jobs.config` prints every key with its meaning;
`examples/tandem.toml` is that text.
"""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from jobs.errors import BadArgument
from jobs.sections import (
    Corpora,
    Embed,
    Evaluate,
    Gate,
    Gensr,
    Identifiers,
    Ingest,
    Lake,
    Maintain,
    Recommend,
    Registry,
    Release,
    Search,
    Section,
    Simulate,
    SparkSettings,
    Study,
    Suggest,
    Train,
    Warehouse,
)
from model.recipes import RECIPES


class Config(Section):
    lake: Lake = Lake()
    warehouse: Warehouse = Warehouse()
    simulate: Simulate = Simulate()
    ingest: Ingest = Ingest()
    corpora: Corpora = Corpora()
    embed: Embed = Embed()
    identifiers: Identifiers = Identifiers()
    train: Train = Train()
    gensr: Gensr = Gensr()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()
    recommend: Recommend = Recommend()
    search: Search = Search()
    suggest: Suggest = Suggest()
    release: Release = Release()
    registry: Registry = Registry()
    maintain: Maintain = Maintain()
    study: Study = Study()
    spark: SparkSettings = SparkSettings()

    @property
    def files(self) -> str:
        """The folder of what is no table: `lake.files`, else `lake.root`. Raises BadArgument where that is a URI."""
        folder = (self.lake.files or self.lake.root).removeprefix("file://").rstrip("/")
        if "://" in folder:
            found = f"{folder!r}" if self.lake.files else f"none, and lake.root = {folder!r} is a URI"
            raise BadArgument(f"lake.files: found {found}; expected a folder: models are kept on a disk that driver, trainer and executors share")
        return folder

    def hash(self, *sections: str) -> str:
        """Sixteen hex digits that change exactly when one of the sections does (all of them when none is named)."""
        values = self.model_dump(mode="json", include=set(sections) or None)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def load(path: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read defaults < recipe < file < overrides (`section.key=value`, the value as TOML or bare text).

    Raises BadArgument naming the key, the value found, what is allowed, and the file or `--set` that holds it.
    """
    path = path or os.environ.get("TANDEM_CONFIG")
    values: dict[str, Any] = {}
    if path:
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise BadArgument(f"configuration file {path!r} cannot be read: {error.strerror}; give --config FILE or set TANDEM_CONFIG") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadArgument(f"configuration file {path!r} is not valid TOML: {error}") from error
    origin = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        keys = name.strip().split(".")
        if not equals or len(keys) < 2:
            raise BadArgument(f"--set {override!r}: expected section.key=value, e.g. --set train.epochs=3")
        node = values
        for key in keys[:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise BadArgument(f"--set {override!r}: {key!r} is a value, not a section")
        node[keys[-1]] = parse_value(text)
        origin[tuple(keys)] = f"--set {override}"
    try:
        return Config.model_validate(with_recipe(values))
    except ValidationError as error:
        raise BadArgument("\n".join(explain(detail, values, origin, path) for detail in error.errors())) from error


def with_recipe(values: dict[str, Any]) -> dict[str, Any]:
    """The values, behind those that the recipe brings, and behind these what its first stage brings, where it has one."""

    def asked(section: str, key: str) -> Any:
        held = values.get(section)
        return held.get(key) if isinstance(held, dict) else None

    name = asked("train", "recipe")
    if name not in RECIPES:  # the default, or one that validation refuses
        return values
    brought = [RECIPES[name].settings]
    if RECIPES[name].second_stage:
        first = RECIPES.get(asked("gensr", "candidates_from") or Gensr().candidates_from)
        brought.insert(0, {section: {key: value for key, value in own.items() if key != "tasks"} for section, own in first.settings.items()} if first else {})
    made = dict(values)
    for section in {section for settings in brought for section in settings}:
        if isinstance(values.get(section, {}), dict):
            made[section] = {key: value for settings in brought for key, value in settings.get(section, {}).items()} | values.get(section, {})
    return made


def parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def explain(detail: Any, values: dict[str, Any], origin: dict[tuple[str, ...], str], path: str | None) -> str:
    """One error line: the key, what was found, what is allowed, where it was set."""
    location = tuple(str(part) for part in detail["loc"])
    where = next((text for keys, text in origin.items() if location[: len(keys)] == keys[: len(location)]), path or "defaults")
    if detail["type"] == "extra_forbidden":
        section: Any = Config
        for part in location[:-1]:
            field = getattr(section, "model_fields", {}).get(part)
            section = field.annotation if field else None
        allowed = ", ".join(getattr(section, "model_fields", {})) or "no further keys"
        return f"unknown key {'.'.join(location)!r}: allowed are {allowed} ({where})"
    return f"{'.'.join(location)} = {detail['input']!r}: {detail['msg']} ({where})"


def parse_day(text: str) -> date:
    """An ISO day, and nothing that merely begins like one."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise BadArgument(f"--date {text[:40]!r}: expected a day as YYYY-MM-DD, e.g. 2026-11-19")
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadArgument(f"--date {text!r}: {error}; expected a day as YYYY-MM-DD") from error


def parse_run_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,199}", text):
        raise BadArgument(f"--run-id {text[:40]!r}: expected letters, digits and _.:+- (at most 200, none leading)")
    return text


def reference() -> str:
    """Every key with its default and meaning, as a TOML file that loads."""
    lines = ["# Every key of tandem's configuration, with its default. Made by `python -m jobs.config`; a test keeps it so."]

    def table(name: str, section: BaseModel, meaning: str | None = None) -> None:
        lines.extend(["", f"[{name}]" + (f"  # {meaning}" if meaning else "")])
        nested = []
        for key, field in type(section).model_fields.items():
            value = getattr(section, key)
            note = f"  # {field.description}" if field.description else ""
            if isinstance(value, BaseModel):
                nested.append((f"{name}.{key}", value, field.description))
            elif value is None:
                lines.append(f"# {key} ={note or '  # none'}")
            else:
                dumped = json.dumps(section.model_dump(mode="json")[key], ensure_ascii=False)
                lines.append(f"{key} = {dumped}{note}")
        for each in nested:
            table(*each)

    config = Config()
    for name in type(config).model_fields:
        table(name, getattr(config, name))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
