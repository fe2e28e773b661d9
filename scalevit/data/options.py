"""Options of a listing: columns or keys of images, labels and splits, and whether links are followed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalevit.config.run import Data


@dataclass(frozen=True)
class ListingOptions:
    """image, label, split: columns (tables, lists) or keys (tars, JSON); empty: found by the rules of
    docs/data.md. follow_links: also links that leave the data set."""

    image: str = ""
    label: str = ""
    split: str = ""
    follow_links: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Only what differs from the defaults."""
        return {name: value for name, value in asdict(self).items() if value}


DEFAULTS = ListingOptions()


def options_of(data: Data) -> ListingOptions:
    """The options that a run's `data` section says."""
    return ListingOptions(data.image, data.label, data.split, data.follow_links)
