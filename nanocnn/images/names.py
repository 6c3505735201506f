"""Class names as people write them: which are one, which only look it, and which cannot be."""

import re
import unicodedata
from decimal import Decimal
from pathlib import Path

from nanocnn.system.errors import UserError, did_you_mean

# what shows nothing and takes no place; inside a name it may be the right spelling
ZERO_WIDTH = "\u200b\u2060\ufeff"
OUTER_BLANKS = re.compile(rf"^[\s{ZERO_WIDTH}]+|[\s{ZERO_WIDTH}]+$")
# reorder what a terminal shows after the name, too
BIDIRECTIONAL = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # controls, bytes that are no text, ends of lines
# letters and symbols that are drawn as nothing, and marks that are drawn over what stands before
# them; those of one script, as vowel signs, may be a class of their own
BLANK = set("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
MARKS = re.compile(
    "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f]"
)
# a number, but for 0e1: of letters' codes in hexadecimal digits it is one
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)|[+-]?[1-9]\d*(\.\d*)?e[+-]?\d{1,3}")
THOUSANDS = re.compile(r"[+-]?\d{1,3}([_,' ]\d{3})+")
VARIATION_SELECTORS = {0xFE0E: None, 0xFE0F: None}  # an emoji in black and white or in colour


def nfc(name: str) -> str:
    """`name` in the Unicode normal form in which ü is one character, whatever system wrote it."""
    return unicodedata.normalize("NFC", name)


def by_class(
    where: Path, found: dict[str, list[str]], classes: list[str] | None
) -> dict[str, list[str]]:
    """The paths of each class, of those `found` in `where` for each name.

    Names are compared in NFC; without `classes`, those of the training images, they make them.
    Raises UserError for a name that is none of the classes, that no class can have, or that is
    written in two ways.
    """
    known = {nfc(name): name for name in classes or ()} | {name: name for name in classes or ()}
    spellings: dict[str, list[str]] = {}
    for name in found:
        label = known.get(name, known.get(nfc(name)))
        if label is None:
            check_name(where, name)
            if classes is not None:
                raise UserError(
                    f"{where}: {name!r} is no class of the training images{nearest(name, classes)}"
                )
            label = nfc(name)
        spellings.setdefault(label, []).append(name)
    if classes is None:
        check_spellings(where, spellings)
    return {
        label: [path for name in names for path in found[name]]
        for label, names in spellings.items()
    }


def check_name(where: Path, name: str) -> None:
    """Raises UserError for a name with outer blanks, or one that cannot be printed."""
    bare = OUTER_BLANKS.sub("", name)
    if not bare:
        raise UserError(f"{where}: a class is named {name!r}, which is blank")
    if all(is_invisible(c) for c in bare):
        points = ", ".join(dict.fromkeys(f"U+{ord(c):04X}" for c in bare))
        raise UserError(
            f"{where}: a class is named {name!a}, which shows nothing: it is {points} alone; "
            "give it a name that can be seen"
        )
    if any(c in BIDIRECTIONAL or unicodedata.category(c) in UNPRINTABLE for c in bare):
        raise UserError(f"{where}: a class is named {name!r}, which cannot be printed")
    if name != bare:
        raise UserError(
            f"{where}: the class {name!r} begins or ends with a blank; should be {bare!r}"
        )


def is_invisible(character: str) -> bool:
    is_format = unicodedata.category(character) == "Cf" and character not in BIDIRECTIONAL
    return is_format or character in BLANK or MARKS.fullmatch(character) is not None


def check_spellings(where: Path, spellings: dict[str, list[str]]) -> None:
    """Raises UserError for two names that are meant to be one."""
    for names in spellings.values():
        if len(names) > 1:
            raise UserError(
                f"{where}: {names[0]!a} and {names[1]!a} look the same and are one "
                "class, written in two Unicode normal forms; give all its images one of them"
            )
    # 01 beside 1 is told, and of folders 1.10 beside 1.1, as chapters are called
    kinds = r"\d+|\d*\.\d*[1-9]\d*" if where.is_dir() else "[0-9]+"
    first: dict[Decimal, str] = {}
    for name in spellings:
        number = number_of(name)
        other = name if number is None else first.setdefault(number, name)
        if other != name and not all(re.fullmatch(kinds, each) for each in (other, name)):
            best = min(other, name, key=lambda each: (not each.isascii(), len(each)))
            raise UserError(
                f"{where}: {other!r} and {name!r} would be two classes; "
                f"write one number in one way, such as {best!r}"
            )


def number_of(name: str) -> Decimal | None:
    """The number that `name` is, however it is written; else None."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return Decimal(plain) if NUMBER.fullmatch(plain) else None


def look(name: str) -> str | Decimal:
    """What is left of `name` without all that is easily overlooked, or written otherwise."""
    seen = (c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    plain = " ".join("".join(seen).translate(VARIATION_SELECTORS).casefold().split())
    if THOUSANDS.fullmatch(plain):
        plain = re.sub(r"[_,' ]", "", plain)
    number = number_of(plain)
    return plain if number is None else number


def look_alikes(classes: list[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in case, invisible characters, kinds of blanks or zeros alone."""
    first: dict[str | Decimal, str] = {}
    pairs = [(first.setdefault(look(name), name), name) for name in classes]
    return [(one, other) for one, other in pairs if one != other]


def nearest(name: str, classes: list[str]) -> str:
    """The end of a message about a `name` that is none of `classes`."""
    alike = [known for known in classes if look(known) == look(name)]
    return f"; did you mean {alike[0]!r}?" if alike else did_you_mean(name, classes)
