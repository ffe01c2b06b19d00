"""The sections of the configuration: every key, its type, default and meaning.     Light: no Spark, no torch.

Values alone: where they come from, and how a wrong one is told, is in `jobs.config`.
"""

import os
import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from model.recipes import RECIPES, SERVED

RECIPE_NAMES = Literal["bridge", "gensar", "gensr"]
TASKS = Literal["recommend", "search", "next_query", "pseudo_search", "text_to_item", "item_to_text"]
BASELINES = Literal["popularity", "itemknn", "als", "bm25", "bm25_popularity", "biencoder"]
CONSTRUCTIONS = Literal["content", "search", "rec", "multi_task", "fused_concat", "fused_svd", "separate", "prefix_share", "dual"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def expand(path: object) -> object:
    """Replace `${NAME}` by the environment's value; an unset name is refused rather than left standing."""
    if not isinstance(path, str):
        return path

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ValueError(f"path {path!r} names ${{{name}}}, which is not set in the environment")
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", value, path)


def none_by_name(value: object) -> object:
    """TOML has no null: the text "none" stands for it."""
    return None if value == "none" else value


PathText = Annotated[str, BeforeValidator(expand)]


class Source(Section):
    path: PathText = Field(description="file, folder, glob or Delta table; {ds} stands for the data day; ${NAME} for the environment")
    format: Literal["delta", "parquet", "jsonl", "csv", "tsv"] = Field(description="delta, parquet, jsonl, csv or tsv (text may be gzipped)")
    columns: dict[str, str] = Field(default={}, description="our column = their column; unnamed ones keep our name")
    timestamp_unit: Literal["s", "ms", "us", "iso"] = Field(default="iso", description="unit of their event time: s, ms, us (since 1970, UTC) or iso text")
    actions: dict[str, str] = Field(default={}, description="their event type = our action; empty keeps theirs, a type not named is refused per row")
    default_action: str | None = Field(default=None, description="action of rows where the log has no event-type column")


class Lake(Section):
    root: PathText = Field(default=".tandem/lake", description="folder or URI under which each table is a Delta folder of its name")
    files: PathText | None = Field(
        default=None, description="folder of models, encoders and locks, on a disk that driver, trainer and executors share; none is lake.root, no URI then"
    )


class Warehouse(Section):
    interactions: Source = Field(
        default=Source(path=".tandem/warehouse/interactions/ds={ds}", format="jsonl"),
        description="the log of the recommendation surface: event_id?, user_id, item_id, event_ts, action?, session_id?, ingested_at?, sequence?",
    )
    searches: Annotated[Source | None, BeforeValidator(none_by_name)] = Field(
        default=Source(path=".tandem/warehouse/searches/ds={ds}", format="jsonl"),
        description='the log of the search surface: the same columns and query; "none" where there is none',
    )
    catalogue: Source = Field(
        default=Source(path=".tandem/warehouse/catalogue", format="jsonl"),
        description="the items: item_id, title, text?, categories?, is_available?",
    )


class Simulate(Section):
    path: PathText = Field(default=".tandem/warehouse", description="where the simulated logs are written")
    world: Literal["tastes", "popularity", "clusters"] = Field(
        default="tastes", description="a shop; or a world of the studies: popularity (S1), clusters (S2, S3), of which only the keys that name them count"
    )
    seed: int = Field(default=7, description="every world")
    items: int = Field(default=600, ge=20, description="every world")
    alignment: float = Field(default=0.75, ge=0, le=1, description="tastes, clusters: share of items whose search topic equals their taste cluster")
    kl: float = Field(default=0.0, ge=0, description="popularity: KL(p_rec || p_search) in nats; inf is as far as it goes")
    recommend_examples: int = Field(default=500, ge=1, description="popularity, clusters: training examples of recommend")
    search_examples: int = Field(default=5000, ge=1, description="popularity, clusters: training examples of search")
    users: int = Field(default=1500, ge=10)
    clusters: int = Field(default=20, ge=2, description="hidden tastes: a user likes a few, a query means one")
    days: int = Field(default=30, ge=4, description="days of history before and with the day given")
    events_per_user: float = Field(default=24.0, gt=1, description="mean recommendation events of a user over all days")
    search_share: float = Field(default=0.5, ge=0, lt=5, description="search events per recommendation event")
    noise: float = Field(default=0.1, ge=0, le=1, description="share of events on an item drawn by popularity alone")
    bad_share: float = Field(default=0.002, ge=0, le=1, description="share of rows spoilt on purpose")
    late_share: float = Field(default=0.01, ge=0, le=1, description="share of rows delivered one to five days late")


class Ingest(Section):
    base_day: date | None = Field(
        default=None, description="history up to this day is loaded at once, into the one partition ds = base_day; later days are incremental"
    )
    lookback_days: int = Field(default=3, ge=0, le=60, description="an event may arrive this many days late; its day is then republished")
    max_quarantine_share: float = Field(default=0.01, ge=0, le=1, description="more bad rows than this share stop the night (exit 65)")
    warn_quarantine_share: float = Field(default=0.001, ge=0, le=1, description="more than this share is a warning in `checks`")
    max_query_chars: int = Field(default=256, ge=1)
    max_id_chars: int = Field(default=128, ge=1)
    max_text_chars: int = Field(default=4000, ge=1, description="longer item texts are cut, longer titles too")
    max_events_per_user_day: int = Field(default=1000, ge=1, description="a user with more events in a day is a bot: that day's rows are quarantined")
    max_volume_change: float = Field(default=0.5, gt=0, description="a day this far from the median of the last 7 is refused (checked from 7 days on)")


class Corpora(Section):
    history_length: int = Field(default=50, ge=1, le=1000, description="actions of history an example keeps, the latest ones")
    split: Literal["time", "leave_one_out"] = Field(default="time", description="time (nights) or leave_one_out (papers; needs one base day)")
    valid_days: int = Field(default=1, ge=1, description="days before the test days that choose the model")
    test_days: int = Field(default=1, ge=1, description="last days, that judge the model")
    k_core: int = Field(default=0, ge=0, description="keep users and items with at least k training events; 0 keeps all")
    max_events_per_user: int = Field(default=2000, ge=10, description="only a user's latest events are used, so that no user skews a task")

    def bounds(self, day: date) -> tuple[datetime, datetime]:
        """The night's time split: training rows lie before the first instant (UTC), test rows from the second on, validation between."""
        test_from = datetime.combine(day, time.min, UTC) - timedelta(days=self.test_days - 1)
        return test_from - timedelta(days=self.valid_days), test_from


class Embed(Section):
    text: PathText = Field(default="tfidf", description="tfidf; minilm, a sentence encoder (extra minilm); or the path or hub name of a Hugging Face encoder")
    text_dim: int = Field(default=64, ge=2, description="dimensions of the tfidf encoder (a pretrained one has its own)")
    behaviour_dim: int = Field(default=64, ge=2, description="rank of the ALS item factors")
    fit_sample: int = Field(default=200_000, ge=100, description="items that an encoder or quantizer is fitted on, at most; also the pairs of a tuned one")
    item_pairs: float = Field(default=1.0, ge=0, description="weight of the loss on items of one user beside that on search clicks (multi_task)")
    seed: int = 7


class Identifiers(Section):
    scheme: Literal["atomic", "semantic"] = Field(default="atomic", description="one token per item, or several codes per item")
    construction: CONSTRUCTIONS = Field(
        default="fused_concat",
        description="content, search, rec or multi_task: one vector; fused_concat, fused_svd: one of two; separate, prefix_share, dual: a name per task",
    )
    text_side: Literal["text", "search"] = Field(default="text", description="what stands beside behaviour: text, or the vector tuned on search clicks")
    quantizer: Literal["residual_kmeans", "rq_vae", "product"] = "residual_kmeans"
    levels: int = Field(default=3, ge=1, le=8, description="code levels before the one that parts colliding items")
    shared_levels: int = Field(default=1, ge=0, le=7, description="the first of them are the same for both tasks under prefix_share and dual")
    codes: int = Field(default=256, ge=2, le=65536, description="codes per level")
    epochs: int = Field(default=200, ge=1, description="dual: passes over the items")
    sinkhorn: float = Field(default=0.003, ge=0, description="dual: entropy of the balancing of a task's last level, in training and repair; 0 is off")
    every_level: bool = Field(default=False, description="dual: each level's commitment moves the encoders, not the first one's alone")
    retrain: bool = Field(default=False, description="fit the quantizer anew, which renames every item")
    seed: int = 7

    @model_validator(mode="after")
    def makes_sense(self) -> "Identifiers":
        if self.shared >= self.levels:
            raise ValueError(f"shared_levels = {self.shared_levels} leaves none of {self.levels} levels to each task: expected fewer than levels")
        if self.construction == "prefix_share" and not self.shared_levels:
            raise ValueError("shared_levels = 0 under prefix_share: expected at least 1 (the construction without is separate)")
        if self.construction == "dual" and self.quantizer != "rq_vae":
            raise ValueError(f"quantizer = {self.quantizer!r} under the dual construction: expected 'rq_vae'")
        return self

    @property
    def shared(self) -> int:
        """First levels of which the tasks' names share the tokens, where an item has two names."""
        return self.shared_levels if self.scheme == "semantic" and self.construction in ("prefix_share", "dual") else 0

    @property
    def views(self) -> tuple[str, ...]:
        """The names of an item: one, or one per task."""
        per_task = self.construction == "separate" or (self.scheme == "semantic" and self.construction in ("prefix_share", "dual"))
        return ("recommend", "search") if per_task else ("joint",)


class Train(Section):
    recipe: RECIPE_NAMES = Field(default="bridge", description="bridge, gensar or gensr; their own settings (README) stand before these defaults")
    tasks: tuple[TASKS, ...] = Field(
        default=("recommend", "search"), min_length=1, description="bridge: these, and pseudo_search; one alone: the single-task models. gensar: all six"
    )
    mixing: Literal["proportional", "balanced"] | Annotated[float, Field(ge=1, allow_inf_nan=False)] | dict[TASKS, Annotated[float, Field(ge=0)]] = Field(
        default="proportional",
        description="shares of the tasks in an epoch: proportional, balanced, a temperature t (examples to the power 1/t), or weights by task",
    )
    max_per_item: dict[TASKS, Annotated[int, Field(ge=1)]] = Field(
        default={}, description="training examples per target item, at most, of each task named, e.g. { search = 50 }"
    )
    half_life_days: float = Field(default=365, ge=0, description="an epoch draws an example this old with chance 1/2; 0 draws all alike")
    backbone: PathText = Field(default="tiny", description="micro, tiny, small, base (from scratch), or the path or hub name of a T5 checkpoint")
    epochs: int = Field(default=12, ge=1)
    warm_start: bool = Field(default=True, description="start from the newest passed model; false trains from scratch")
    warm_epochs: int = Field(default=4, ge=1, description="epochs of a warm start")
    patience: int = Field(default=3, ge=1, description="epochs without a better geometric mean of the tasks' validation NDCG@10 before stopping")
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    softmax: Literal["all", "valid"] = Field(
        default="valid", description="of a code, over all tokens that an answer may hold (the papers), or over those that may follow in the catalogue"
    )
    pointers: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of training prompts in which a query's words add to the logits of the items whose text holds them, and items of the history "
        "to their own and their neighbours'; above 0 answers have it, too; of names of several codes only with softmax = valid",
    )
    neighbours: int = Field(
        default=200,
        ge=0,
        description="items kept of each that the same people had close to it, at which it points (train.pointers); 0: it points at itself alone",
    )
    similarity: bool = Field(
        default=True,
        description="the best answers are ordered again by their score, their similarity to the history in item_embeddings, whether they hold every word "
        "of the query, and how many people of late chose them, at all and for this query, weighed by what validation's requests chose",
    )
    tied: bool = Field(default=True, description="output rows are the input embeddings")
    item_init: Literal["vectors", "random"] = Field(default="vectors", description="a token begins near the vectors of the items that carry it, or at random")
    text_vocabulary: int = Field(default=8000, ge=300, description="size of the tokenizer trained on the corpora's text")
    max_query_tokens: int = Field(default=32, ge=2)
    max_text_tokens: int = Field(default=48, ge=2, description="of an item's text, in the tasks on texts")
    pseudo_queries: PathText = Field(default="terms", description="terms (words of the item's text), or the path or hub name of a doc2query model")
    pseudo_per_item: int = Field(default=1, ge=1, description="made queries of each item")
    history_per_behaviour: int = Field(default=5, ge=1, description="gensar: actions that a prompt shows, on and off the search surface each")
    behaviour_tokens: bool = Field(default=True, description="gensar: marks of behaviour in histories and answers")
    history_in_search: float = Field(
        default=0.0, ge=0, le=1, description="share of search prompts that show the user's history; above 0 for search.personalised"
    )
    max_valid_rows: int = Field(default=4000, ge=10, description="validation examples per task and epoch, drawn once")
    checkpoint_steps: int = Field(default=500, ge=1)
    seed: int = 7
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="auto is bf16 on a GPU and fp32 on a CPU")
    compiled: bool = Field(
        default=False, description="compile the model's blocks (needs g++ and Python's headers): takes a minute or two, and batches then less time"
    )
    answer_precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="of a generative model's products wherever it answers: validation, evaluate and the nights alike"
    )
    launcher: tuple[str, ...] = Field(
        default=("{python}", "-m", "model.train", "{spec}"),
        min_length=1,
        description="command that trains, e.g. torchrun --nproc-per-node 8 -m model.train {spec}",
    )

    @model_validator(mode="after")
    def of_the_recipe(self) -> "Train":
        unknown = [task for task in self.tasks if task not in RECIPES[self.recipe].tasks]
        if unknown:
            raise ValueError(f"tasks: {', '.join(unknown)} not of recipe {self.recipe}: allowed are {', '.join(RECIPES[self.recipe].tasks)}")
        if not set(self.tasks) & set(SERVED):
            raise ValueError(f"tasks: found {', '.join(self.tasks)} alone, expected one that is served: {', '.join(SERVED)}")
        return self


