"""Errors as problem details (RFC 9457): `{type, title, status, detail, code, …}` in Chinese, with a code that stays the same.

The invariant: nothing of an unexpected failure reaches the caller but an id, by which the server's log has the rest.
"""

import logging
from collections.abc import Mapping
from typing import Any

import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg_pool import PoolTimeout
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from zqyy_ai.admin.request_ids import request_id_of
from zqyy_ai.domain.errors import InvalidRequest, NotFound, SettingError, SourceContractError, StateConflict, ZqyyError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_MOST_ERRORS = 20

_TITLES = {
    400: "请求无法理解",
    401: "未登录或令牌无效",
    403: "没有权限",
    404: "不存在",
    405: "不支持的方法",
    409: "与当前状态冲突",
    413: "请求体过大",
    422: "参数有误",
    429: "请求过于频繁",
    500: "内部错误",
    503: "暂时不可用",
    504: "等待超时",
}
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "body_too_large",
    422: "invalid_parameters",
    429: "too_many_requests",
    500: "internal_error",
    503: "unavailable",
    504: "timeout",
}
_VALIDATION_MESSAGES = {
    "missing": "缺少该字段",
    "extra_forbidden": "没有这个字段",
    "int_parsing": "应为整数",
    "int_type": "应为整数",
    "bool_parsing": "应为 true 或 false",
    "string_type": "应为字符串",
    "json_invalid": "不是有效的 JSON",
    "model_attributes_type": "应为 JSON 对象",
    "dict_type": "应为 JSON 对象",
    "list_type": "应为数组",
    "date_from_datetime_parsing": "应为日期，如 2026-04-20",
    "date_parsing": "应为日期，如 2026-04-20",
    "datetime_from_date_parsing": "应为时间，如 2026-04-20T10:00:00+08:00",
    "uuid_parsing": "应为 UUID",
}


class ProblemDetails(BaseModel):
    """The body of every error. `errors` names the fields that are wrong; `request_id` finds the request in the server's log."""

    model_config = ConfigDict(extra="allow")

    type: str = Field("about:blank", examples=["about:blank"])
    title: str = Field(examples=["不存在"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["任务 12 不存在"])
    code: str = Field(examples=["not_found"])
    request_id: str = Field(examples=["4bf92f3577b34da6"])
    errors: list[dict[str, str]] | None = Field(None, examples=[[{"field": "query.page", "message": "应为整数"}]])


# For routes whose deed depends on a state.
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": ProblemDetails, "description": "与当前状态冲突", "content": {MEDIA_TYPE: {}}}}


class Problem(Exception):
    """An error that the caller is to read. `more` are fields of this problem's own, such as a budget's numbers."""

    def __init__(self, status: int, detail: str, *, code: str | None = None, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code or _CODES.get(status, "error")
        self.headers = dict(headers or {})
        self.more = more


def not_found(what: str) -> Problem:
    """Also for what exists but is not the caller's to see: the two must look the same."""
    return Problem(404, f"{what} 不存在")


def problem_response(request: Request, problem: Problem) -> Response:
    """Problem details; for somebody who looks at the console, a page or a part of one."""
    page: Response | None = request.app.state.problem_page(request, problem, _TITLES.get(problem.status, "错误"))
    if page is not None:
        page.headers.update(problem.headers)
        return page
    body = {
        "type": "about:blank",
        "title": _TITLES.get(problem.status, "错误"),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id_of(request),
        **problem.more,
    }
    return JSONResponse(body, status_code=problem.status, media_type=MEDIA_TYPE, headers=problem.headers)


def add_problem_handlers(app: FastAPI) -> None:
    app.add_exception_handler(Problem, _of_problem)
    app.add_exception_handler(HTTPException, _of_http_exception)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(ZqyyError, _of_our_own)
    app.add_exception_handler(psycopg.Error, _of_database)
    app.add_exception_handler(PoolTimeout, _of_database)
    app.add_exception_handler(Exception, _of_anything)


async def _of_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(request, error)


async def _of_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {404: "没有这个地址", 400: "请求体无法解码：应为 UTF-8 的 JSON"}
    detail = details.get(error.status_code) or _TITLES.get(error.status_code, str(error.detail))
    return problem_response(request, Problem(error.status_code, detail, headers=error.headers))


async def _of_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": ".".join(map(str, found["loc"]))[:200], "message": _validation_message(found)[:300]}
        for found in error.errors()[:_MOST_ERRORS]
    ]
    told = "；".join(f"{found['field']}：{found['message']}" for found in errors[:3])
    return problem_response(request, Problem(422, told or "参数有误", errors=errors))


def _validation_message(found: Mapping[str, Any]) -> str:
    if found["type"] in {"enum", "literal_error"}:
        return "应为 " + str(found["ctx"]["expected"]).replace(" or ", ", ") + " 之一"
    return _VALIDATION_MESSAGES.get(found["type"], str(found["msg"]).removeprefix("Value error, "))


async def _of_our_own(request: Request, error: Exception) -> Response:
    match error:
        case NotFound():
            return problem_response(request, Problem(404, str(error)))
        case StateConflict():
            problem = Problem(409, str(error), code=error.code)
            problem.more = error.numbers
            return problem_response(request, problem)
        case InvalidRequest():
            return problem_response(request, Problem(422, str(error), code="invalid_request"))
        case SettingError():
            return problem_response(request, Problem(503, str(error), code="not_set_up"))
        case SourceContractError():
            logger.error("admin.source_unreadable request_id=%s", request_id_of(request), exc_info=error)
            told = "业务数据的视图（ai_source）与约定不符，重试无用：请管理员运行 zqyy-ai doctor"
            return problem_response(request, Problem(503, told, code="source_unreadable"))
        case _:
            return problem_response(request, Problem(503, str(error)))


async def _of_database(request: Request, error: Exception) -> Response:
    if isinstance(error, (psycopg.OperationalError, PoolTimeout)):
        logger.warning("admin.database_unavailable request_id=%s cause=%s", request_id_of(request), type(error).__name__)
        return problem_response(
            request, Problem(503, "数据库暂时不可用，请稍后重试", code="database_unavailable", headers={"Retry-After": "2"})
        )
    return await _of_anything(request, error)


async def _of_anything(request: Request, error: Exception) -> Response:
    logger.error("admin.failed request_id=%s path=%s", request_id_of(request), request.url.path, exc_info=error)
    return problem_response(request, Problem(500, f"服务内部出错，请把编号 {request_id_of(request)} 告诉管理员"))
