"""Storage's errors: nearly all are HTTP 400, the meaning is in the body.

Texts and codes are those of storage-api (https://github.com/supabase/storage), recorded from it.
"""

from dataclasses import dataclass

import asyncpg

from picture_queue.local.gateway.credentials import BadToken


@dataclass(eq=False)
class StorageError(Exception):
    """A request that Storage refuses.

    Args:
        status: What the body calls the status.
        error: The older word for the kind.
        message: For the user.
        code: The newer word for the kind.
        http: The HTTP status.
    """

    status: int
    error: str
    message: str
    code: str
    http: int = 400

    def body(self) -> dict[str, str]:
        """The body of the answer."""
        return {
            "statusCode": str(self.status),
            "error": self.error,
            "message": self.message,
            "code": self.code,
        }


_POLICY = "new row violates row-level security policy"


def object_not_found() -> StorageError:
    """No such object, or none that the caller sees."""
    return StorageError(404, "not_found", "Object not found", "NoSuchKey")


def bucket_not_found() -> StorageError:
    """No such bucket, or none that the caller sees."""
    return StorageError(404, "Bucket not found", "Bucket not found", "NoSuchBucket")


def bucket_not_empty() -> StorageError:
    """Return the error for the deletion of a bucket with objects."""
    message = "The bucket you tried to delete is not empty"
    return StorageError(409, "ResourceNotEmpty", message, "ResourceNotEmpty")


def too_large() -> StorageError:
    """More bytes than the bucket or the server takes."""
    message = "The object exceeded the maximum allowed size"
    return StorageError(413, "Payload too large", message, "EntityTooLarge")


def bad_bucket_name() -> StorageError:
    """A name that no bucket can have."""
    return StorageError(400, "Invalid Input", "Bucket name invalid", "InvalidBucketName")


def bad_range() -> StorageError:
    """A range that cannot be served."""
    message = "invalid range provided"
    return StorageError(416, "invalid_range", message, "InvalidRange", http=416)


def database_away() -> StorageError:
    """Nothing can be said without the database."""
    message = "The database is not there"
    return StorageError(503, "DatabaseError", message, "DatabaseError", http=503)


def internal() -> StorageError:
    """The row has no bytes."""
    return StorageError(500, "Internal", "Internal Server Error", "InternalError", http=500)


def invalid_role() -> StorageError:
    """For service keys only."""
    message = "Access denied: Invalid role"
    return StorageError(403, "Unauthorized", message, "AccessDenied", http=403)


def access_denied(message: str) -> StorageError:
    """The caller may not."""
    return StorageError(403, "Unauthorized", message, "AccessDenied")


def invalid(message: str) -> StorageError:
    """The request does not fit its schema."""
    return StorageError(400, "Error", message, "InvalidRequest")


def invalid_request(message: str) -> StorageError:
    """The request fits its schema and makes no sense."""
    return StorageError(400, "InvalidRequest", message, "InvalidRequest")


def invalid_key(name: str) -> StorageError:
    """The object's name has characters that are not allowed."""
    return StorageError(400, "InvalidKey", f"Invalid key: {name}", "InvalidKey")


def invalid_mime_type(mime_type: str) -> StorageError:
    """The bucket does not take this type, or it is none."""
    message = f"mime type {mime_type} is not supported"
    return StorageError(415, "invalid_mime_type", message, "InvalidMimeType")


def invalid_jwt(error: BadToken) -> StorageError:
    """The token in a signed URL is not valid."""
    return StorageError(400, "InvalidJWT", token_flaw(error), "InvalidJWT")


def invalid_signature(message: str) -> StorageError:
    """The token in a signed URL is valid, for something else."""
    return StorageError(400, "InvalidSignature", message, "InvalidSignature")


def duplicate(code: str) -> StorageError:
    """Something of that name exists."""
    return StorageError(409, "Duplicate", "The resource already exists", code)


def token_flaw(error: BadToken) -> str:
    """The message of the server's JWT library for a bad token."""
    return {
        "expired": '"exp" claim timestamp check failed',
        "not yet valid": '"nbf" claim timestamp check failed',
        "algorithm": '"alg" (Algorithm) Header Parameter value not allowed',
        "signature": "signature verification failed",
        "signature encoding": "Failed to base64url decode the signature",
        "role": error.message,
    }.get(error.flaw, "Invalid Compact JWS")


def from_database(error: asyncpg.PostgresError, *, exists: str) -> StorageError:
    """Translate an error of the database.

    Args:
        error: As raised.
        exists: Code for a duplicate.
    """
    match error:
        case asyncpg.InsufficientPrivilegeError():
            text = str(error)
            return access_denied(_POLICY if "row-level security" in text else text)
        case asyncpg.UniqueViolationError():
            return duplicate(exists)
        case asyncpg.ForeignKeyViolationError():
            message = "The related resource does not exist"
            return StorageError(404, "InvalidRequest", message, "InvalidRequest")
        case asyncpg.InvalidTextRepresentationError():
            return StorageError(400, "InvalidParameter", str(error), "InvalidParameter")
        case asyncpg.DataError(sqlstate="22000" | "22021" | "22P05"):
            # Zero bytes, and halves of characters: asyncpg refuses those itself, quoting them.
            message = "a text holds a character that cannot be stored"
            return StorageError(400, "InvalidParameter", message, "InvalidParameter")
        case asyncpg.CannotConnectNowError() | asyncpg.TooManyConnectionsError():
            return database_away()
    message = f"database error, code: {error.sqlstate}"
    return StorageError(500, "DatabaseError", message, "DatabaseError", http=500)