class Gensr(Section):
    candidates_from: Literal["bridge", "gensar"] = Field(default="bridge", description="recipe of the first stage, which is trained first")
    candidates: int = Field(default=100, ge=1, le=1000, description="items of the first stage that gensr orders")
    history_length: int = Field(default=20, ge=1, description="distinct items of a history, the latest ones")
    item_words: int = Field(default=16, ge=1, description="tokens of an item's text")
    views: tuple[Literal["collaborative", "semantic"], ...] = Field(default=("collaborative", "semantic"), min_length=1)
    filter: Literal["bilinear", "cross_attention", "mean"] = Field(
        default="bilinear", description="how a candidate weighs the history (cross_attention: the paper's)"
    )
    prompts: Literal["per_task", "shared"] = Field(default="per_task", description="a question per task, or one for both")
    answers: Literal["shared", "per_task"] = Field(default="shared", description="per_task: answer rows of each task, a discriminative twin")
    match: bool = Field(default=True, description="a slot for how a candidate's text meets the query (not in the paper)")
    contrast: float = Field(default=0.01, ge=0, description="weight of the contrastive loss between the views; 0 is off")
    batch_size: int = Field(default=64, ge=1, description="requests of a training step, each with its right item and the wrong ones")
    learning_rate: float = Field(default=3e-4, gt=0, description="of its training; train.learning_rate is its first stage's")
    negatives: int = Field(default=4, ge=1, description="wrong items beside each right one in training")
    hard_share: float = Field(default=0.5, ge=0, le=1, description="share of a search's wrong items that are drawn from what BM25 finds for its query")
    hard_pool: int = Field(default=100, ge=1, description="items that BM25 finds for it")
    first_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the wrong items that are drawn from the first stage's answers, where the right one is among them (the paper: 0)",
    )
    first_pool: int = Field(default=50, ge=1, description="best answers of the first stage that they are drawn from")
    blend: bool = Field(
        default=True,
        description="order by the first stage's score, the odds and the similarity to the history in each view, weighed by what validation's "
        "requests chose; false: by the odds alone (the paper)",
    )


