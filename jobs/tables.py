"""Every table: grain, columns, keys, checks, partition.     Light: no Spark, no torch.

A table is a promise. What is declared here is what `jobs.writes.replace` enforces, what the Delta tables carry as comments and
constraints, and what the README prints (`python -m jobs.tables`). Types are Spark SQL's; times are UTC.
"""

from dataclasses import dataclass, field, replace

ACTION = "STRUCT<item_id: STRING, surface: STRING, action: STRING, query: STRING, event_ts: TIMESTAMP>"


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    comment: str
    required: bool = True


@dataclass(frozen=True)
class Table:
    name: str
    grain: str
    written_by: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...]
    checks: dict[str, str] = field(default_factory=dict)
    partition: tuple[str, ...] = ("ds",)
    # Columns that tell of the execution, not of the data: two commits that differ only here are the same day.
    volatile: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


DS = Column("ds", "DATE", "data day, UTC")
RUN_ID = Column("run_id", "STRING", "execution that wrote the row")
MODEL_VERSION = Column("model_version", "STRING", "model that made the row; scores compare within one only")

EVENTS = Table(
    "events",
    "validated user action",
    "ingest",
    (
        Column("event_id", "STRING", "the log's id, or a hash of the row's content where it has none; one event per surface and id"),
        Column("user_id", "STRING", "the warehouse's (pseudonymous) user key"),
        Column("item_id", "STRING", "the warehouse's item key"),
        Column("surface", "STRING", "recommendation or search: where the action happened"),
        Column("action", "STRING", "what happened, e.g. click, purchase"),
        Column("query", "STRING", "normalised query text; null off the search surface", required=False),
        Column("session_id", "STRING", "the log's session, if it has one", required=False),
        Column("event_ts", "TIMESTAMP", "when it happened"),
        Column("sequence", "BIGINT", "order among equal times where the log has one, else 0"),
        Column("ingested_at", "TIMESTAMP", "when the warehouse had it; the delivery's day where the log does not say"),
        Column("ds", "DATE", "day of the event; the base day for everything up to it"),
    ),
    ("surface", "event_id"),
    {"surface": "surface IN ('recommendation', 'search')", "query": "(surface = 'search') = (query IS NOT NULL)"},
)

ITEMS = Table(
    "items",
    "catalogue item and day",
    "ingest",
    (
        Column("item_id", "STRING", "the warehouse's item key"),
        Column("title", "STRING", "display title"),
        Column("text", "STRING", "what the model may read of the item: title, description, category words"),
        Column("categories", "ARRAY<STRING>", "category names, general to special"),
        Column("is_available", "BOOLEAN", "may be published on this day"),
        DS,
    ),
    ("ds", "item_id"),
)

QUARANTINE = Table(
    "quarantine",
    "rejected source row",
    "ingest",
    (
        DS,
        Column("source", "STRING", "interactions, searches or catalogue"),
        Column("reason", "STRING", "the first check that the row failed"),
        Column("payload", "STRING", "the row as JSON with ids hashed and free text replaced by its length"),
        Column("payload_hash", "STRING", "SHA-256 of the row as it came"),
        RUN_ID,
    ),
    (),
    partition=("ds", "source"),
    volatile=("run_id",),
)

CORPORA = Table(
    "corpora",
    "training example",
    "build_corpora",
    (
        Column("example_id", "STRING", "event_id of the target; of a search behind search:, since two logs may count alike"),
        Column("task", "STRING", "recommend or search"),
        Column("user_id", "STRING", "whose example it is"),
        Column("history", f"ARRAY<{ACTION}>", "the user's latest actions strictly before the target, oldest first, both surfaces"),
        Column("query", "STRING", "the query that led to the target; null for recommend", required=False),
        Column("target_item_id", "STRING", "the item to be named"),
        Column("event_ts", "TIMESTAMP", "time of the target"),
        Column("split", "STRING", "train, valid or test under leave_one_out; by_time where event_ts against the night decides"),
        Column("ds", "DATE", "day of the target; the base day for everything up to it"),
    ),
    ("example_id",),
    {
        "task": "task IN ('recommend', 'search')",
        "query": "(task = 'search') = (query IS NOT NULL)",
        "split": "split IN ('train', 'valid', 'test', 'by_time')",
        "no_leak": "size(history) = 0 OR history[size(history) - 1].event_ts <= event_ts",
    },
)

