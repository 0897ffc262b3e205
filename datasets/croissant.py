"""Croissant metadata of a dataset, which search engines and loaders of several frameworks read.

Source: MLCommons, Croissant Format Specification, version 1.1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from datasets.card import TITLE
from datasets.manifest import MANIFEST_FILE
from datasets.storage import Storage

CROISSANT_FILE = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.1"

DATA_TYPES = {
    "string": "sc:Text",
    "bool": "sc:Boolean",
    "int32": "cr:Int32",
    "int64": "cr:Int64",
    "double": "cr:Float64",
}
"""Croissant's types by Arrow's."""

COLUMNS = {
    "sample_id": "Name of the sample, unique in the dataset.",
    "status": "ok, or failed for a sample that could not be made.",
    "error": "Why it failed; empty when ok.",
    "source_id": "The pristine picture: name and start of its pixel hash.",
    "source_file": "Name of the source's file.",
    "source_sha256": "SHA-256 of the source's file.",
    "source_pixel_sha256": "SHA-256 of the source's shape and samples.",
    "source_notes": "Conversions made on reading the source.",
    "origin": "Camera or collection of the source, where one was given.",
    "group": "Pictures of one group share a split.",
    "split": "train, val or test.",
    "label": "Class: the codec that compressed the picture.",
    "codec": "Codec that was driven to the target.",
    "params": "The codec's parameters as JSON.",
    "encoder": "Library and version.",
    "target_kind": "ratio, ssim or none.",
    "target_nominal": "The grid's value; null for a random draw.",
    "target_value": "What was asked.",
    "measured": "What was achieved.",
    "reached": "Whether that is within the codec's tolerance.",
    "reason": "Why not; empty when reached.",
    "encodes": "Encodes that the target cost.",
    "history": "Name of what happened before and after the encode.",
    "chain": "Every step in order, as JSON.",
    "container": "Codec of the stored file.",
    "path": "Path of the stored file.",
    "file_bytes": "Its size in bytes.",
    "file_sha256": "Its SHA-256.",
    "pixel_sha256": "SHA-256 of shape and samples of the picture decoded from it.",
    "width": "Of that picture, in pixels.",
    "height": "Of that picture, in pixels.",
    "channels": "Of that picture: 1 or 3.",
    "mean_red": "Mean of that picture's red samples.",
    "mean_green": "Mean of that picture's green samples.",
    "mean_blue": "Mean of that picture's blue samples.",
    "ratio": "Compression ratio of the encode: raw bytes over file bytes.",
    "bits_per_pixel": "Of the encode.",
    "psnr_db": "Of the encode against its input, in dB; infinite where nothing was lost.",
    "ssim": "Of the encode against its input.",
    "ms_ssim": "Of the encode against its input.",
    "seed": "Seed of the sample's draws.",
}
"""What each column of the manifest means."""


def write_croissant(storage: Storage, description: Mapping[str, Any], table: pa.Table) -> None:
    """Write ``croissant.json``.

    Args:
        storage: Of the dataset, whose manifest is written already.
        description: Contents of ``dataset.json``.
        table: The manifest.
    """
    content = croissant(description, table.schema, storage.read(MANIFEST_FILE))
    text = json.dumps(content, indent=2, ensure_ascii=False)
    storage.write(CROISSANT_FILE, text.encode() + b"\n")


def croissant(description: Mapping[str, Any], schema: pa.Schema, manifest: bytes) -> dict[str, Any]:
    """The JSON-LD document; arguments as of `write_croissant`, `manifest` as the file's bytes."""
    licence = {"license": description["license"]} if "license" in description else {}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": "compressed-pictures",
        "description": f"{TITLE}: {', '.join(description['labels'])}.",
        **licence,
        "keywords": ["image forensics", "image compression", *description["labels"]],
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": MANIFEST_FILE,
                "name": MANIFEST_FILE,
                "description": "One row a sample.",
                "contentUrl": MANIFEST_FILE,
                "contentSize": f"{len(manifest)} B",
                "encodingFormat": "application/x-parquet",
                "sha256": hashlib.sha256(manifest).hexdigest(),
            },
            {
                "@type": "cr:FileSet",
                "@id": "encoded-files",
                "name": "encoded-files",
                "description": "The encoded files as their encoders wrote them, of many formats; "
                "the column path of the manifest names each.",
                "encodingFormat": "application/octet-stream",
                "includes": "encoded/*/*",
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "samples",
                "name": "samples",
                "description": "The manifest.",
                "key": {"@id": "samples/sample_id"},
                "field": [_field(field) for field in schema],
            }
        ],
    }


def _field(field: pa.Field) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"samples/{field.name}",
        "name": field.name,
        "description": COLUMNS[field.name],
        "dataType": DATA_TYPES[str(field.type)],
        "source": {"fileObject": {"@id": MANIFEST_FILE}, "extract": {"column": field.name}},
    }


# The context of the specification's appendix.
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
