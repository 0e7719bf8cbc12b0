"""Figures and phrases of BENCHMARKS.md."""


def number(value):
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def times(value):
    return "-" if value is None else f"**{value:.2f}×**" if value < 100 else f"**{value:,.0f}×**"


def shortened(text, length=140):
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= length else text[: length - 1] + "…"


def block(command):
    return f"```sh\n{command}\n```"


def joined(parts):
    return "; ".join(part for part in parts if part)


def missing_part(error):
    """Why there is no figure, in a cell's space."""
    if "does not fit" in error or "memory" in error:
        return "does not fit"
    return shortened(error, 60)
