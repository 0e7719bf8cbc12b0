"""Figures and tables as people read them, in Markdown."""


def mib(count):
    return "-" if count is None else f"{count / 2**20:,.0f} MiB"


def gib(count):
    return f"{count / 2**30:.2f} GiB"


def markdown(head, rows, words=None):
    """A table; all but the first `words` columns are numbers, flush right; by default none is."""
    words = len(head) if words is None else words
    rules = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, rules, *rows])