class Evaluate(Section):
    ks: tuple[int, ...] = (1, 5, 10, 20)
    bootstrap: int = Field(default=200, ge=20, description="resamples of the paired intervals")
    max_indexed_items: int = Field(
        default=1_000_000, ge=1, description="catalogue above which bm25, bm25_popularity and biencoder are left out: their index passes through the driver"
    )
    max_requests: int = Field(default=20_000, ge=10, description="test examples per task, drawn by hash; all when fewer")
    baselines: tuple[BASELINES, ...] = ("popularity", "itemknn", "als", "bm25", "bm25_popularity", "biencoder")


class Gate(Section):
    max_drop: float = Field(default=0.05, ge=0, description="share of the served model's NDCG@10 that a task may lose; more, and by more than chance, fails")
    min_coverage_ratio: float = Field(default=0.9, ge=0, description="catalogue coverage against the served model's")
    beat_popularity: bool = Field(default=True, description="a model worse than popularity on a task is not passed")


class Recommend(Section):
    k: int = Field(default=20, ge=1, le=1000)
    beams: int = Field(default=20, ge=1, description="beams of semantic identifiers, at least k, and 100 with train.similarity; atomic ones are exact")
    exclude_seen: bool = Field(default=True, description="leave out items of the user's history")
    model: Literal["of_day", "newest"] = Field(
        default="of_day", description="of passed models the newest up to the day, or the newest of all (for backfills); also of search and suggest"
    )
    active_days: int | None = Field(default=None, description="only users seen within these days; none serves every user")
    users: Source | None = Field(default=None, description="further users to serve (user_id), known or not")
    batch_size: int = Field(default=512, ge=1)


