"""From an error of the operating system or of botocore to one line that says what, where and what to do."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from runner.errors import ObjectNotFoundError, StorageError

WRONG_KEYS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "InvalidSecurity",
}
WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
OVERLOADED = {
    "SlowDown",
    "RequestTimeout",
    "RequestTimeoutException",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    # Two conditional writes met: the request was not carried out and has to be sent again.
    "ConditionalRequestConflict",
    "OperationAborted",
}


@contextmanager
def reporting(where: str | Path, *errors: type[Exception]) -> Generator[None]:
    """Turns an OSError, or one of `errors`, inside the block into the StorageError about `where`."""
    try:
        yield
    except (OSError, *errors) as error:
        raise storage_error(error, str(where)) from error


def storage_error(error: Exception, where: str) -> StorageError:
    """The StorageError that tells a user about `error`, an OSError or an error of botocore, at `where`."""
    # Not by type alone: some of botocore's errors are OSErrors too.
    if isinstance(error, OSError) and not where.startswith("s3://"):
        return local_error(error, where)
    return s3_error(error, where)


def local_error(error: OSError, where: str) -> StorageError:
    """The line for an error of the operating system."""
    match error.errno:
        case errno.ENOENT:
            return ObjectNotFoundError(f"there is no file {where}: check the path")
        case errno.EACCES | errno.EPERM:
            return StorageError(f"permission denied: {where}; choose another folder or correct its owner")
        case errno.EROFS:
            return StorageError(f"the file system is read-only: {where}; choose another folder")
        case errno.ENOSPC | errno.EDQUOT:
            return StorageError(f"the disk is full: {where}; free space or choose another folder")
        case errno.ENOTDIR | errno.EEXIST:
            path = Path(where)
            file = next((parent for parent in (path, *path.parents) if parent.is_file()), path)
            return StorageError(f"{file} is a file, not a folder: cannot use {where}; choose another path")
        case errno.EISDIR:
            return StorageError(f"{where} is a folder, not a file: choose another name or remove it")
        case errno.ENAMETOOLONG:
            return StorageError(f"the file system does not take such a long name: {where}; shorten it")
        case _:
            return StorageError(f"storage failed at {where}: {error.strerror or error}; try again")


def s3_error(error: Exception, where: str) -> StorageError:
    """The line for an error of botocore."""
    from botocore import exceptions

    match error:
        case exceptions.ClientError():
            return answered_error(error, where)
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            return StorageError(
                f"no AWS credentials found: {where} needs them; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role"
            )
        case (
            exceptions.ProfileNotFound()
            | exceptions.CredentialRetrievalError()
            | exceptions.SSOError()
            | exceptions.TokenRetrievalError()
        ):
            return StorageError(f"no usable AWS credentials for {where}: {error}; check AWS_PROFILE or log in")
        case exceptions.SSLError():
            return StorageError(f"no trusted connection to {where}: {error}; check AWS_CA_BUNDLE")
        case exceptions.ConnectionError() | exceptions.HTTPClientError() | exceptions.IncompleteReadError():
            return StorageError(f"storage cannot be reached: {where}: {error}; check the network and AWS_ENDPOINT_URL")
        case _:
            return StorageError(f"storage failed at {where}: {error}")


def answered_error(error: Exception, where: str) -> StorageError:
    """The line for an error that an S3 server answered with."""
    code, status = code_and_status(error)
    bucket = where.removeprefix("s3://").partition("/")[0]
    if code == "NoSuchBucket":
        return StorageError(f"there is no bucket {bucket!r}: {where}; create it or correct the uri")
    if status == 404:
        return ObjectNotFoundError(f"there is no object {where}: check the path")
    if code in WRONG_KEYS:
        return StorageError(
            f"the AWS keys are refused ({code}): {where}; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY "
            "and AWS_SESSION_TOKEN"
        )
    if code in WRONG_REGION:
        return StorageError(f"the bucket {bucket!r} is in another region ({code}): {where}; set AWS_REGION")
    if code == "RequestTimeTooSkewed":
        return StorageError(f"this machine's clock is wrong ({code}): {where}; set the time")
    if status == 403:
        return StorageError(
            f"access denied: {where}; these AWS keys need s3:ListBucket, s3:GetObject, s3:PutObject and "
            "s3:DeleteObject there"
        )
    if code == "QuotaExceeded" or status == 507:
        return StorageError(f"the storage is full ({code}): {where}; free space or raise the quota")
    if is_passing(error):
        return StorageError(f"storage keeps failing ({status} {code}): {where}; try again later")
    return StorageError(f"storage refused the request ({status} {code}): {where}: {error}")


def is_passing(error: Exception) -> bool:
    """Whether the same request may succeed later: the server was away, overloaded or failing."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        code, status = code_and_status(error)
        return code in OVERLOADED or status == 429 or (status >= 500 and status not in (501, 505, 507))
    passing = (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError)
    return isinstance(error, passing) and not isinstance(error, exceptions.SSLError)


def code_and_status(error: Exception) -> tuple[str, int]:
    """S3's error code ("NoSuchKey") and the HTTP status (404) of a botocore ClientError."""
    response = getattr(error, "response", {})
    code = str(response.get("Error", {}).get("Code", ""))
    return code, int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
