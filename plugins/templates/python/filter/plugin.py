"""A filter that drops answers too short to teach anything."""

import json
from dataclasses import dataclass

import wit_world.exports
from pacos_plugin import plugin
from wit_world.exports.filter import Candidate, Decision_Drop, Decision_Keep, Judged, Verdict
from wit_world.imports.types import (
    Description,
    Diagnostic,
    Payload,
    Payload_Task,
    Score,
    Severity,
    Task,
)

CONFIG_SCHEMA = {
    "type": "object",
    "properties": {
        "words": {
            "type": "integer",
            "minimum": 1,
            "default": 3,
            "description": "Fewest words that an answer may have.",
        },
    },
    "additionalProperties": False,
}


@dataclass
class Config:
    """The plugin's own table of the manifest."""

    words: int = 3


@plugin
class Filter(wit_world.exports.Filter):
    """The filter. One instance is configured, started, and asked as often as need be."""

    def __init__(self):
        self.config = Config()

    def describe(self) -> Description:
        return Description(
            name="my-plugin",
            version="0.1.0",
            capabilities=[],
            config_schema=json.dumps(CONFIG_SCHEMA),
            stateful=False,
            batch_limit=0,
        )

    def configure(self, config: str) -> list[Diagnostic]:
        table = json.loads(config)
        problems = [
            error(key, f"unknown key `{key}`, expected `words`") for key in table if key != "words"
        ]
        words = table.get("words", Config.words)
        if type(words) is not int:
            problems.append(error("words", "expected a whole number", "words = 3"))
        elif words < 1:
            problems.append(error("words", f"{words} words would keep everything", "words = 3"))
        else:
            self.config = Config(words)
        return problems

    def start(self, seeds: list[Task]) -> None:
        pass

    def restore(self, history: list[Judged]) -> None:
        pass

    def judge(self, batch: list[Candidate]) -> list[Verdict]:
        return [self.verdict(candidate) for candidate in batch]

    def verdict(self, candidate: Candidate) -> Verdict:
        words = len(answer(candidate.payload).split())
        scores = [Score("words", float(words))]
        if words < self.config.words:
            message = f"{words} of {self.config.words} words"
            return Verdict(Decision_Drop(), "answer-too-short", message, scores, None)
        return Verdict(Decision_Keep(), "kept", "", scores, None)


def answer(payload: Payload) -> str:
    """What the model is to learn to say."""
    if isinstance(payload, Payload_Task):
        return payload.value.output
    said = [message.content for message in payload.value if message.role == "assistant"]
    return said[-1] if said else ""


def error(path: str, message: str, help: str | None = None) -> Diagnostic:
    return Diagnostic(Severity.ERROR, path, message, help)
