"""Column names and words that a run's table has, in tables that its model reads."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fof_jax.data.csv_reader import TableReader
from fof_jax.data.words import parse


@dataclasses.dataclass(frozen=True)
class TableForm:
    """The fields `data.columns` and `data.words` of a run.

    Attributes:
      columns: standard name -> name in the run's table. A table that lacks a name of
        the run may have the standard one.
      words: what words of the markers' columns mean, see `words.parse`.
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    words: Sequence[str] = ()

    @classmethod
    def of(cls, config: ConfigDict) -> "TableForm":
        """The form of a run's table."""
        columns = config.data.get("columns")
        return cls(columns.to_dict() if columns else {}, config.data.get("words", ()))

    def load(self, table: Path, markers: Sequence[str] = ()) -> TableReader:
        """Reads a table with standard column names, and integers for words.

        Args:
          table: the CSV.
          markers: columns whose words are replaced.

        Returns:
          the loaded reader, with errors of the file's form, if any.
        """
        reader = TableReader(table)
        reader.load()
        reader.rename(self._present(reader))
        reader.translate(markers, parse(self.words))
        return reader

    def cohort_arguments(self, table: Path) -> dict[str, Any]:
        """Arguments of `read_cohort` that name this table's columns and words."""
        reader = TableReader(table)
        reader.load()
        return {"columns": self._present(reader), "words": self.words}

    def _present(self, reader: TableReader) -> dict[str, str]:
        return {k: name for k, name in self.columns.items() if name in reader.header}
