"""A world with a known answer → warehouse logs and a catalogue.     Reads nothing; writes JSON lines below `simulate.path`.

`interactions/ds=D`, `searches/ds=D` (what the warehouse received on day D, late and spoilt rows among it) and `catalogue`: the layout
that the default `[warehouse]` reads. Knows no table of the lake and no state.

`simulate.world` says which: a shop (tastes), or a world of the studies, popularity or clusters (`jobs.world_logs`). Of the shop every draw is
a hash of (seed, what is drawn), so a day's rows depend on the seed, the day and the rate (events_per_user / days) alone, and a later day only
adds to what lies there.

The shop. A warehouse has `items` shelves; shelf s stands in taste cluster s % clusters at popularity rank s // clusters, and is found by
one search topic, the number of its cluster for a share `alignment` of the shelves. An article stays on its shelf for LIFETIME days and
is followed by a new one. A user likes one to three clusters, is in the mood for one of them for a week, and after an article often takes its
companion (STRIDE ranks on, same cluster). Queries are words of the topic; a share `noise` of events is drawn by popularity alone.
The answer that a good model finds: cluster of a user, companion of an article, topic of a query.
"""

import logging
import math
from datetime import date

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs import world_logs
from jobs.config import Config
from jobs.errors import BadArgument
from jobs.sections import Simulate
from jobs.spark import session

EPOCH = date(2020, 1, 1)  # day numbers count from here, whatever day is asked for
LIFETIME = 400  # days an article is sold
STRIDE = 7  # ranks from an article to its companion
FLATTEN = 3.0  # Zipf-Mandelbrot offset: weight of rank r is 1 / (r + FLATTEN)
SESSION = 4.0  # mean events of a user's active day, at least
MOOD, COMPANION = 0.8, 0.4  # shares of events: in the week's cluster; on the companion of the one before
DELAYS = (1, 2, 1, 3, 2, 1, 4, 1, 2, 5)  # days late, in turn
SPOILS = ("time", "user", "item", "duplicate", "query")  # in turn; `query` spoils searches only
DAY_MS = 86_400_000

TOPICS = (  # department, then the four words that mean the topic
    "camping tent lantern stove hammock|cycling bicycle helmet pedal saddle|kitchen skillet saucepan whisk ladle|audio headphones speaker amplifier turntable"
    "|gardening trowel planter hose seeds|fishing reel rod tackle lure|painting easel canvas brush acrylics|baking muffin oven dough spatula"
    "|photography camera tripod lens flash|running sneakers shorts pedometer visor|knitting yarn needles crochet wool|puzzles jigsaw maze riddle cube"
    "|pets leash kennel aquarium birdcage|office stapler notebook folder pencil|bathroom towel soap shower mirror|bedroom pillow blanket mattress quilt"
    "|music guitar ukulele piano drum|robots android circuit sensor motor|dolls dollhouse figurine costume puppet|trains locomotive railway carriage signal"
    "|coffee espresso grinder kettle mug|tools hammer drill wrench pliers|winter skis sled mittens parka|swimming goggles snorkel fins pool"
    "|yoga mat dumbbell kettlebell strap|travel suitcase passport luggage adapter|jewelry necklace bracelet earring ring|lighting lamp chandelier bulb candle"
    "|baby stroller crib pacifier bottle|boats kayak paddle anchor sail|chess board rook clock checkers|magic wand cards cape illusion"
    "|science microscope telescope beaker magnet|cars racer tyre garage dashboard|cleaning broom mop vacuum sponge|sewing thread fabric button scissors"
    "|school backpack eraser ruler globe|wine corkscrew decanter goblet cellar|archery bow arrow quiver target|planes glider propeller pilot runway"
)
REALMS = "indoor,nordic,junior,vintage,desert,urban,alpine,coastal,royal,lunar"  # tell topics apart where there are more than departments
ADJECTIVES = "swift,sturdy,classic,compact,bright,quiet,rugged,gentle,premium,foldable,handy,sleek,natural,modern,mighty,cosy"
MODELS = "Orion,Willow,Falcon,Maple,Comet,Harbor,Juniper,Atlas,Pebble,Aurora,Tundra,Saffron,Breeze,Cobalt,Meadow,Quartz"


