"""The server's own description, for `/openapi.json`: every path with its bodies and statuses."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from clouds_deploy.bundles.tensors import TensorSpec
from clouds_deploy.serving.limits import Limits
from clouds_deploy.serving.model import ServedModel
from clouds_deploy.serving.statistics import Statistics
from clouds_deploy.serving.tensors import DATATYPES, HEADER, metadata

Json = dict[str, Any]

_REFUSALS = {
    400: "The request is not of its form, or its body is damaged.",
    401: "The server asks for a token, in `Authorization: Bearer`.",
    403: "A page from elsewhere may not ask.",
    404: "There is no such model, version or SAM.",
    406: "There is no answer of the type that is asked for.",
    408: "The body did not arrive in time.",
    413: "The body is too long, or has too many images or pixels.",
    415: "The body's type or `Content-Encoding` is not served.",
    421: "The server is not called by this name.",
    422: "An image, a label map or a tensor does not fit; the error says what is expected.",
    429: "The server is full; `Retry-After` says when to ask again.",
    500: "A fault of the server; its log says more.",
    503: "The server is starting or stopping, or the model cannot run.",
    504: "There was no answer in time.",
}
_ANY = (401, 403, 421, 429, 504)
_POST = (400, 408, 413, 415, 429, 500, 503, 504)
_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}


def openapi(model: ServedModel, sam: bool, limits: Limits) -> Json:
    """The OpenAPI 3.1 description of one server.

    Args:
        model: The segmenter that is served.
        sam: Whether refinement and clicks are served; else their paths answer 404.
        limits: The bounds of the server.
    """
    paths: Json = {
        "/": _get("The page.", {"text/html": _TEXT}),
        "/page.css": _get("Style of the page.", {"text/css": _TEXT}),
        "/page.js": _get("Script of the page.", {"text/javascript": _TEXT}),
        "/icon.svg": _get("Icon of the page.", {"image/svg+xml": _TEXT}),
        "/openapi.json": _get("This description.", _json({"type": "object"})),
        "/metrics": _get("Metrics for Prometheus.", {"text/plain": _TEXT}),
        "/health": _get("Liveness.", _json(_flag("live"))),
        "/ready": _readiness("Readiness."),
        **_pictures(sam, limits),
        **_tensors(model),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "clouds_deploy",
            "version": version("clouds-deploy"),
            "description": "Semantic segmentation over HTTP: pictures under `/v1`, the Open Inference "
            "Protocol (KServe v2) under `/v2`. POST bodies may be compressed with gzip or deflate.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Refusal": _object(error=_TEXT, hint=_TEXT)},
            "responses": {
                str(status): {"description": text, "content": _json({"$ref": "#/components/schemas/Refusal"})}
                for status, text in _REFUSALS.items()
            },
        },
    }


def _pictures(sam: bool, limits: Limits) -> Json:
    file = {"type": "string", "format": "binary", "description": "PNG, JPEG, BMP, WebP, TIFF or PPM"}
    classes = {"type": "array", "items": _object(id=_COUNT, name=_TEXT, color=_list("integer"))}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    shares = {"type": "array", "items": _object(id=_COUNT, name=_TEXT, color=_list("integer"), share=share)}
    size = {"type": "integer", "minimum": 1}
    png = {"image/png": {"type": "string", "format": "binary"}}
    points = {
        "type": "string",
        "contentMediaType": "application/json",
        "description": f"JSON: 1 to {limits.points} of [x, y, label] in pixels, 1 on the object, 0 off it",
        "examples": ["[[8, 8, 1]]"],
    }
    about = _object(
        model=_TEXT,
        backend=_TEXT,
        device=_TEXT,
        precision=_TEXT,
        height=size,
        width=size,
        random_weights={"type": "boolean"},
        classes=classes,
        sam={"type": ["string", "null"]},
        limits=_object(bytes=size, pixels=size, seconds={"type": "number"}),
    )
    found = _object(sam=_TEXT, iou={"type": "number"}, share=share, mask_png=_TEXT)
    shown = _object(model=_TEXT, height=size, width=size, classes=shares)
    no_sam = "" if sam else " This server has no SAM: it answers 404."
    return {
        "/v1/model": _get("What is served.", _json(about)),
        "/v1/example": _get("An image that is packed with the bundle.", png),
        "/v1/segment": _form(
            "Labels of an image.",
            {"image": file},
            {**png, "image/jpeg": png["image/png"], **_json(shown)},
            ("labels", "overlay", "json"),
        ),
        "/v1/refine": _form(
            f"A refined label map, of the labels that are sent, or of the model's own.{no_sam}",
            {"image": file, "labels": file},
            png,
            optional=("labels",),
        ),
        "/v1/points": _form(
            f"The mask of the object that was clicked.{no_sam}",
            {"image": file, "points": points},
            {**png, **_json(found)},
            ("labels", "json"),
        ),
    }


def _tensors(model: ServedModel) -> Json:
    about = _object(
        name=_TEXT, versions=_list("string"), platform=_TEXT, inputs=_list("object"), outputs=_list("object")
    )
    config = _object(name=_TEXT, platform=_TEXT, max_batch_size=_COUNT, input=_list("object"))
    index = {"type": "array", "items": _object(name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT)}
    asked = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    stats = _json(_object(model_stats={"type": "array", "items": _shape_of(Statistics().to_json("", ""))}))
    listed = _get("Models of the repository with their state.", _json(index))
    paths: Json = {
        "/v2": _get(
            "Server metadata.", _json(_object(name=_TEXT, version=_TEXT, extensions=_list("string")))
        ),
        "/v2/health/live": _get("Liveness.", _json(_flag("live"))),
        "/v2/health/ready": _readiness("Readiness."),
        "/v2/models": _get("Names of the models.", _json(_object(models=_list("string")))),
        "/v2/models/stats": _get("Statistics of all models.", stats),
        "/v2/repository/index": {
            **listed,
            "post": {
                **listed["get"],
                "requestBody": {"content": _json(asked)},
                "responses": _responses(_json(index), *_POST),
            },
        },
    }
    named = _path("model", model.name)
    for path, where in (
        ("/v2/models/{model}", [named]),
        ("/v2/models/{model}/versions/{version}", [named, _path("version", "1")]),
    ):
        paths |= {
            path: _get("Model metadata.", _json(about), 404, where=where),
            f"{path}/ready": _readiness("Readiness of the model.", 404, where=where),
            f"{path}/config": _get("Model configuration.", _json(config), 404, where=where),
            f"{path}/stats": _get("Statistics of the model.", stats, 404, where=where),
            f"{path}/infer": {"post": _inference(model, where)},
        }
    return paths


def _inference(model: ServedModel, where: list[Json]) -> Json:
    count = {"type": "integer", "minimum": 1}
    raw = {"type": "string", "format": "binary"}
    flags = {"type": ["object", "null"]}
    wanted = {
        "type": "object",
        "properties": {"name": {"enum": [spec.name for spec in model.outputs]}, "parameters": flags},
        "required": ["name"],
    }
    request = {
        "type": "object",
        "properties": {
            "id": {"type": ["string", "null"]},
            "parameters": flags,
            "inputs": {"type": "array", "items": _input(model.image), "minItems": 1, "maxItems": 1},
            "outputs": {"type": ["array", "null"], "items": wanted, "minItems": 1},
        },
        "required": ["inputs"],
    }
    output = {
        "type": "object",
        "properties": {
            "name": _TEXT,
            "datatype": _TEXT,
            "shape": {"type": "array", "items": count},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
        "required": ["name", "datatype", "shape"],
    }
    answer = {
        "type": "object",
        "properties": {
            "id": _TEXT,
            "model_name": _TEXT,
            "model_version": _TEXT,
            "outputs": {"type": "array", "items": output},
        },
        "required": ["model_name", "model_version", "outputs"],
    }
    length = {
        "name": HEADER,
        "in": "header",
        "description": "Bytes of JSON before binary data; 0 where the body is one tensor and no JSON.",
        "schema": {"type": "integer", "minimum": 0},
    }
    return {
        "summary": "Inference on tensors.",
        "parameters": [*where, length],
        "requestBody": {
            "required": True,
            "content": {**_json(request), "application/octet-stream": {"schema": raw}},
        },
        "responses": _responses({**_json(answer), "application/octet-stream": raw}, 404, 422, *_POST),
    }


def _input(spec: TensorSpec) -> Json:
    """The JSON schema of an input; the shape is the graph's, with its free sizes at least 1."""
    sizes = [{"type": "integer", "minimum": 1} if size is None else {"const": size} for size in spec.shape]
    return {
        "type": "object",
        "description": f"{metadata(spec)}; `data` is flat or nested, or binary after the JSON",
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": DATATYPES[spec.dtype]},
            "shape": {"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)},
            "data": {"type": "array"},
            "parameters": {
                "type": ["object", "null"],
                "properties": {"binary_data_size": {"type": "integer", "minimum": 1}},
            },
        },
        "required": ["name", "datatype", "shape"],
    }


