"""Every refusal of the platform, each a class of its own.

A refusal says what was refused, why, and what mends it. It is a ``dagster.Failure`` that no retry policy repeats:
the same input would be refused again. Messages name columns, keys and types, never the data of a row.
"""

from __future__ import annotations

import dagster as dg


class PatternPlatformError(dg.Failure):
    """Base of every error that the platform raises on purpose.

    Args:
        what: What was refused, with its name.
        why: The rule that was broken.
        mend: What to do about it.
    """

    retryable = False

    def __init__(self, what: str, *, why: str, mend: str) -> None:
        super().__init__(description=f"{what}\n  why:  {why}\n  mend: {mend}", allow_retries=self.retryable)
        self.what, self.why, self.mend = what, why, mend


# Declarations ---------------------------------------------------------------------------------------------------------


class InvalidMetadataError(PatternPlatformError):
    """Asset metadata of the platform is missing, mistyped or contradicts the asset."""


class UnsafeAssetKeyError(PatternPlatformError):
    """An asset key would put its table outside the root, or inside another table."""


class UnsafePartitionKeyError(PatternPlatformError):
    """A partition key that Delta Lake cannot hold apart from others, such as the empty string."""


class InexpressiblePartitionError(PatternPlatformError):
    """The partition column cannot tell the partitions of this definition apart."""


class InvalidSettingsError(PatternPlatformError):
    """Settings are unknown, mistyped or out of range."""


class InvalidRegistryError(PatternPlatformError):
    """Rows of the registry of data sets, or their contracts, cannot be understood."""


# The batch ------------------------------------------------------------------------------------------------------------


class UnsupportedFrameError(PatternPlatformError):
    """The asset returned, or asked for, something other than one of the four kinds of frame."""


class RowsOutsidePartitionError(PatternPlatformError):
    """Rows of the batch do not belong to the partition of the run."""


class UnknownColumnError(PatternPlatformError):
    """The batch has a column that the table does not have."""


class MissingColumnError(PatternPlatformError):
    """The batch lacks a column that the table has."""


class ChangedTypeError(PatternPlatformError):
    """A column of the batch is of another type than the table's."""


class LossyCastError(PatternPlatformError):
    """A column of the batch would lose information in the table's type."""


class UnsupportedTypeError(PatternPlatformError):
    """Delta Lake has no type for a column of the batch."""


class NullInRequiredColumnError(PatternPlatformError):
    """A column that the table declares NOT NULL has nulls in the batch."""


class NullKeyError(PatternPlatformError):
    """Rows to merge have no key, or nothing that says when or how they changed it."""


class DuplicateKeyError(PatternPlatformError):
    """Rows to merge have the same key, and nothing says which is the last."""


class BrokenRuleError(PatternPlatformError):
    """Rows break a rule that their table declares."""


class LostKeysError(PatternPlatformError):
    """A partition no longer brings keys that it brought before."""


# The table ------------------------------------------------------------------------------------------------------------


class MissingTableError(PatternPlatformError):
    """An upstream table does not exist yet."""


class MissingPartitionsError(PatternPlatformError):
    """Upstream partitions have never been written."""


class MissingVersionError(PatternPlatformError):
    """The asked version of a table does not exist, or not any more."""


class UnreadableVersionError(PatternPlatformError):
    """The log holds the asked version of a table, and it could not be read just now. Trying again is right."""

    retryable = True


class UnsupportedTableError(PatternPlatformError):
    """The table's protocol asks for something that the platform does not write."""


class DuplicateKeyInTableError(PatternPlatformError):
    """The table holds a key twice that a merge touches."""


class UnsupportedStorageError(PatternPlatformError):
    """The root of the tables is on a storage that the platform does not write to."""


class StorageAccessError(PatternPlatformError):
    """The storage of the tables cannot be reached, or nothing may be written there. Trying again may help."""

    retryable = True


class UnauditedVersionError(PatternPlatformError):
    """A version has not passed its audits, and is not published."""


class MissingDriverError(PatternPlatformError):
    """The library that talks to a store is an extra, and is not installed."""


class UnreachableStoreError(PatternPlatformError):
    """The server of a store does not answer. Trying again is right."""

    retryable = True


class TornCommitError(PatternPlatformError):
    """The newest commit file is empty, as a power loss leaves it: reading on would lose it silently."""


class UnreadableLogError(PatternPlatformError):
    """The log of a table is damaged, as by a power loss or by hand."""


class CommitConflictError(PatternPlatformError):
    """Other writers kept winning the race for the next version. Trying again is right."""

    retryable = True


class UnknownCommitError(PatternPlatformError):
    """The storage did not say what became of a commit, which may come true later. Trying again is right."""

    retryable = True


class TableLockedError(PatternPlatformError):
    """Another process held the table's lock for longer than the limit. Trying again is right."""

    retryable = True


class DatabaseLockedError(PatternPlatformError):
    """Someone else held a DuckDB file for longer than the limit. Trying again is right."""

    retryable = True


# The versions of a table ----------------------------------------------------------------------------------------------


