"""Recipe → the form of its prompts."""

from model.prompts import Form
from model.recipes import RECIPES
from model.sentences import Sentences
from model.tasks import Tasks

FORMS: dict[str, type[Form]] = {"tasks": Tasks, "sentences": Sentences}


def form_of(recipe: str) -> type[Form]:
    return FORMS[RECIPES[recipe].prompts]
