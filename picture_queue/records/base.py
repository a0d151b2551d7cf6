"""The base of all records."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all records. It is immutable and ignores columns that a newer database adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())
