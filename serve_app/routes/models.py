"""/api/models: lists model versions, tells what was live at a time, and makes another version live."""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import Response

from db.fields import ID
from serve_app.http.json_response import json_response
from serve_app.http.openapi import Operation
from serve_app.http.parsing import parse_query
from serve_app.http.problem_details import Problem, not_found, unavailable
from serve_app.http.request_reader import RequestReader
from serve_app.routes.model_versions import ModelVersions
from serve_app.schemas import examples
from serve_app.schemas.models import ModelPage, ModelsQuery, ModelVersion
from serve_app.scoring.upstream_errors import database_problems
from training.model.bundle import ModelRefused, ModelUnavailable
from training.registry.publish import UnknownVersion

logger = logging.getLogger("paceline.ingress")


class ModelRoutes:
    def __init__(self, requests: RequestReader, versions: ModelVersions) -> None:
        self._requests, self._versions = requests, versions

    async def page(self, request: Request) -> Response:
        """GET: all versions; with `at`, also what was live at that time."""
        await self._requests.caller(request, "admin")
        query = parse_query(ModelsQuery, request)
        with database_problems():
            as_of = None if query.at is None else await self._versions.as_of(query.at, query.brand_id)
            return json_response({"models": await self._versions.all(), "as_of": as_of})

    async def activate(self, request: Request) -> Response:
        """POST: make a version the live one."""
        await self._requests.caller_and_body(request, "admin")
        version = request.path_params["version"]
        if not ID.fullmatch(version):
            raise not_found("model version")
        try:
            with database_problems():
                return json_response(await self._versions.activate(version))
        except UnknownVersion:
            raise not_found("model version") from None
        except ModelRefused as error:
            raise Problem(409, str(error), "model-refused") from None
        except ModelUnavailable as error:
            logger.warning("activation of model %s asked for by the API failed, live version stays: %s", version, error)
            raise unavailable("the model's files cannot be read just now; try again", "model-unavailable") from None


OPERATIONS = (
    Operation(
        "get",
        "/api/models",
        "List model versions with their gate results; with at, what was live at that time",
        ModelPage,
        query=ModelsQuery,
        tag="Models",
        examples=examples.MODELS,
    ),
    Operation(
        "post",
        "/api/models/{version}/activate",
        "Make a version live: roll back or forward",
        ModelVersion,
        problems=("404", "408", "409", "413"),
        tag="Models",
        description="GET /api/models lists the versions; this page fills in the one that is live.",
        examples=examples.ACTIVATE,
    ),
)