def _get(summary: str, content: Json, *refusals: int, where: list[Json] | None = None) -> Json:
    about: Json = {"summary": summary, "responses": _responses(content, *refusals)}
    return {"get": {**about, "parameters": where} if where else about}


def _readiness(summary: str, *refusals: int, where: list[Json] | None = None) -> Json:
    ready = _json(_flag("ready"))
    made = _get(summary, ready, *refusals, where=where)
    made["get"]["responses"]["503"] = {"description": "Not ready.", "content": ready}
    return made


def _form(
    summary: str, fields: Json, content: Json, kinds: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> Json:
    form = {**_object(**fields), "required": [name for name in fields if name not in optional]}
    choice = {
        "name": "as",
        "in": "query",
        "description": "The kind of answer; without it, `Accept` decides.",
        "schema": {"enum": list(kinds)},
    }
    about: Json = {
        "summary": summary,
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": _responses(content, 404, 406, 422, *_POST),
    }
    return {"post": {**about, "parameters": [choice]} if kinds else about}


def _responses(content: Json, *refusals: int) -> Json:
    shown = {kind: one if "schema" in one else {"schema": one} for kind, one in content.items()}
    return {
        "200": {"description": "The answer.", "content": shown},
        **{str(one): {"$ref": f"#/components/responses/{one}"} for one in sorted({*refusals, *_ANY})},
    }


def _path(name: str, value: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"enum": [value]}}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _flag(name: str) -> Json:
    return _object(**{name: {"type": "boolean"}})


def _list(kind: str) -> Json:
    return {"type": "array", "items": {"type": kind}}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _shape_of(value: Any) -> Json:
    """The schema of JSON values that have this value's form."""
    if isinstance(value, dict):
        return _object(**{name: _shape_of(one) for name, one in value.items()})
    if isinstance(value, list):
        return _list("object")
    return _COUNT if isinstance(value, int) else _TEXT
