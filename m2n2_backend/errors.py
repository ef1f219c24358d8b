"""Every error the package raises on purpose.

A message names the cause and, where there is one, the cure. The HTTP status of each kind is decided in
``server/errors.py`` and nowhere else::

    M2N2Error
    ├── SettingsError              the settings or the command line
    ├── InvalidRequest             what Label Studio or another client sent
    ├── InvalidLabelConfig
    ├── InvalidPrompt
    ├── Unauthorized
    ├── InvalidImage               the photograph
    ├── ImageTooLarge
    ├── ImageNotAllowed
    ├── ImageUnavailable
    ├── ImageNeeded
    ├── BackboneUnavailable        the model
    │   └── OutOfMemory
    ├── NotReady                   try again later
    │   ├── DeadlinePassed
    │   └── ImageRefused
    ├── LabelStudioUnavailable     other programs
    │   └── TokenRefused
    ├── ClusterUnavailable
    ├── StudioError
    ├── DatasetError               files of commands
    └── ExportError
"""


class M2N2Error(Exception):
    """Base of all errors below; ``str(error)`` is one line that can be shown to a user.

    Attributes:
        finding: What is wrong.
        cure: What to do about it; empty where the finding says so itself, or nothing is known to help.
    """

    def __init__(self, finding: str = "", cure: str = "") -> None:
        super().__init__(f"{finding}; {cure}" if cure else finding)
        self.finding = finding
        self.cure = cure


class SettingsError(M2N2Error):
    """A setting or an option is unknown, has a value out of its range, or cannot be followed on this machine."""


class InvalidRequest(M2N2Error, ValueError):
    """The request body is not what Label Studio's contract says."""


class InvalidLabelConfig(M2N2Error, ValueError):
    """The labeling config cannot be parsed, or lacks a control, a label or an image that is needed."""


class InvalidPrompt(M2N2Error, ValueError):
    """A click or a box is malformed or outside the image, or there is no foreground prompt."""


class Unauthorized(M2N2Error):
    """The caller did not present the backend's basic-auth credentials."""


class InvalidImage(M2N2Error, ValueError):
    """The bytes are not an image that can be decoded, or its size contradicts the request."""


class ImageTooLarge(M2N2Error, ValueError):
    """The image has more bytes or pixels than the settings allow."""


class ImageNotAllowed(M2N2Error):
    """The address or path of the image is outside of what this server may read."""


class ImageUnavailable(M2N2Error):
    """The image could not be downloaded or read: refused token, missing file, no connection."""


class ImageNeeded(M2N2Error):
    """Only the hash of an image is known and no cache holds it; a signal to read it, never shown to users."""


class BackboneUnavailable(M2N2Error):
    """The chosen backbone cannot be used: weights missing, device missing, too little memory."""


class OutOfMemory(BackboneUnavailable):
    """The device, or the machine, has too little memory for what the backbone needs."""


class NotReady(M2N2Error):
    """The model is still loading, the queue is full, or the deadline passed; try again later."""


class DeadlinePassed(NotReady):
    """The model was busy with other images until the deadline of the request."""


class ImageRefused(NotReady):
    """The image brought the model's process down, and is kept away from it for a while."""


class LabelStudioUnavailable(M2N2Error):
    """Label Studio cannot be asked with the settings there are: no connection, or not Label Studio."""


class TokenRefused(LabelStudioUnavailable):
    """Label Studio does not take the personal access token, or the key is not a valid token."""


class ClusterUnavailable(M2N2Error):
    """There is no Ray cluster to join from this machine, or nothing can be deployed there."""


class StudioError(M2N2Error):
    """Label Studio, or the backend beside it, cannot be started or does not answer."""


class DatasetError(M2N2Error):
    """A data set for evaluation is missing, incomplete or not in the layout its name stands for."""


class ExportError(M2N2Error):
    """There is nothing to export, the folder cannot take it, or the SDK's converter failed."""


def one_line(error: BaseException, most: int = 300) -> str:
    """The message of any error as one line of about ``most`` characters; its type's name where it has no message."""
    text = " ".join(str(error).split())
    if len(text) > most:
        text = text[:most].rsplit(" ", 1)[0] + " …"
    return text or type(error).__name__
