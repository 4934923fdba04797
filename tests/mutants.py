"""Model files as they must never go live: damaged, edited, swapped. Every one differs in what it says, not in form."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from training.model.bundle import ENCODER, FILES, MANIFEST, TREES, Parts, sha256, signed
from training.model.store import parts_of

Document = dict[str, Any]
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
GIANT = b"9" * 5000


# Any file, as bytes


def truncated(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data))]


def bit_flipped(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 8, 64))):
        changed[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def cut(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + data[at + dice.randint(1, 400) :]


def inserted(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.randbytes(dice.randint(1, 40)) + data[at:]


def other_number(data: bytes, dice: random.Random) -> bytes:
    found = dice.choice(list(NUMBER.finditer(data)))
    number = dice.choice((b"0", b"-1", b"1e308", b"-99999999", b"2147483648", b"nan", b"7", GIANT))
    return data[: found.start()] + number + data[found.end() :]


def line_moved(data: bytes, dice: random.Random) -> bytes:
    lines = data.split(b"\n") if b"\n" in data else data.split(b",")
    lines.insert(dice.randrange(len(lines)), lines.pop(dice.randrange(len(lines))))
    return (b"\n" if b"\n" in data else b",").join(lines)


def zeroed(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + bytes(min(dice.choice((1, 512, 4096)), len(data) - at)) + data[at + 4096 :]


def not_utf8(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80")) + data[at:]


def nested(_data: bytes, dice: random.Random) -> bytes:
    depth = dice.choice((1_000, 100_000))
    return dice.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))


def emptied(_data: bytes, dice: random.Random) -> bytes:
    return dice.choice((b"", b"\n", b"null", b"{}", b"[]", b"0", b"\x00" * 64, b"tree\n"))


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(truncated, bit_flipped, cut, inserted, other_number, line_moved, zeroed, not_utf8, nested, emptied),
)


# The manifest, as JSON


def key_gone(document: Document, dice: random.Random) -> None:
    del document[dice.choice(sorted(document))]


def key_renamed(document: Document, dice: random.Random) -> None:
    name = dice.choice(sorted(document))
    document[name.upper()] = document.pop(name)


def value_replaced(document: Document, dice: random.Random) -> None:
    name = dice.choice(sorted(document))
    document[name] = dice.choice((None, -1, 1e300, "", "\ud800", [], {}, True, [[[]]], "20300101T000000-abcdef"))


def file_renamed(document: Document, dice: random.Random) -> None:
    name = dice.choice(sorted(document["files"]))
    document["files"]["../" + name] = document["files"].pop(name)


def hash_changed(document: Document, dice: random.Random) -> None:
    document["files"][dice.choice(sorted(document["files"]))] = f"{dice.getrandbits(256):064x}"


def unsigned(document: Document, dice: random.Random) -> None:
    document["signature"] = dice.choice(("", "0" * 64, "é" * 64, None, 5, [], f"{dice.getrandbits(256):064x}"))


JSON: tuple[Callable[[Document, random.Random], None], ...] = (
    *(key_gone, key_renamed, value_replaced, file_renamed, hash_changed, unsigned),
)


def broken_directories(directory: Path, other: Path, number: int, seed: int) -> Iterator[str]:
    """Changes the directory in so many ways, one after the other, each from what it was; yields what was done.

    Args:
        other: another version's.
    """
    whole = {file: (directory / file).read_bytes() for file in (MANIFEST, *FILES)}
    dice, made = random.Random(seed), 0
    original = parts_of(directory)
    for what, damage in [*_special(directory, other), *_signed_by_others(directory, other)]:
        damage()
        yield what
        _restore(directory, whole)
        made += 1
    while made < number:
        if dice.randrange(len(BYTES) + len(JSON)) < len(JSON):
            file, edit = MANIFEST, dice.choice(JSON)
            document = json.loads(whole[MANIFEST])
            edit(document, dice)
            what, data = edit.__name__, json.dumps(document).encode()
        else:
            file, change = dice.choice((MANIFEST, *FILES)), dice.choice(BYTES)
            what, data = change.__name__, change(whole[file], dice)
        if _says_the_same(file, data, original):
            continue
        (directory / file).write_bytes(data)
        yield f"{file} {what}"
        (directory / file).write_bytes(whole[file])
        made += 1


def _says_the_same(file: str, data: bytes, original: Parts) -> bool:
    try:
        return (
            bool(json.loads(data) == original.manifest) if file == MANIFEST else data.decode() == original.texts[file]
        )
    except (ValueError, RecursionError):
        return False


def _restore(directory: Path, whole: dict[str, bytes]) -> None:
    if directory.is_symlink() or directory.is_file():
        directory.unlink()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for file, data in whole.items():
        (directory / file).write_bytes(data)


Damage = Callable[[], None]


def _special(directory: Path, other: Path) -> Iterator[tuple[str, Damage]]:
    """What is no file, or not this version's."""

    def instead(file: str, make: Callable[[Path], None]) -> Damage:
        def damage() -> None:
            (directory / file).unlink()
            make(directory / file)

        return damage

    def other_s(*files: str) -> Damage:
        def damage() -> None:
            for file in files:
                shutil.copyfile(other / file, directory / file)

        return damage

    def in_place_of_all(make: Callable[[Path], object]) -> Damage:
        def damage() -> None:
            shutil.rmtree(directory)
            make(directory)

        return damage

    def trees(pattern: str, put: str) -> Damage:
        def damage() -> None:
            path = directory / TREES
            path.write_text(re.sub(pattern, put, path.read_text(), flags=re.DOTALL))

        return damage

    for file in (MANIFEST, *FILES):
        yield f"{file} missing", (directory / file).unlink
        yield f"{file} a directory", instead(file, Path.mkdir)
        yield f"{file} a pipe", instead(file, os.mkfifo)
        yield f"{file} a link to itself", instead(file, lambda path: path.symlink_to(path))
        yield f"{file} a link to nowhere", instead(file, lambda path: path.symlink_to("nowhere"))
        yield f"{file} a link to a device", instead(file, lambda path: path.symlink_to("/dev/zero"))
        yield f"{file} a link to another version's", instead(file, lambda path: path.symlink_to(other / path.name))
        yield f"{file} of another version", other_s(file)
        yield f"{file} two gigabytes", partial(os.truncate, directory / file, 2 << 30)
    yield "all files of another version", other_s(MANIFEST, *FILES)
    yield "nothing", partial(shutil.rmtree, directory)
    yield "a file for a directory", in_place_of_all(lambda path: path.write_text("x"))
    yield "a link to another version", in_place_of_all(lambda path: path.symlink_to(other))
    yield "a tree dropped", trees(r"Tree=1\n.*?(?=Tree=2\n)", "")
    yield "a tree twice", trees(r"(Tree=1\n.*?)(?=Tree=2\n)", r"\1\1")


