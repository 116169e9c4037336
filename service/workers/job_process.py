"""One job process as its supervisor sees it."""

from dataclasses import asdict
from typing import Any

from apdb import Claim
from service.settings import Settings
from service.subprocesses.answering import AnsweringProcess

__all__ = ["JobProcess"]


class JobProcess(AnsweringProcess):
    """A process that runs claims, one after the other; errors as for `service.subprocesses.answering.AnsweringProcess`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "service.workers.job")

    def run(self, claim: Claim, timeout_s: float) -> dict[str, Any]:
        """Hand over a claim and wait for the answer.

        Raises
        ------
        JobCrashed
            The process ended, or gave no answer in time (then it is killed).
        """
        return self.ask(asdict(claim), timeout_s)

    def prepare(self, announcement: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Have what an announced visit needs read beforehand; errors as for `run`."""
        return self.ask({"prepare": announcement}, timeout_s)