ITEM_EMBEDDINGS = Table(
    "item_embeddings",
    "item and view",
    "embed_items",
    (
        Column("item_id", "STRING", "the warehouse's item key"),
        Column("view", "STRING", "text, behaviour, search (text tuned on search clicks) or multi_task (and on items of one user)"),
        Column("vector", "ARRAY<FLOAT>", "unit length, or zeros where nothing is known"),
        Column("encoder", "STRING", "what made the vector"),
        DS,
    ),
    ("ds", "item_id", "view"),
    {"view": "view IN ('text', 'behaviour', 'search', 'multi_task')"},
)

ITEM_IDENTIFIERS = Table(
    "item_identifiers",
    "item, scheme and view",
    "assign_identifiers",
    (
        Column("item_id", "STRING", "the warehouse's item key"),
        Column("scheme", "STRING", "atomic or semantic"),
        Column("view", "STRING", "joint, or the task (recommend, search) that names the item so"),
        Column("codes", "ARRAY<INT>", "the identifier; unique per scheme and view"),
        Column("version", "STRING", "quantizer that gave it; an item keeps its codes while this stays"),
        DS,
    ),
    ("ds", "item_id", "scheme", "view"),
    {"codes": "size(codes) > 0"},
    partition=("ds", "scheme"),
)

MODELS = Table(
    "models",
    "training run",
    "train, evaluate",
    (
        MODEL_VERSION,
        Column("recipe", "STRING", "bridge, gensar or gensr"),
        Column("artifact", "STRING", "folder of the weights, vocabulary and identifiers, below lake.files"),
        Column("artifact_hash", "STRING", "SHA-256 of the artifact's manifest"),
        Column("input_versions", "STRING", "JSON: input table → Delta version"),
        Column("config_hash", "STRING", "of the sections that shape the model"),
        Column("config", "STRING", "JSON: the resolved configuration"),
        Column("code_version", "STRING", "of the tandem distribution"),
        Column("parent", "STRING", "model_version it was warm-started from", required=False),
        Column("curve", "STRING", "JSON: one object per epoch: losses, validation metrics, seconds"),
        Column("status", "STRING", "trained, passed or failed"),
        RUN_ID,
        Column("trained_at", "TIMESTAMP", "end of the training; or when a rerun of its day asked for it again, after another was trained"),
        DS,
    ),
    ("model_version",),
    {"status": "status IN ('trained', 'passed', 'failed')"},
    volatile=("run_id", "trained_at"),
)

METRICS = Table(
    "metrics",
    "model, method, task, slice, metric, k",
    "evaluate",
    (
        DS,
        MODEL_VERSION,
        Column("method", "STRING", "model, served (yesterday's model) or the name of a baseline"),
        Column("task", "STRING", "recommend or search"),
        Column("slice", "STRING", "all, item:head|torso|tail, item:new (in no training example), history:empty|short|long, query:seen|unseen"),
        Column("metric", "STRING", "recall, ndcg, mrr, hitrate, coverage, novelty, popularity; *_gain: model minus method"),
        Column("k", "INT", "depth of the ranking"),
        Column("value", "DOUBLE", "the figure; NDCG and so on are fractions, novelty is in bits"),
        Column("ci_low", "DOUBLE", "2.5 % of the bootstrap", required=False),
        Column("ci_high", "DOUBLE", "97.5 % of the bootstrap", required=False),
        Column("n", "BIGINT", "test examples"),
        RUN_ID,
    ),
    ("ds", "model_version", "method", "task", "slice", "metric", "k"),
    partition=("ds", "model_version"),
    volatile=("run_id",),
)