class SupersededPartitionsError(PatternPlatformError):
    """An earlier partition was replayed, and partitions between it and this one were not replayed since."""


class UnrecordedCommitError(PatternPlatformError):
    """Someone else changed the rows of a table whose versions the platform keeps."""


class UnrecordedPartitionError(PatternPlatformError):
    """A partition was merged, and the log that says into which version is gone."""


class RetentionError(PatternPlatformError):
    """A retention is too short: files would go that a run, a reader or a restore still needs."""


class InvalidErasureError(PatternPlatformError):
    """A person, or personal data past its retention, cannot be removed from a table as it was asked for."""


class EngineFaultError(PatternPlatformError):
    """The files that an engine made, or read, are not what its query says. Nothing was committed; try again."""

    retryable = True


class RowCountError(PatternPlatformError):
    """Compacted files do not hold as many rows as the log counts."""


# Tables in units ------------------------------------------------------------------------------------------------------


class ReplayUnitError(PatternPlatformError):
    """A partition is there already, and its unit is replayed as a whole."""


class FrozenUnitError(PatternPlatformError):
    """A partition belongs to a unit that was frozen into a longer one."""


class TooManyUnitsError(PatternPlatformError):
    """The view over the units of a table would be over too many."""


# The flow of runs -----------------------------------------------------------------------------------------------------


class OutOfTurnError(PatternPlatformError):
    """A partition was run before the one that it rests on."""


class InvalidFlowError(PatternPlatformError):
    """Assets of a flow pattern are wired in a way that it forbids."""


class UndecidedChoiceError(PatternPlatformError):
    """An exclusive choice named no branch, or several for one run."""


class StaleStepError(PatternPlatformError):
    """What an earlier step left is missing, or was made from what has changed since."""


class BrokenContractError(PatternPlatformError):
    """The rows of another team's table are not what was agreed."""


class BackfillError(PatternPlatformError):
    """A backfill cannot be planned or launched as it was asked for."""


class CheckRunError(PatternPlatformError):
    """A run of checks cannot be planned as it was asked for."""


class WebserverError(PatternPlatformError):
    """A running Dagster cannot be asked, or does not take what it is asked for."""


class SubmissionError(PatternPlatformError):
    """A run cannot be submitted as it was asked for."""


class RunFailedError(PatternPlatformError):
    """A run that was waited for failed, or was canceled."""


class RunNotOverError(PatternPlatformError):
    """A run was not over within the time that it was given. Waiting again is right."""

    retryable = True


class UnreadableOutputError(PatternPlatformError):
    """What a run made is not there, or cannot be read as a table from here."""


class CatalogueError(PatternPlatformError):
    """The catalogue cannot be written where it was asked for."""


# Landed files ---------------------------------------------------------------------------------------------------------


class FileNotArrivedError(PatternPlatformError):
    """No file has landed for a partition."""


class UnreadableFileError(PatternPlatformError):
    """A landed file cannot be read: truncated, not compressed as its name says, not text."""


class WrongHeaderError(PatternPlatformError):
    """The header of a landed file is not the one that the data set declares."""


class SourceRefusedError(PatternPlatformError):
    """A source over HTTP is declared wrongly, refuses what it is asked for, or answers with something else."""


class SourceUnavailableError(PatternPlatformError):
    """A source over HTTP could not be fetched from just now. Trying again is right."""

    retryable = True


class ChangedSourceError(PatternPlatformError):
    """The records of a source have other fields, or fields of another type, than the contract of the data set."""


# Namespaces -----------------------------------------------------------------------------------------------------------


class InvalidNamespaceError(PatternPlatformError):
    """A name cannot be that of a namespace."""


class UnknownNamespaceError(PatternPlatformError):
    """There is no namespace of a name, or a folder of that name that is not marked as one."""


class NamespaceExistsError(PatternPlatformError):
    """There is something under the name of a namespace that is to be made."""


class ProtectedNamespaceError(PatternPlatformError):
    """A namespace serves others, and is not dropped."""


class NamespaceInUseError(PatternPlatformError):
    """Runs, writers or another command are at work in a namespace. Trying again is right."""

    retryable = True


# Operations -----------------------------------------------------------------------------------------------------------


class MissingLogsError(PatternPlatformError):
    """There is no folder of logs where they should be."""


class UnreadableLogsError(PatternPlatformError):
    """A file among the logs cannot be read."""


class BusyPortError(PatternPlatformError):
    """Metrics cannot be served at a port."""


class UnknownRunError(PatternPlatformError):
    """The instance knows no run of an id."""


class NoInstanceError(PatternPlatformError):
    """There is no Dagster instance whose history could be read."""


class LineageNotSentError(PatternPlatformError):
    """A server did not take lineage events. Trying again is right."""

    retryable = True


class InvalidChannelError(PatternPlatformError):
    """A channel of alerts is set up in a way that cannot work."""


class AlertNotSentError(PatternPlatformError):
    """A channel did not take an alert. Trying again is right."""

    retryable = True


# Erasure --------------------------------------------------------------------------------------------------------------


class DamagedListError(PatternPlatformError):
    """The list of erased subjects cannot be read."""
