"""How far the world has moved: what people choose, and what there is to choose from.     Frames in, frames out; knows no page and no path.

Two numbers a day, told by the report and judged by nobody. Both are shares, so that a growing warehouse alone moves neither.
"""

from datetime import date, timedelta

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

WEEK = 7
HEAD = 0.1  # of the items that were chosen in the week: fewer, and on a small catalogue the share is noise


def popularity(events: DataFrame, day: date, days: int) -> DataFrame:
    """(day, surface, kept): of the actions on each of the last `days` days up to `day`, the share on the items that were the top tenth of the
    seven days before.

    `events` has item_id, surface, event_ts. 0 … 1; steady tastes keep it level, and a sudden fall is a new season, a campaign, a flood or a
    broken log. No row for a day without actions, or with none in its week before.
    """
    of_day = events.select("item_id", "surface", F.to_date("event_ts").alias("day"))
    first = day - timedelta(days=days - 1)
    recent = of_day.where(F.col("day").between(F.lit(first - timedelta(days=WEEK)), F.lit(day)))
    counts = recent.groupBy("surface", "day", "item_id").agg(F.count("*").alias("n"))
    # Each day's count belongs to the weeks before the seven days that follow it.
    later = counts.withColumn("day", F.explode(F.expr(f"transform(sequence(1, {WEEK}), ahead -> date_add(day, ahead))")))
    weeks = later.where(F.col("day").between(F.lit(first), F.lit(day))).groupBy("surface", "day", "item_id").agg(F.sum("n").alias("before"))
    whole = Window.partitionBy("surface", "day")
    place = F.row_number().over(whole.orderBy(F.desc("before"), "item_id"))
    ranked = weeks.withColumn("head", place <= F.greatest(F.lit(1), F.floor(HEAD * F.count("*").over(whole))))
    joined = counts.join(ranked, ["surface", "day", "item_id"], "left")
    kept = F.sum(F.when(F.col("head"), F.col("n")).otherwise(0)) / F.sum("n")
    known = weeks.select("surface", "day").distinct()
    return joined.join(known, ["surface", "day"], "left_semi").groupBy("day", "surface").agg(kept.alias("kept")).orderBy("surface", "day")


def catalogue(items: DataFrame) -> DataFrame:
    """(ds, available, new, gone): the available items of each day that `items` holds; the share of them that the day before it there had not,
    and the items that only the day before had, as a share of that day's.

    `items` has item_id, is_available, ds. The first day's shares are null.
    """
    there = items.where("is_available").select("item_id", "ds").distinct()
    sizes = there.groupBy("ds").agg(F.count("*").alias("available"))
    by_day = Window.orderBy("ds")  # of one row a day
    sizes = sizes.withColumn("previous", F.lag("ds").over(by_day)).withColumn("had", F.lag("available").over(by_day))
    stayed = there.join(sizes.select("ds", "previous"), "ds").select("item_id", "ds", F.col("previous").alias("was"))
    both = stayed.join(there.select("item_id", F.col("ds").alias("was")), ["item_id", "was"]).groupBy("ds").agg(F.count("*").alias("both"))
    same = F.when(F.col("previous").isNotNull(), F.coalesce("both", F.lit(0)))
    shares = ((F.col("available") - same) / F.col("available")).alias("new"), ((F.col("had") - same) / F.col("had")).alias("gone")
    return sizes.join(both, "ds", "left").select("ds", "available", *shares).orderBy("ds")
