"""Errors of Storage. Nearly all have HTTP status 400; the exact status is in the body.

Messages and codes are recorded from storage-api (https://github.com/supabase/storage).
"""

from dataclasses import dataclass

import asyncpg

from picture_queue.local.gateway.credentials import InvalidToken


@dataclass(eq=False)
class StorageError(Exception):
    """A request that Storage refuses.

    Args:
        status: The status in the body.
        error: The code in the key ``error``, which older clients read.
        message: The message for the user.
        code: The code in the key ``code``, which newer clients read.
        http: The HTTP status of the answer.
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
    """Return the error for an object that does not exist or is not visible to the caller."""
    return StorageError(404, "not_found", "Object not found", "NoSuchKey")


def bucket_not_found() -> StorageError:
    """Return the error for a bucket that does not exist or is not visible to the caller."""
    return StorageError(404, "Bucket not found", "Bucket not found", "NoSuchBucket")


def bucket_not_empty() -> StorageError:
    """Return the error for the deletion of a bucket with objects."""
    message = "The bucket you tried to delete is not empty"
    return StorageError(409, "ResourceNotEmpty", message, "ResourceNotEmpty")


def too_large() -> StorageError:
    """Return the error for an object above the limit of the bucket or the server."""
    message = "The object exceeded the maximum allowed size"
    return StorageError(413, "Payload too large", message, "EntityTooLarge")


def bad_bucket_name() -> StorageError:
    """Return the error for an invalid name of a bucket."""
    return StorageError(400, "Invalid Input", "Bucket name invalid", "InvalidBucketName")


def bad_range() -> StorageError:
    """Return the error for an invalid range."""
    message = "invalid range provided"
    return StorageError(416, "invalid_range", message, "InvalidRange", http=416)


def database_unavailable() -> StorageError:
    """Return the error for a database that cannot be reached."""
    message = "The database cannot be reached"
    return StorageError(503, "DatabaseError", message, "DatabaseError", http=503)


def internal() -> StorageError:
    """Return the error for a row whose file is missing."""
    return StorageError(500, "Internal", "Internal Server Error", "InternalError", http=500)


def invalid_role() -> StorageError:
    """Return the error for a request that needs a service key."""
    message = "Access denied: Invalid role"
    return StorageError(403, "Unauthorized", message, "AccessDenied", http=403)


def access_denied(message: str) -> StorageError:
    """Return the error for a caller without the privilege."""
    return StorageError(403, "Unauthorized", message, "AccessDenied")


def invalid(message: str) -> StorageError:
    """Return the error for a request that does not match its schema."""
    return StorageError(400, "Error", message, "InvalidRequest")


def invalid_request(message: str) -> StorageError:
    """Return the error for a request that matches its schema but is not valid."""
    return StorageError(400, "InvalidRequest", message, "InvalidRequest")


def invalid_key(name: str) -> StorageError:
    """Return the error for an invalid name of an object."""
    return StorageError(400, "InvalidKey", f"Invalid key: {name}", "InvalidKey")


def invalid_mime_type(mime_type: str) -> StorageError:
    """Return the error for a type that is invalid or that the bucket does not allow."""
    message = f"mime type {mime_type} is not supported"
    return StorageError(415, "invalid_mime_type", message, "InvalidMimeType")


def invalid_jwt(error: InvalidToken) -> StorageError:
    """Return the error for an invalid token in a signed URL."""
    return StorageError(400, "InvalidJWT", token_message(error), "InvalidJWT")


def invalid_signature(message: str) -> StorageError:
    """Return the error for the token of another signed URL."""
    return StorageError(400, "InvalidSignature", message, "InvalidSignature")


def duplicate(code: str) -> StorageError:
    """Return the error for a name that is taken."""
    return StorageError(409, "Duplicate", "The resource already exists", code)


def token_message(error: InvalidToken) -> str:
    """Return the message of storage-api's JWT library for an invalid token."""
    return {
        "expired": '"exp" claim timestamp check failed',
        "not yet valid": '"nbf" claim timestamp check failed',
        "algorithm": '"alg" (Algorithm) Header Parameter value not allowed',
        "signature": "signature verification failed",
        "signature encoding": "Failed to base64url decode the signature",
        "role": error.message,
    }.get(error.problem, "Invalid Compact JWS")


def from_database(error: asyncpg.PostgresError, *, exists: str) -> StorageError:
    """Translate an error of the database.

    Args:
        error: The error of asyncpg.
        exists: The code of the error if the name is taken.
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
            # The text has a zero byte or a lone surrogate. Do not use the message of asyncpg, which
            # quotes this character.
            message = "a text contains a character that cannot be stored"
            return StorageError(400, "InvalidParameter", message, "InvalidParameter")
        case asyncpg.CannotConnectNowError() | asyncpg.TooManyConnectionsError():
            return database_unavailable()
    message = f"database error, code: {error.sqlstate}"
    return StorageError(500, "DatabaseError", message, "DatabaseError", http=500)
