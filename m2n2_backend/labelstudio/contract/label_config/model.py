"""A labeling config as one model, for connecting, clicks, prefetching and batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from m2n2_backend.errors import InvalidLabelConfig, InvalidRequest
from m2n2_backend.labelstudio.contract.label_config.controls import Target
from m2n2_backend.labelstudio.contract.label_config.image_tag import Groups, ImageTag
from m2n2_backend.labelstudio.contract.label_config.names import Named
from m2n2_backend.labelstudio.contract.label_config.task_value import as_written, at

_MOST_BLANK = 50_000


@dataclass(frozen=True, slots=True)
class ShownImage:
    """An image as a task shows it.

    Attributes:
        tag: The image and the controls on it.
        index: The index of the ``<Repeater>`` around it, None outside of one.
    """

    tag: ImageTag
    index: int | None = None

    @property
    def name(self) -> str:
        """The regions' ``to_name``."""
        return at(self.tag.name, self.index)

    @property
    def prompt(self) -> str:
        """The name of a smart control on it."""
        return at(self.tag.prompts[0].name, self.index)

    def address(self, data: object, page: int = 0) -> str:
        """The address of a page.

        Raises:
            InvalidLabelConfig: The image shows the same picture in every task.
            InvalidRequest: The task's data hold no address there; the message names the place.
        """
        if self.tag.source is None:
            raise InvalidLabelConfig(f'{self.tag} must take its value from the task: value="$image"')
        place = f"tasks[0].{self.tag.source.place(self.index)}"
        addresses = self.tag.addresses(data, self.index)
        if page >= len(addresses):
            pages = "1 page" if len(addresses) == 1 else f"{len(addresses)} pages"
            raise InvalidRequest(f"item_index is {page}, but {place} has {pages}")
        address = addresses[page]
        if isinstance(address, str) and address:
            return address
        place += f"[{page}]" if self.tag.pages and len(addresses) > 1 else ""
        raise InvalidRequest(f"{place} must be the address of an image, as {self.tag} shows it")

    def targets(self, labels: Sequence[str], data: object, groups: Groups | None = None) -> tuple[Target, ...]:
        """The controls that show the mask of a prompt; see :meth:`ImageTag.targets`.

        Raises:
            InvalidLabelConfig: No control knows a label; the message names the control to change.
        """
        tag = self.tag if self.index is None else self.tag.at(self.index)
        return tag.targets(labels, data, groups)


class LabelConfig:
    """A labeling config that was read once."""

    def __init__(
        self,
        images: Sequence[ImageTag],
        *,
        problems: Sequence[str] = (),
        warnings: Sequence[str] = (),
        hints: Sequence[str] = (),
    ) -> None:
        """Set up the model.

        Args:
            problems: Why some prompts could not be answered; one sentence each, with the line to change.
            warnings: What will confuse annotators although it works; one sentence each, with the cure.
            hints: What spares annotators clicks although nothing is wrong; one sentence each.
        """
        self.images = tuple(images)
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        self.hints = tuple(hints)
        prompts: dict[str, list[ImageTag]] = {}
        for image in images:
            for control in image.prompts:
                prompts.setdefault(control.name, []).append(image)
        self._prompts = Named(prompts)

    @property
    def prompts(self) -> frozenset[str]:
        """The names of the smart controls, as they are written in the config."""
        return frozenset(map(as_written, self._prompts.known))

    def require_sound(self) -> None:
        """Refuse a config if some of its prompts could not be answered.

        Raises:
            InvalidLabelConfig: The message is the first problem.
        """
        if self.problems:
            raise InvalidLabelConfig(self.problems[0])

    def is_prompt(self, from_name: object) -> bool:
        """Whether a region of this name is a prompt."""
        return from_name in self._prompts

    def shown(self, from_name: str, to_name: str | None) -> ShownImage:
        """The image that a prompt is drawn on.

        Args:
            from_name: The prompt's control.
            to_name: The image's name; it may be None for a control of one image.

        Raises:
            InvalidRequest: The config has no such smart control, or it is not on this image.
        """
        known = [ShownImage(image, index) for images, index in self._prompts.find(from_name) for image in images]
        if not known:
            names = ", ".join(sorted(self.prompts)) or "no prompts"
            raise InvalidRequest(
                f'from_name "{from_name[:100]}" is not a smart control of the labeling config, which has {names}: '
                'write smart="true" in the control; where the config was changed, reload the page'
            )
        if to_name is None and len(known) == 1:
            return known[0]
        for one in known:
            if one.name == to_name:
                return one
        names = ", ".join(one.name for one in known)
        raise InvalidRequest(
            f'to_name "{str(to_name)[:100]}" is not an image of "{from_name[:100]}", which has {names}'
        )

    def addresses(self, data: object) -> Iterator[tuple[ShownImage, int, str]]:
        """The images of a task that can be clicked: image, page and address; the first pages come first.

        Values that do not look like an address are passed over; very many of them end the search, because each of
        hundreds of images may look in the same long list.
        """
        blank = 0
        for is_first in (True, False):
            for image, index in self._shown(data):
                pages = image.addresses(data, index)
                blank += 1
                for page in range(1) if is_first else range(1, len(pages)):
                    if page < len(pages) and isinstance(address := pages[page], str) and address:
                        yield ShownImage(image, index), page, address
                    else:
                        blank += 1
                    if blank > _MOST_BLANK:
                        return

    def _shown(self, data: object) -> Iterator[tuple[ImageTag, int | None]]:
        for image in self.images:
            for index in image.indices(data) if image.prompts else ():
                yield image, index
