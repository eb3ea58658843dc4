"""What `check_data.py` says of a labelled folder: the summary, a contact sheet, and whether it can be used."""

from __future__ import annotations

from pathlib import Path

from retinanet_edge.runtime.contact_sheet import choose_samples, draw_sheet, write_sheet
from retinanet_edge.runtime.dataset_check import check_dataset
from retinanet_edge.runtime.dataset_summary import summarize
from retinanet_edge.runtime.errors import DatasetError


def report_dataset(data: Path, sheet: Path | None, images: int) -> None:
    """Print the summary of a data set, and write a sheet of up to `images` labelled images to `sheet` unless it is None.

    Raises DatasetError, after that, where something is broken.
    """
    checked = check_dataset(data)
    print(*summarize(checked), sep="\n")
    if sheet is not None:
        chosen = choose_samples(checked.splits, images)
        write_sheet(sheet, draw_sheet(chosen, checked.classes))
        print(f"\nwrote {sheet}: {len(chosen)} labelled images")
    if checked.problems:
        count = len(checked.problems)
        raise DatasetError(f"{data} must be whole to train on, got {count} broken things, listed above: mend or remove them")
