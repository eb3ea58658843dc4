"""Writers of small labelled folders in every format. Test files load this with runpy: they are no package."""

import json

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30


def write_image(path, width=WIDTH, height=HEIGHT, **options):
    """Write noise, from which an image that is cut off or turned can be told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def coco(names=("a.jpg", "b.jpg"), categories=((1, "cat"), (2, "dog")), boxes=((5, 6, 10, 8),), **entry):
    """Return a COCO object: every image has one object of the first category for each box (left, top, width, height)."""
    annotations = [
        {"id": 100 * image + number, "image_id": image, "category_id": categories[0][0], "bbox": list(box), **entry}
        for image in range(1, len(names) + 1)
        for number, box in enumerate(boxes, start=1)
    ]
    return {
        "images": [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names, start=1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }


def write_coco(folder, data=None, file="instances.json", images="images"):
    data = coco() if data is None else data
    for image in data["images"]:
        write_image(folder / images / image["file_name"])
    write_text(folder / file, json.dumps(data))
    return folder


def voc_xml(name, boxes=((5, 6, 15, 14),), kind="cat", size=(WIDTH, HEIGHT), extra=""):
    objects = "".join(
        f"<object><name>{kind}</name>{extra}<bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.jpg</filename>{stated}{objects}</annotation>"


def write_voc(folder, stems=("a", "b"), sets=None, **options):
    for stem in stems:
        write_image(folder / "JPEGImages" / f"{stem}.jpg")
        write_text(folder / "Annotations" / f"{stem}.xml", voc_xml(stem, **options))
    for name, members in (sets or {}).items():
        write_text(folder / "ImageSets" / "Main" / f"{name}.txt", "\n".join(members))
    return folder


def write_yolo(folder, splits=(("train", ("a", "b")), ("val", ("c",))), line="0 0.25 0.5 0.25 0.2", settings=None):
    """Images in images/<split>/, labels in labels/<split>/, and a data.yaml unless `settings` is ""."""
    for split, stems in splits:
        for stem in stems:
            write_image(folder / "images" / split / f"{stem}.jpg")
            write_text(folder / "labels" / split / f"{stem}.txt", line + "\n")
    text = "train: images/train\nval: images/val\nnames: [cat, dog]\n" if settings is None else settings
    if text:
        write_text(folder / "data.yaml", text)
    return folder
