"""Recipe → the phrasing of its prompts."""

from model.prompts import Phrasing
from model.recipes import RECIPES
from model.sentences import Sentences
from model.tasks import Tasks

PHRASINGS: dict[str, type[Phrasing]] = {"tasks": Tasks, "sentences": Sentences}


def phrasing_of(recipe: str) -> type[Phrasing]:
    return PHRASINGS[RECIPES[recipe].prompts]
