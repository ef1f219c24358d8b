"""What was seen in views, and the view that was chosen for it."""

from __future__ import annotations

from dataclasses import dataclass

from m2n2_backend.m2n2.views.view import View


@dataclass(frozen=True)
class Look:
    """What the first answer is in one view.

    Attributes:
        view: The view.
        share: Share of the view that the mask covers.
        ambiguity: How good an edge of a clearly smaller or larger mask would be, as a share of this one's.
        is_cut: Whether the mask ends at the view's border, beyond which the photograph goes on.
        doubt: How far the mask is from looking like a whole object, ≥ 0; see ``views.choice``.
    """

    view: View
    share: float
    ambiguity: float
    is_cut: bool
    doubt: float

    @property
    def nbytes(self) -> int:
        """Bytes of the objects."""
        return 512


@dataclass(frozen=True)
class Choice:
    """The view that answers some prompts.

    Attributes:
        view: The view.
        why: The reason in words.
        looks: The views that were looked at for it.
    """

    view: View
    why: str
    looks: tuple[Look, ...] = ()

    def __str__(self) -> str:
        """View and reason, as the log shows them."""
        view = self.view
        return f"view {view.width}x{view.height} at {view.left},{view.top} ({self.why})"
