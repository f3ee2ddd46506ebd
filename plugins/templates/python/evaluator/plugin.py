"""An evaluator that shows the judge two answers in both orders and asks which is better."""

import json
from dataclasses import dataclass

import wit_world.exports
from componentize_py_types import Err, Ok
from pacos_plugin import plugin
from wit_world.exports.evaluator import Item, Judgement, Metric, Outcome
from wit_world.imports import models
from wit_world.imports.models import Prompt_Chat, Request
from wit_world.imports.types import (
    Attribute,
    Description,
    Diagnostic,
    Error,
    Message,
    Score,
    Severity,
    Task,
)

# The role that is asked. Its capability is declared in `describe`; the recipe grants it.
ROLE = "judge"

CONFIG_SCHEMA = {
    "type": "object",
    "properties": {
        "first": {
            "type": "string",
            "default": "student",
            "description": "The model whose wins are counted.",
        },
        "second": {
            "type": "string",
            "default": "student.base",
            "description": "The model that it is compared with.",
        },
    },
    "additionalProperties": False,
}

DECIDED = (Outcome.FIRST, Outcome.SECOND, Outcome.TIE)
POINTS = {Outcome.FIRST: 1.0, Outcome.TIE: 0.5, Outcome.SECOND: 0.0}
SWAPPED = {Outcome.FIRST: Outcome.SECOND, Outcome.SECOND: Outcome.FIRST}
VERDICTS = {"A": Outcome.FIRST, "B": Outcome.SECOND, "TIE": Outcome.TIE}


@dataclass
class Config:
    """The plugin's own table of the manifest."""

    first: str = "student"
    second: str = "student.base"


@plugin
class Evaluator(wit_world.exports.Evaluator):
    """The evaluator. One instance is configured and asked as often as need be."""

    def __init__(self):
        self.config = Config()

    def describe(self) -> Description:
        return Description(
            name="my-plugin",
            version="0.1.0",
            capabilities=["models:judge"],
            config_schema=json.dumps(CONFIG_SCHEMA),
            stateful=False,
            batch_limit=0,
        )

    def configure(self, config: str) -> list[Diagnostic]:
        table = json.loads(config)
        known = CONFIG_SCHEMA["properties"]
        problems = []
        for key, value in table.items():
            if key not in known:
                problems.append(error(key, f"unknown key `{key}`, expected `first` or `second`"))
            elif type(value) is not str:
                problems.append(error(key, "expected the name of a model"))
        if problems:
            return problems
        self.config = Config(**table)
        if self.config.first == self.config.second:
            message = "expected another model than `first`"
            problems.append(error("second", message, 'second = "student.base"'))
        return problems

    def judge(self, item: Item) -> list[Judgement]:
        first = answer(item, self.config.first)
        second = answer(item, self.config.second)
        requests = [question(item.task, first, second), question(item.task, second, first)]
        as_asked, turned = [read(reply) for reply in models.complete_many(ROLE, requests)]
        turned = SWAPPED.get(turned, turned)
        votes = [as_asked, turned].count(Outcome.FIRST)
        return [
            Judgement(
                item=item.index,
                first=self.config.first,
                second=self.config.second,
                outcome=together(as_asked, turned),
                flipped=as_asked != turned and as_asked in DECIDED and turned in DECIDED,
                scores=[Score("votes", float(votes))],
                attributes=[],
            )
        ]

    def summarise(self, judgements: list[Judgement]) -> list[Metric]:
        points = [POINTS[one.outcome] for one in judgements if one.outcome in DECIDED]
        if not points:
            return []
        return [
            Metric(
                name="win_rate",
                value=100.0 * sum(points) / len(points),
                standard_error=None,
                n=len(points),
                attributes=[
                    Attribute("first", self.config.first),
                    Attribute("second", self.config.second),
                ],
            )
        ]


def answer(item: Item, model: str) -> str:
    for given in item.answers:
        if given.model == model:
            return given.text
    names = ", ".join(given.model for given in item.answers)
    message = f"no answer of `{model}`; there are: {names}"
    raise Err(Error("no-such-answer", message, retryable=False))


def question(task: Task, a: str, b: str) -> Request:
    text = (
        "Which of two answers to this task is better? Reply with one word: A, B or TIE.\n\n"
        f"Task: {task.instruction}\n{task.input}\n\nAnswer A: {a}\n\nAnswer B: {b}"
    )
    return Request(
        prompt=Prompt_Chat([Message("user", text)]),
        temperature=0.0,
        top_p=None,
        max_tokens=8,
        stop=[],
        logit_bias=[],
        seed=None,
        logprobs=None,
        format=None,
    )


def read(reply) -> Outcome:
    """Who won, as far as the judge says; FIRST is the answer that was shown as A."""
    match reply:
        case Ok(said):
            return VERDICTS.get(said.text.strip().rstrip("."), Outcome.UNPARSED)
        case Err(Error(code="request-refused")):
            return Outcome.REFUSED
        case failure:
            raise failure


def together(one: Outcome, other: Outcome) -> Outcome:
    """Who wins in one order only has not won."""
    for outcome in (Outcome.REFUSED, Outcome.UNPARSED):
        if outcome in (one, other):
            return outcome
    return one if one == other else Outcome.TIE


def error(path: str, message: str, help: str | None = None) -> Diagnostic:
    return Diagnostic(Severity.ERROR, path, message, help)
