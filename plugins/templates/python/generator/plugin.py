"""A generator that shows the teacher one seed task and asks for another of its kind."""

import json
from dataclasses import dataclass

import wit_world.exports
from componentize_py_types import Err
from pacos_plugin import plugin
from wit_world.exports.generator import Proposal, Proposals, Reject, Unit
from wit_world.imports import models
from wit_world.imports.models import FinishReason, Prompt_Chat, Reply, Request
from wit_world.imports.types import (
    Description,
    Diagnostic,
    Error,
    Message,
    Origin_Seed,
    Payload_Task,
    Place,
    Severity,
    Task,
)

# The role that is asked. Its capability is declared in `describe`; the recipe grants it.
ROLE = "teacher"

CONFIG_SCHEMA = {
    "type": "object",
    "properties": {
        "temperature": {
            "type": "number",
            "minimum": 0,
            "maximum": 2,
            "default": 0.7,
            "description": "How far the teacher may stray, from 0 to 2.",
        },
        "max_tokens": {
            "type": "integer",
            "minimum": 1,
            "default": 512,
            "description": "Longest reply, in tokens.",
        },
    },
    "additionalProperties": False,
}


@dataclass
class Config:
    """The plugin's own table of the manifest."""

    temperature: float = 0.7
    max_tokens: int = 512


class Unusable(Exception):
    """A reply without a task in it: the code and the message of a reject."""


@plugin
class Generator(wit_world.exports.Generator):
    """The generator. One instance is configured, started, and asked as often as need be."""

    def __init__(self):
        self.config = Config()
        self.seeds: list[Task] = []

    def describe(self) -> Description:
        return Description(
            name="my-plugin",
            version="0.1.0",
            capabilities=["models:teacher"],
            config_schema=json.dumps(CONFIG_SCHEMA),
            stateful=False,
            batch_limit=0,
        )

    def configure(self, config: str) -> list[Diagnostic]:
        table = json.loads(config)
        known = CONFIG_SCHEMA["properties"]
        expected = " or ".join(f"`{key}`" for key in known)
        problems = [
            error(key, f"unknown key `{key}`, expected {expected}")
            for key in table
            if key not in known
        ]
        temperature = table.get("temperature", Config.temperature)
        if type(temperature) not in (int, float) or not 0 <= temperature <= 2:
            problems.append(
                error("temperature", "expected a number from 0 to 2", "temperature = 0.7")
            )
        max_tokens = table.get("max_tokens", Config.max_tokens)
        if type(max_tokens) is not int or max_tokens < 1:
            problems.append(error("max_tokens", "expected a number of tokens", "max_tokens = 512"))
        if not problems:
            self.config = Config(float(temperature), max_tokens)
        return problems

    def start(self, seeds: list[Task]) -> None:
        if not seeds:
            raise Err(Error("no-seeds", "expected at least one seed task", retryable=False))
        self.seeds = seeds

    def generate(self, unit: Unit) -> Proposals:
        # The unit's seed is all the randomness there is, so that the unit can be done again.
        line = unit.seed % len(self.seeds)
        reply = models.complete(ROLE, self.request(self.seeds[line]))
        place = Place(ordinal=0, start=0, end=len(reply.text.encode()))
        try:
            payload = Payload_Task(read(reply))
        except Unusable as reason:
            code, message = reason.args
            return Proposals(candidates=[], rejects=[Reject(code, message, place)])
        return Proposals([Proposal(payload, [], [Origin_Seed(line)], place)], rejects=[])

    def request(self, seed: Task) -> Request:
        return Request(
            prompt=Prompt_Chat([Message("user", prompt(seed))]),
            temperature=self.config.temperature,
            top_p=None,
            max_tokens=self.config.max_tokens,
            stop=[],
            logit_bias=[],
            seed=None,
            logprobs=None,
            format=None,
        )


def prompt(seed: Task) -> str:
    return (
        "Write one more task of this kind, about something else. Begin each part with its name, "
        "as here, and leave the input empty where none is needed.\n\n"
        f"Instruction: {seed.instruction}\nInput: {seed.input}\nOutput: {seed.output}"
    )


def read(reply: Reply) -> Task:
    """The task in a reply."""
    if reply.finish_reason == FinishReason.LENGTH:
        raise Unusable("cut-off", "the reply ends at its token limit")
    _, first, rest = reply.text.partition("Instruction:")
    instruction, second, rest = rest.partition("Input:")
    given, third, output = rest.partition("Output:")
    if not (first and second and third):
        raise Unusable(
            "not-a-task", "expected `Instruction:`, `Input:` and `Output:` in this order"
        )
    task = Task(instruction.strip(), given.strip(), output.strip())
    if not task.instruction or not task.output:
        raise Unusable("empty-field", "the instruction or the output is empty")
    return task


def error(path: str, message: str, help: str | None = None) -> Diagnostic:
    return Diagnostic(Severity.ERROR, path, message, help)