class Search(Section):
    k: int = Field(default=20, ge=1, le=1000)
    beams: int = Field(default=20, ge=1)
    lookback_days: int = Field(default=7, ge=1, description="queries of these days are answered")
    min_users: int = Field(default=2, ge=1, description="queries of fewer distinct users are not published to others")
    queries: Source | None = Field(default=None, description="further queries to answer (query), whatever their count")
    personalised: bool = Field(default=False, description="also one answer per user and query of the lookback days")
    batch_size: int = Field(default=512, ge=1)


class Suggest(Section):
    k: int = Field(default=0, ge=0, le=100, description="queries suggested to each user; 0 makes none. Needs a model trained on next_query (gensar)")
    beams: int = Field(default=10, ge=1)
    lookback_days: int = Field(default=30, ge=1, description="only queries of these days are suggested")
    min_users: int = Field(default=5, ge=1, description="and only those of so many distinct users: nobody sees what one person typed")
    max_queries: int = Field(default=100_000, ge=1, description="the most frequent of them, at most")
    batch_size: int = Field(default=512, ge=1)


class Release(Section):
    max_volume_change: float = Field(default=0.5, gt=0, description="requests answered against the median of last week's releases")
    max_changed_share: float = Field(default=0.95, ge=0, le=1, description="share of requests whose first item differs from the served one")