def run(config: Config, day: date, run_id: str) -> dict:
    """Write the world's arrivals up to `day`, and the catalogue as of `day`; other days' files stay.

    Returns {"rows": of each surface, "path"}, and of a study's world what its knob came to and what can be known of it without a model.
    Raises BadArgument where there are more clusters than items.
    """
    spark, settings = session(config), config.simulate
    arrived, articles, figures = tastes(spark, settings, day) if settings.world == "tastes" else studied(spark, settings, day)
    root = settings.path.rstrip("/")
    arrived = arrived.repartition("ds").sortWithinPartitions("ds", "ingested_at", "event_id").persist()
    rows = {row["surface"]: row["count"] for row in arrived.groupBy("surface").count().collect()}  # two rows
    shared = ["event_id", "user_id", "item_id", "event_ts", "action", "session_id", "ingested_at"]
    for name, surface, columns in (("interactions", "recommendation", shared), ("searches", "search", [*shared, "query"])):
        log = arrived.where(F.col("surface") == surface).select(*columns, "ds")
        log.write.partitionBy("ds").mode("overwrite").option("partitionOverwriteMode", "dynamic").json(f"{root}/{name}")
    arrived.unpersist()
    articles.coalesce(1).sortWithinPartitions("item_id").write.mode("overwrite").json(f"{root}/catalogue")
    told = "".join(f", {name} {value:.3f}" for name, value in figures.items())
    logging.getLogger("tandem").info("simulated the world %s up to %s: %s below %s%s", settings.world, day, rows, root, told)
    return {"rows": rows, "path": root, **figures}


def studied(spark: SparkSession, settings: Simulate, day: date) -> tuple[DataFrame, DataFrame, dict[str, float]]:
    """A study's world: arrivals, catalogue, and what is known of it."""
    world = world_logs.world_of(settings)
    texts = ", ".join(f"{name} STRING" for name in world_logs.Event._fields)
    arrived = spark.createDataFrame(list(world_logs.events(world, day, settings.seed)), texts).withColumn("ds", F.col("ds").cast("date"))
    articles = spark.createDataFrame(world_logs.catalogue(world), "item_id STRING, title STRING, text STRING, categories ARRAY<STRING>, is_available BOOLEAN")
    return arrived, articles, {name: value for name, value in world.figures().items() if not math.isnan(value)}


def tastes(spark: SparkSession, world: Simulate, day: date) -> tuple[DataFrame, DataFrame, dict[str, float]]:
    """The shop's arrivals of the `simulate.days` days up to `day`, and its catalogue."""
    if world.clusters > world.items:
        raise BadArgument(f"simulate.clusters = {world.clusters}: expected at most simulate.items = {world.items}")
    first = number(day) - world.days + 1
    # Late rows of earlier days arrive in this window too.
    events = user_events(user_days(spark, world, first - max(DELAYS), number(day)), world)
    arrived = spoil(deliver(events, world).where(F.col("arrival").between(first, number(day))), world)
    articles = catalogue(spark, world, first - max(DELAYS), number(day)).drop("cluster", "topic")
    return arrived.withColumn("ds", date_of(F.col("arrival"))), articles, {}


def number(day: date) -> int:
    return (day - EPOCH).days


def date_of(day_number: Column) -> Column:
    return F.date_add(F.lit(EPOCH), day_number.cast("int"))


def draw(world: Simulate, what: str, *of: Column) -> Column:
    """A uniform number in [0, 1) that is the same wherever and whenever it is drawn."""
    return F.shiftrightunsigned(F.xxhash64(F.lit(world.seed), F.lit(what), *of), 11) * F.lit(2.0**-53)


def pick(uniform: Column, count: Column | int) -> Column:
    """0 … count - 1, evenly."""
    return F.floor(uniform * count).cast("int")


