"""Stores the output of finished steps until the nightly run is over, so that a killed run is continued.

Each step's output is a folder `STATE/night/<step>-<key>`, whose key is a hash of everything it was made from. It
appears by one rename and holds the hash of every file, so that a half-written one is never used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from training import program
from training.features.keys import Keys
from training.fitting.dataset import TrainingSet
from training.fitting.engines import Boosters
from training.trees.engines import LightGbmTrees, XgboostTrees, reference

HASHES = "hashes.json"
KEY_LENGTH = 16
Made = TypeVar("Made")


class Checkpoints:
    """The finished steps in a folder. To be used only while the night's lock is held."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, step: str, key: str) -> Path | None:
        """The step's folder, if the step was finished with this key and its files are intact; else None."""
        folder = self._folder(step, key)
        try:
            hashes = json.loads((folder / HASHES).read_text())
            whole = hashes == _hashes(folder)
        except (OSError, ValueError):
            return None
        return folder if whole else None

    @contextmanager
    def making(self, step: str, key: str) -> Iterator[Path]:
        """A folder to fill. If the block ends without an error, it replaces the step's earlier output.

        Raises:
            OSError: the folder cannot be written.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        draft = self.root / f".{step}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            yield draft
            (draft / HASHES).write_text(json.dumps(_hashes(draft)))
            for older in self.root.glob(f"{step}-*"):
                shutil.rmtree(older)
            draft.rename(self._folder(step, key))
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def load_or_make(
        self,
        step: str,
        key: str,
        *,
        load: Callable[[Path], Made],
        make: Callable[[], Made],
        save: Callable[[Made, Path], None],
    ) -> tuple[Made, bool]:
        """(the step's output, whether an earlier run had made it)."""
        folder = self.find(step, key)
        if folder is not None:
            return load(folder), True
        made = make()
        with self.making(step, key) as draft:
            save(made, draft)
        return made, False

    def forget(self) -> None:
        """Delete everything: the run is over, or is to start from the beginning."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _folder(self, step: str, key: str) -> Path:
        return self.root / f"{step}-{key[:KEY_LENGTH]}"


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for directory, _, files in os.walk(folder):
        for name in files:
            path = Path(directory) / name
            if name != HASHES:
                with path.open("rb") as file:
                    found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def fingerprint(*parts: object) -> str:
    """SHA-256 of these values as JSON, 64 hexadecimal digits; what JSON does not know is taken as text.

    >>> fingerprint(1, "a")[:8] == fingerprint(1, "b")[:8]
    False
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def of_history(frame: pd.DataFrame) -> str:
    """SHA-256 of a history's content."""
    return hashlib.sha256(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes()).hexdigest()


def of_program() -> str:
    """SHA-256 of this package's source and of its libraries' versions: after a change, everything is made again."""
    libraries = [version(name) for name in ("lightgbm", "xgboost-cpu", "numpy")]
    return fingerprint(*libraries, program.digest())


def save_features(data: TrainingSet, folder: Path) -> None:
    """Write the arrays of a training set; its history and keys are quickly made again."""
    for name, value in data._asdict().items():
        if isinstance(value, np.ndarray):
            np.save(folder / f"{name}.npy", value)


def load_features(folder: Path, frame: pd.DataFrame) -> TrainingSet:
    """The training set that `save_features` has written.

    Args:
        frame: the history that it was made from.
    """
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    return TrainingSet(frame=frame, keys=Keys.of(frame), **arrays)


def save_fit(boosters: Boosters, folder: Path) -> None:
    """Write the trees as text, a file each."""
    for name, trees in boosters._asdict().items():
        if trees is not None:
            (folder / f"{name}.{trees.engine}").write_text(trees.text)


def load_fit(folder: Path) -> Boosters:
    """The trees that `save_fit` has written."""
    engines = [LightGbmTrees.engine, XgboostTrees.engine]
    found = {
        path.stem: reference(engine, path.read_text()) for engine in engines for path in folder.glob(f"*.{engine}")
    }
    return Boosters(found["final"], found.get("held_out"))