class Registry(Section):
    uri: Annotated[PathText | None, BeforeValidator(none_by_name)] = Field(
        default="sqlite:///{root}/mlflow.db",
        description='MLflow registry that mirrors the models: sqlite, http(s), databricks, …; {root} is lake.files, or lake.root; "none" keeps none',
    )
    name: str = Field(default="tandem", pattern=r"^[A-Za-z0-9_.-]{1,100}$", description="the registered model's name there; one per lake")


class Maintain(Section):
    keep_days: int = Field(default=30, ge=7, description="every table's versions, and so every release, can be read and rolled back to for this long")


class Study(Section):
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1, description="worlds, and the weights that begin in them")
    caps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), description="joint: also models that see at most so many examples per item of the added task, e.g. [5, 50]"
    )
    variants: tuple[str, ...] = Field(default=(), description="gensar, gensr: which of its variants stand beside the whole model, all for none named")
    own: dict[str, dict[str, Any]] = Field(
        default={}, description="gensar, gensr: settings of train that a variant has to itself, e.g. { bridge = { dropout = 0.3 } }"
    )
    points: Literal["all", "ends"] = Field(default="all", description="every setting of the knob, or its two ends")
    workers: int | None = Field(default=None, ge=1, description="settings trained side by side, one thread each; none is one per core")


class SparkSettings(Section):
    master: str | None = Field(default=None, description="none is local[*], or what spark-submit says")
    driver_memory: str = "2g"
    shuffle_partitions: int | None = Field(default=None, description="none is twice the local cores")
    conf: dict[str, str] = Field(default={}, description="further Spark settings, e.g. of an object store")