def zipf(uniform: Column, count: Column | int) -> Column:
    """0 … count - 1, rank r with weight near 1 / (r + FLATTEN): the inverse of the continuous distribution."""
    ranks_of = F.lit(count)
    rank = F.floor(FLATTEN * (F.pow(ranks_of / FLATTEN + 1, uniform) - 1))
    return F.least(rank, ranks_of - 1).cast("int")


def word(words: str, index: Column) -> Column:
    return F.element_at(F.split(F.lit(words), ","), index + 1)


def topic_words(topic: Column) -> Column:
    """[department, word, word, word, word] of a topic; from the 41st topic on each word is preceded by a realm."""
    departments = len(TOPICS.split("|"))
    words = F.split(F.element_at(F.split(F.lit(TOPICS), r"\|"), F.pmod(topic, departments) + 1), " ")
    realm = F.floor(topic / departments)
    # Realms repeat with a number after the last: "lunar 2".
    turn = F.when(realm > 10, F.concat(F.lit(" "), F.floor((realm - 1) / 10) + 1)).otherwise("")
    prefix = F.when(realm == 0, "").otherwise(F.concat(word(REALMS, F.pmod(realm - 1, 10).cast("int")), turn, F.lit(" ")))
    return F.transform(words, lambda each: F.concat(prefix, each))


def ranks(world: Simulate, cluster: Column) -> Column:
    """Shelves of a cluster."""
    return F.ceil((F.lit(world.items) - cluster) / world.clusters).cast("int")