CHECKS = Table(
    "checks",
    "run and check",
    "every step",
    (
        DS,
        Column("step", "STRING", "verb that checked"),
        Column("check", "STRING", "what was checked"),
        Column("severity", "STRING", "fail stops the night, warn tells, info counts"),
        Column("value", "DOUBLE", "what was found", required=False),
        Column("threshold", "DOUBLE", "what is allowed", required=False),
        Column("passed", "BOOLEAN", "whether the value is allowed"),
        RUN_ID,
    ),
    ("ds", "step", "check"),
    {"severity": "severity IN ('fail', 'warn', 'info')"},
    partition=("ds", "step"),
    volatile=("run_id",),
)

RANKING = {"rank": "rank >= 1", "score": "score = score AND NOT isnan(score)", "source": "source IN ('model', 'popular')"}

USER_ID = Column("user_id", "STRING", "the warehouse's (pseudonymous) user key")
ANSWER = (
    Column("item_id", "STRING", "the warehouse's item key; available on ds"),
    Column("score", "DOUBLE", "the model's log-probability, similarity to the request and popularity, weighed; of one request alone; non-increasing with rank"),
    Column("source", "STRING", "model, or popular where the model had no answer"),
)
ORIGIN = (MODEL_VERSION, RUN_ID, Column("generated_at", "TIMESTAMP", "when the row was made"))

RECOMMENDATIONS = Table(
    "recommendations",
    "ds, user, rank",
    "recommend (staged), release",
    (
        DS,
        USER_ID,
        Column("rank", "INT", "1 is best; contiguous, unique per user"),
        *ANSWER,
        *ORIGIN,
    ),
    ("ds", "user_id", "rank"),
    RANKING,
    volatile=("run_id", "generated_at"),
)

SEARCH_RESULTS = Table(
    "search_results",
    "ds, query (and user, when personalised), rank",
    "search (staged), release",
    (
        DS,
        Column("query", "STRING", "normalised query text"),
        Column("user_id", "STRING", "null: the answer for everyone", required=False),
        Column("rank", "INT", "1 is best; contiguous, unique per query and user"),
        *ANSWER,
        *ORIGIN,
    ),
    ("ds", "query", "user_id", "rank"),
    RANKING,
    volatile=("run_id", "generated_at"),
)

QUERY_SUGGESTIONS = Table(
    "query_suggestions",
    "ds, user, rank",
    "suggest (staged), release",
    (
        DS,
        USER_ID,
        Column("rank", "INT", "1 is best; contiguous, unique per user"),
        Column("query", "STRING", "a query that enough users have searched before; normalised"),
        Column("score", "DOUBLE", "log-probability; non-increasing with rank"),
        *ORIGIN,
    ),
    ("ds", "user_id", "rank"),
    {"rank": "rank >= 1"},
    volatile=("run_id", "generated_at"),
)

PUBLISHED = (RECOMMENDATIONS, SEARCH_RESULTS, QUERY_SUGGESTIONS)
# The same promise, not yet audited: `release` reads these and no analyst does.
STAGED_RECOMMENDATIONS = replace(RECOMMENDATIONS, name="staged_recommendations", written_by="recommend")
STAGED_SEARCH_RESULTS = replace(SEARCH_RESULTS, name="staged_search_results", written_by="search")
STAGED_QUERY_SUGGESTIONS = replace(QUERY_SUGGESTIONS, name="staged_query_suggestions", written_by="suggest")
STAGED = (STAGED_RECOMMENDATIONS, STAGED_SEARCH_RESULTS, STAGED_QUERY_SUGGESTIONS)

RELEASES = Table(
    "releases",
    "published day, or rollback to one",
    "release, rollback",
    (
        Column("ds", "DATE", "the day that is served"),
        RUN_ID,
        Column("model_version", "STRING", "model of the served rows"),
        Column("status", "STRING", "released, rollback, or backfilled (an older day, not served); the latest released or rolled-back row is served"),
        Column("output_versions", "STRING", "JSON: published table → Delta version that holds the day's rows"),
        Column("input_versions", "STRING", "JSON: input table → Delta version"),
        Column("counts", "STRING", "JSON: published table → rows, requests"),
        Column("config_hash", "STRING", "of the whole configuration"),
        Column("code_version", "STRING", "of the tandem distribution"),
        Column("released_at", "TIMESTAMP", "when it took effect"),
    ),
    ("released_at",),
    {"status": "status IN ('released', 'rollback', 'backfilled')"},
    partition=(),
)

