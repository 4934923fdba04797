"""What a pickle wants imported: the names that processes of two versions have to agree on."""

import io
import pickle

OURS = ("ledger", "serve_app", "training", "db")


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.names: set[str] = set()

    def find_class(self, module: str, name: str):
        self.names.add(f"{module}.{name}")
        return super().find_class(module, name)


def names_in(data: bytes) -> set[str]:
    """The classes and functions of ours, by module and name. Loads the pickle."""
    reader = _Reader(data)
    reader.load()
    return {name for name in reader.names if name.startswith(OURS)}
