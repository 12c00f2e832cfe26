"""Reading pydantic models from untrusted data, with one sentence instead of a validation report."""

from __future__ import annotations

from typing import TypeVar, get_args

from pydantic import BaseModel, ValidationError

from .errors import MaestroError

ModelT = TypeVar("ModelT", bound=BaseModel)


def read_model(model: type[ModelT], data: object, code: str = "invalid_request", where: str = "") -> ModelT:
    """Validate ``data`` as ``model``.

    Args:
        model: the pydantic model.
        data: anything.
        code: the code of the refusal.
        where: a prefix for the place of the mistake (``profiles.0.``).

    Raises:
        MaestroError: with the given code and a sentence that names the first field that is wrong and why; our own
            rules (names, amounts) keep their own code and sentence.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = where + ".".join(_printable(str(part)) for part in first["loc"])
        reason = _reason(first["type"], str(first["msg"]), _model_at(model, first["loc"][:-1]))
        sentence = f"{place}: {reason}." if place else f"{reason}."
        raise MaestroError(code, sentence, {"field": place, "mistakes": error.error_count()}) from None


def _printable(text: str) -> str:
    """A key of somebody's data in a sentence: short, and without control characters."""
    return "".join(char if char.isprintable() else "?" for char in text[:60])


def _model_at(model: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The model in which a mistake lies, as far as it can be found: fields of fields, entries of lists and mappings."""
    for part in place:
        field = model.model_fields.get(str(part))
        inner = _model_in(field.annotation) if field is not None else None
        model = inner or model
    return model


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for found in map(_model_in, get_args(annotation)) if found is not None), None)


def _known(model: type[BaseModel]) -> list[str]:
    """The settings of a model as they are written."""
    return [field.alias or name for name, field in model.model_fields.items()]


#: pydantic's kinds of what is no number, as people say it
_NUMBERS = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "write a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "write a number"),
}


def _reason(kind: str, message: str, model: type[BaseModel]) -> str:
    if kind == "extra_forbidden":
        return f"there is no such setting here; known are {', '.join(_known(model))}"
    if kind == "missing":
        return "this is required"
    if kind in _NUMBERS:
        return _NUMBERS[kind]
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:].rstrip(".")