def _signed_by_others(directory: Path, other: Path) -> Iterator[tuple[str, Damage]]:
    manifest = directory / MANIFEST

    def resigned(key: bytes) -> None:
        document = {name: value for name, value in json.loads(manifest.read_text()).items() if name != "signature"}
        manifest.write_text(json.dumps(signed(document, key)))

    def signature_of_another() -> None:
        theirs = json.loads((other / MANIFEST).read_text())["signature"]
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"signature": theirs}))

    yield "signed with another key", lambda: resigned(b"another key, of somebody else")
    yield "signed with an empty key", lambda: resigned(b"")
    yield "signed for another version", signature_of_another


def broken_bundles(whole: str, other: str, number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(what was done, Redis's copy after it)."""
    original, theirs = json.loads(whole), json.loads(other)
    dice, made = random.Random(seed), 0
    mixed: list[tuple[str, Document]] = [
        ("another version", theirs),
        ("another version's manifest", original | {"manifest": theirs["manifest"]}),
        ("another version's files", original | {"files": theirs["files"]}),
        *(
            (f"another version's {file}", original | {"files": original["files"] | {file: theirs["files"][file]}})
            for file in FILES
        ),
        *((f"no {file}", original | {"files": {f: "" for f in FILES if f != file}}) for file in FILES),
        *((f"{file} no text", original | {"files": original["files"] | {file: 5}}) for file in FILES),
        *((f"{file} half a character", original | {"files": original["files"] | {file: "\ud800"}}) for file in FILES),
    ]  # fmt: skip
    for what, document in mixed:
        yield what, json.dumps(document).encode()
        made += 1
    while made < number:
        if dice.randrange(len(BYTES) + len(JSON)) < len(JSON):
            edit, document = dice.choice(JSON), json.loads(whole)
            edit(document["manifest"], dice)
            what, data = edit.__name__, json.dumps(document).encode()
        else:
            change = dice.choice(BYTES)
            what, data = change.__name__, change(whole.encode(), dice)
        try:
            if json.loads(data) == original:
                continue
        except (ValueError, RecursionError):
            pass
        yield f"bundle {what}", data
        made += 1


# Signed by us: what a bug or an attacker inside the pipeline may make


def signed_anew(parts: Parts, key: bytes, *, trees: str | None = None, encoder: Any = None, **manifest: Any) -> Parts:
    """With other content and everything that vouches for it made to agree."""
    texts = dict(parts.texts)
    if trees is not None:
        texts[TREES] = trees
    if encoder is not None:
        texts[ENCODER] = encoder if isinstance(encoder, str) else json.dumps(encoder)
    body = parts.body | manifest
    body["files"] = parts.body["files"] | {file: sha256(text) for file, text in texts.items()}
    return Parts(signed(body, key), texts)


def signed_and_broken(parts: Parts, key: bytes) -> Iterator[tuple[str, Parts]]:
    """None of these may be served."""
    text, encoder, golden = parts.texts[TREES], json.loads(parts.texts[ENCODER]), parts.body["golden"]

    def edited(pattern: str, put: str, count: int = 0) -> str:
        changed = re.sub(pattern, put, text, count=count)
        assert changed != text, pattern
        return changed

    yield "children out of range", signed_anew(parts, key, trees=edited(r"(left_child=)-?\d+", r"\g<1>99999999"))
    yield "leaves out of range", signed_anew(parts, key, trees=edited(r"(right_child=)-?\d+", r"\g<1>-99999999"))
    yield "features out of range", signed_anew(parts, key, trees=edited(r"(split_feature=)\d+", r"\g<1>123456789"))
    yield (
        "two thousand million leaves",
        signed_anew(parts, key, trees=edited(r"num_leaves=\d+", "num_leaves=2000000000")),
    )
    yield "fewer leaves than there are", signed_anew(parts, key, trees=edited(r"num_leaves=\d+", "num_leaves=2"))
    yield "sizes that lie", signed_anew(parts, key, trees=edited(r"tree_sizes=\d+", "tree_sizes=17"))
    yield "cut off", signed_anew(parts, key, trees=text[: len(text) // 2])
    yield "empty trees", signed_anew(parts, key, trees="")
    yield "leaves that are no numbers", signed_anew(parts, key, trees=edited(r"(leaf_value=)\S+", r"\g<1>nan"))
    yield "a class too many", signed_anew(parts, key, trees=edited(r"num_class=1", "num_class=3"))
    other_leaves = re.sub(r"(?m)^leaf_value=.*$", lambda line: line[0].replace(".0", ".3"), text)
    yield "other leaves of the same length", signed_anew(parts, key, trees=other_leaves)
    first_leaves = re.sub(r"(leaf_value=)\S+", r"\g<1>0.5", text)
    yield "the first leaf of every tree", signed_anew(parts, key, trees=first_leaves)
    yield "an encoder without tuples", signed_anew(parts, key, encoder=encoder | {"words": encoder["exposures"]})
    yield "an encoder whose keys lead nowhere", signed_anew(parts, key, encoder=encoder | {"parents": encoder["words"]})
    yield "an encoder without words", signed_anew(parts, key, encoder=encoder | {"vocabulary": [[]] * 5})
    yield "an encoder that is none", signed_anew(parts, key, encoder="[" * 100_000)
    yield "calibration doubled", signed_anew(parts, key, calibration=2 * parts.body["calibration"])
    yield "calibration no number", signed_anew(parts, key, calibration="much")
    yield "calibration NaN", signed_anew(parts, key, calibration=float("nan"))
    yield "no golden rows", signed_anew(parts, key, golden=None)
    yield "golden rows of other ids", signed_anew(parts, key, golden=golden | {"ids": golden["ids"][::-1]})
    yield "no day", signed_anew(parts, key, trained_through="yesterday")


def one_leaf_changed(parts: Parts, key: bytes, dice: random.Random) -> Parts:
    """A digit somewhere in a leaf: the golden rows need not notice."""
    text = parts.texts[TREES]
    line = dice.choice(list(re.finditer(r"leaf_value=(.*)", text)))
    at = dice.choice([line.start(1) + i for i, c in enumerate(line[1]) if c.isdigit()])
    return signed_anew(parts, key, trees=text[:at] + str((int(text[at]) + dice.randint(1, 9)) % 10) + text[at + 1 :])


def write(parts: Parts, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for file, text in ({MANIFEST: json.dumps(parts.manifest)} | parts.texts).items():
        (directory / file).write_text(text)