ERASURES = Table(
    "erasures",
    "request to erase a user, and again once that is done",
    "erase",
    (
        Column("ds", "DATE", "day of the request: the user's events up to it are refused from now on"),
        Column("user_hash", "STRING", "SHA-256 of the user key"),
        Column("removed", "STRING", "JSON: table → rows that were deleted; {} as long as none are"),
        RUN_ID,
        Column("erased_at", "TIMESTAMP", "when the row was written"),
    ),
    ("user_hash", "erased_at"),
    partition=(),
)

LINEAGE = Table(
    "lineage",
    "execution of a step",
    "every step",
    (
        DS,
        Column("step", "STRING", "verb that ran"),
        RUN_ID,
        Column("inputs", "STRING", "JSON: table → Delta versions that the step read, in order"),
        Column("outputs", "STRING", "JSON: table → Delta version that holds what it wrote"),
        Column("config_hash", "STRING", "of the whole configuration"),
        Column("code_version", "STRING", "of the tandem distribution"),
        Column("ended_at", "TIMESTAMP", "when the step was done"),
    ),
    ("step", "run_id", "ended_at"),
    partition=(),
)

STUDIES = Table(
    "studies",
    "study, setting, figure",
    "study",
    (
        Column("ds", "DATE", "day the study was asked for"),
        Column("study", "STRING", "h1, h2, cap, information, joint, gensar or gensr"),
        Column("side", "STRING", "the task that the figure is of, in h1, h2 and cap the data-poor one: recommend or search; both"),
        Column(
            "knob",
            "DOUBLE",
            "what was varied: KL asked for, alignment, search examples per item (infinity is no limit), steps of training (infinity is their end)",
        ),
        Column("seed", "INT", "of the world, where there is one, and of the weights"),
        Column(
            "figure",
            "STRING",
            "e.g. single.recommend: expected R@30 of the single-task model; kl, redundancy: what the knob came to; on logs: METHOD.SLICE.METRIC@K, log.FIGURE",
        ),
        Column("value", "DOUBLE", "the figure"),
        RUN_ID,
    ),
    ("study", "side", "knob", "seed", "figure"),
    {"study": "study IN ('h1', 'h2', 'cap', 'information', 'joint', 'gensar', 'gensr')"},
    partition=("ds", "study"),
    volatile=("run_id",),
)

# Those whose rows are of users. What is published first, what it is made from last: an erasure killed in between finds the rest when it is repeated.
OF_USERS = (*PUBLISHED, *STAGED, CORPORA, EVENTS, QUARANTINE)
OF_A_NIGHT = (EVENTS, ITEMS, QUARANTINE, CORPORA, ITEM_EMBEDDINGS, ITEM_IDENTIFIERS, MODELS, METRICS, CHECKS, *PUBLISHED, *STAGED)
TABLES = {table.name: table for table in (*OF_A_NIGHT, RELEASES, ERASURES, LINEAGE, STUDIES)}


def describe() -> str:
    """The tables as Markdown: what the README prints."""
    lines = []
    for table in TABLES.values():
        if table.name.startswith("staged_"):
            continue
        partition = f" Partitioned by {', '.join(table.partition)}." if table.partition else ""
        lines += [
            f"**`{table.name}`**: one row per {table.grain}. Written by {table.written_by}.{partition}",
            "",
            "| column | type | meaning |",
            "|---|---|---|",
        ]
        for c in table.columns:
            kind, meaning = c.type.replace(ACTION, "action"), c.comment.replace("|", r"\|")  # a bar would end the cell
            lines.append(f"| `{c.name}` | `{kind}`{'' if c.required else ' (may be null)'} | {meaning} |")
        lines.append("")
    lines.append(f"`action` is `{ACTION}`.")
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe())
