"""Draws words and fills templates; every draw comes from one seeded stream."""
import re

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{(a |A )?(\w+)\}")


class Writer:
    """Uses only `random()`, whose sequence Python promises to keep from version to version."""

    def __init__(self, random):
        self.random = random

    def number(self, low, high):
        """A whole number from `low` to `high`, both included."""
        return low + int(self.random() * (high - low + 1))

    def pick(self, options):
        return options[int(self.random() * len(options))]

    def several(self, options, count):
        """`count` different options in random order."""
        rest = list(options)
        return [rest.pop(int(self.random() * len(rest))) for _ in range(count)]

    def fill(self, template, facts):
        """`[a|b]` picks one (also nested, also empty); `{x}` is a fact, `{X}` capitalised, `{a x}` with its article."""
        while CHOICE.search(template):
            template = CHOICE.sub(lambda found: self.pick(found[1].split("|")), template)
        text = SLOT.sub(lambda found: slot(found[1], found[2], facts), template)
        return re.sub(" +", " ", text)  # an empty choice leaves two spaces

    def document(self, facts, *paragraphs):
        """Filled paragraphs, one a line; an empty one is left out."""
        lines = (self.fill(paragraph, facts).strip() for paragraph in paragraphs)
        return "\n".join(line for line in lines if line)


def slot(article, key, facts):
    word = str(facts[key[0].lower() + key[1:]])
    if key[0].isupper():
        word = word[0].upper() + word[1:]
    if article:
        word = article[0] + ("n " if word[0] in "aeiou" else " ") + word
    return word
