"""What can go wrong in the lab.

::

    LabError                a sentence for the user, and what to do about it
     +- SetupError          something could not be downloaded, found or built
     +- Misconfigured       the machine asked for cannot work: nothing was started
     +- VmError             a machine was started
         +- VmLost          it is gone, or no longer answers
         +- GuestError      it lives, and refused what was asked of it
             +- GuestTimeout

A command that ran in the guest and failed is no error of the lab: it is a
:class:`vdxgk_lab.guest.CommandResult` with its exit status.
"""


class LabError(Exception):
    """A failure that the user can understand.

    `message` is one sentence that says what is wrong, `hint` what to change
    (empty: nothing more is known).
    """

    def __init__(self, message: str, hint: str = "") -> None:
        """Keep both parts: the command line prints them on lines of their own."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Both parts, for tracebacks and test reports."""
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class SetupError(LabError):
    """Something could not be downloaded, found or built."""


class Misconfigured(LabError):  # noqa: N818 - it names a state, as VmLost does
    """The machine asked for cannot work."""


class VmError(LabError):
    """A machine was started, and failed."""


class VmLost(VmError):  # noqa: N818
    """The machine is gone, or no longer answers."""


class GuestError(VmError):
    """The guest agent refused a request; the machine lives."""


class GuestTimeout(GuestError):  # noqa: N818
    """A command in the guest did not end in time; it was killed."""
