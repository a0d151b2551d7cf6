"""The base of all records."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all records. Records are immutable and ignore fields that a newer database adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())