def shift(world: Simulate, rank: Column) -> Column:
    """Topic minus cluster at a rank: 0 for the share `alignment` of ranks, spread evenly; the same in every cluster, so topics are equally large."""
    other = 1.0 - world.alignment
    strange = (F.floor((rank + 1) * other + 1e-9) > F.floor(rank * other + 1e-9)) & (rank < world.items // world.clusters)
    return F.when(strange, 1 + pick(draw(world, "shift", rank), world.clusters - 1)).otherwise(0)


def article(world: Simulate, shelf: Column, day: Column) -> Column:
    """Which article stands on the shelf: shelves are renewed on different days, items / LIFETIME of them each day."""
    generation = F.floor((day + pick(draw(world, "phase", shelf), LIFETIME)) / LIFETIME)
    return F.format_string("i%05d-%03d", shelf, generation)


def catalogue(spark: SparkSession, world: Simulate, first: int, last: int) -> DataFrame:
    """Every article on a shelf in the days first … last, and (for whoever checks an answer) its hidden cluster and topic.

    The one that stands there on the last day is available, the one before it no longer.
    """
    shelves = spark.range(world.items).select(F.col("id").cast("int").alias("shelf"))
    shelves = shelves.withColumn("cluster", F.col("shelf") % world.clusters).withColumn("rank", F.floor(F.col("shelf") / world.clusters).cast("int"))
    shelves = shelves.withColumn("topic", F.pmod(F.col("cluster") + shift(world, F.col("rank")), world.clusters))
    articles = shelves.withColumn("day", F.explode(F.sequence(F.lit(first), F.lit(last)))).withColumn("item_id", article(world, F.col("shelf"), F.col("day")))
    articles = articles.groupBy("shelf", "cluster", "topic", "item_id").agg((F.max("day") == last).alias("is_available"))
    words = topic_words(F.col("topic"))

    def of(what: str) -> Column:
        return draw(world, what, F.col("item_id"))

    noun = F.element_at(words, 2 + pick(of("noun"), 4))
    title = F.concat_ws(
        " ", F.initcap(word(ADJECTIVES, pick(of("adjective"), 16))), F.initcap(noun), word(MODELS, pick(of("model"), 16)), 10 + pick(of("n"), 90)
    )
    about = F.concat_ws(" ", F.lit("A"), word(ADJECTIVES, pick(of("second"), 16)), noun, F.lit("for"), words[0], F.lit("with"), words[1 + pick(of("third"), 4)])
    categories = F.array(F.initcap(words[0]), F.initcap(noun))
    return articles.select("item_id", title.alias("title"), about.alias("text"), categories.alias("categories"), "is_available", "cluster", "topic")


def user_days(spark: SparkSession, world: Simulate, first: int, last: int) -> DataFrame:
    """One row per user and active day, first … last: user, day, liked (three clusters, some equal), mood, events (both surfaces)."""
    user, day = F.col("user"), F.col("day")
    rate = world.events_per_user / world.days * (1 + world.search_share) * (0.25 + 1.5 * draw(world, "activity", user))
    size = F.greatest(F.lit(SESSION), rate)
    days = spark.range(world.users * (last - first + 1)).select(
        (F.col("id") % world.users).alias("user"), (F.floor(F.col("id") / world.users) + first).alias("day")
    )
    active = days.where(draw(world, "active", user, day) * size < rate)
    tastes = 1 + pick(draw(world, "tastes", user), 3)
    liked = F.array(*(zipf(draw(world, "likes", user, F.lit(i) % tastes), world.clusters) for i in range(3)))
    week = F.floor((day + pick(draw(world, "weekday", user), 7)) / 7)
    return active.select(
        user,
        day,
        liked.alias("liked"),
        pick(draw(world, "mood", user, week), 3).alias("mood"),
        (1 + pick(draw(world, "size", user, day), 2 * size - 1)).alias("events"),
    )


def user_events(days: DataFrame, world: Simulate) -> DataFrame:
    """One row per event: what the log will say of it (user_id, item_id, surface, action, query, session_id, event_id) and day, ms (of the day)."""
    user, day, k = F.col("user"), F.col("day"), F.col("k")

    def of(what: str, at: Column = k) -> Column:
        return draw(world, what, user, day, at)

    events = days.withColumn("k", F.explode(F.sequence(F.lit(0), F.col("events") - 1)))
    search = of("surface") * (1 + world.search_share) < world.search_share
    # A chain begins where the user does not take the companion; all its events are told by the one it began with.
    begin = F.array_max(F.filter(F.sequence(F.lit(0), k), lambda i: (i == 0) | (of("companion", i) >= COMPANION)))
    events = events.withColumn("search", search).withColumn("begin", F.when(search, k).otherwise(begin))
    taste = F.col("liked")[F.when(of("moody", F.col("begin")) < MOOD, F.col("mood")).otherwise(pick(of("taste", F.col("begin")), 3))]
    group = F.when(of("noise", F.col("begin")) < world.noise, zipf(of("any", F.col("begin")), world.clusters)).otherwise(taste)
    events = events.withColumn("group", group).withColumn("companions", (k - F.col("begin")) * STRIDE)
    rank = F.pmod(zipf(of("rank", F.col("begin")), ranks(world, F.col("group"))) + F.col("companions"), ranks(world, F.col("group")))
    # The group of a search is a topic: back from the topic at this rank to the cluster.
    cluster = F.when(F.col("search"), F.pmod(F.col("group") - shift(world, F.col("rank")), world.clusters)).otherwise(F.col("group"))
    events = events.withColumn("rank", rank).withColumn("shelf", cluster + F.col("rank") * world.clusters)
    gap = F.least(F.lit(100_000), DAY_MS / (F.col("events") + 1))
    ms = draw(world, "start", user, day) * (DAY_MS - gap * (F.col("events") + 1)) + gap * (k + 0.8 * of("pause"))
    return events.select(
        "day",
        F.floor(ms).alias("ms"),
        F.format_string("u%06d", user).alias("user_id"),
        article(world, F.col("shelf"), day).alias("item_id"),
        F.when(F.col("search"), "search").otherwise("recommendation").alias("surface"),
        F.when(of("action") < 0.85, "click").otherwise("purchase").alias("action"),
        F.when(F.col("search"), query_text(world, F.col("group"), zipf(of("query"), 10))).alias("query"),
        F.format_string("%016x", F.xxhash64(F.lit(world.seed), F.lit("session"), user, day)).alias("session_id"),
        F.format_string("%016x", F.xxhash64(F.lit(world.seed), F.lit("event"), user, day, k)).alias("event_id"),
    )


def query_text(world: Simulate, topic: Column, form: Column) -> Column:
    """One of ten texts that mean a topic: a word of it, its department, a word with the department, an adjective with a word."""
    words = topic_words(topic)
    noun = words[1 + F.pmod(form, 4)]
    adjective = word(ADJECTIVES, pick(draw(world, "asked", topic, form), 16))
    return F.when(form < 4, noun).when(form == 4, words[0]).when(form < 8, F.concat_ws(" ", words[0], noun)).otherwise(F.concat_ws(" ", adjective, noun))


def chosen(share: float, turn: Column) -> Column:
    """Every (1 / share)-th turn: exactly floor(share · n) of n, so that no day has more than its share by chance."""
    return F.floor(turn * share + 1e-9) > F.floor((turn - 1) * share + 1e-9)


def deliver(events: DataFrame, world: Simulate) -> DataFrame:
    """When each event reached the warehouse: within a minute of its day, or, a share `late_share`, one to five days later (arrival, ingested_at)."""
    turn = F.row_number().over(Window.partitionBy("day", "surface").orderBy(draw(world, "late", F.col("event_id")), "event_id"))
    nth = F.floor(F.col("turn") * world.late_share + 1e-9)
    delay = F.element_at(F.array(*map(F.lit, DELAYS)), (F.pmod(nth - 1, len(DELAYS)) + 1).cast("int"))
    events = events.withColumn("turn", turn).withColumn("delay", F.when(chosen(world.late_share, F.col("turn")), delay).otherwise(0))
    wait = 1000 + pick(draw(world, "wait", F.col("event_id")), 59_000)
    came = F.least(F.col("ms") + wait, F.lit(DAY_MS - 1))
    return events.select(
        "*",
        (F.col("day") + F.col("delay")).alias("arrival"),
        instant(F.col("day"), F.col("ms")).alias("event_ts"),
        instant(F.col("day") + F.col("delay"), came).alias("ingested_at"),
    )


def instant(day: Column, ms: Column) -> Column:
    """ISO text with milliseconds, UTC."""
    midnight = (EPOCH - date(1970, 1, 1)).days * DAY_MS
    return F.date_format(F.timestamp_millis(F.lit(midnight) + day * DAY_MS + ms), "yyyy-MM-dd'T'HH:mm:ss.SSS'Z'")


def spoil(arrived: DataFrame, world: Simulate) -> DataFrame:
    """Spoil a share `bad_share` of each day's arrivals, one kind after the other: what ingest has to find."""
    turn = F.row_number().over(Window.partitionBy("arrival", "surface").orderBy(draw(world, "bad", F.col("event_id")), "event_id"))
    kinds = F.when(F.col("surface") == "search", len(SPOILS)).otherwise(len(SPOILS) - 1)
    kind = F.element_at(F.array(*map(F.lit, SPOILS)), (F.pmod(F.floor(F.col("turn") * world.bad_share + 1e-9) + F.col("arrival"), kinds) + 1).cast("int"))
    marked = arrived.withColumn("turn", turn).withColumn("kind", F.when(chosen(world.bad_share, F.col("turn")), kind).otherwise(""))
    return marked.select(
        "arrival",
        "surface",
        "event_id",
        F.when(F.col("kind") != "user", F.col("user_id")).alias("user_id"),
        F.when(F.col("kind") == "item", F.concat(F.lit("lost-"), "item_id")).otherwise(F.col("item_id")).alias("item_id"),
        F.when(F.col("kind") == "time", "yesterday").otherwise(F.col("event_ts")).alias("event_ts"),
        "action",
        "session_id",
        "ingested_at",
        F.when(F.col("kind") == "query", F.repeat("query", 300)).otherwise(F.col("query")).alias("query"),
        F.explode(F.sequence(F.lit(1), F.when(F.col("kind") == "duplicate", 2).otherwise(1))).alias("copy"),
    ).drop("copy")
