"""Places among those who submit: few at a time, the next in order, and told to come again where none comes free."""

import asyncio

import pytest

from apdb.errors import Busy
from service.api.guard import admission as module
from service.api.guard.admission import Admission


def test_who_waits_gets_the_place_that_comes_free_in_the_order_of_coming():
    async def scene():
        admission, order = Admission(1), []
        first = await admission.enter()

        async def ask(name):
            slot = await admission.enter()
            order.append(name)
            slot.release()

        asked = [asyncio.create_task(ask(name)) for name in "abc"]
        await asyncio.sleep(0)
        assert admission.full()
        assert order == []
        first.release()
        first.release()  # twice does no harm
        await asyncio.gather(*asked)
        assert not admission.full()
        return order

    assert asyncio.run(scene()) == ["a", "b", "c"]


def test_who_gets_no_place_in_time_or_finds_too_many_waiting_is_refused(monkeypatch):
    monkeypatch.setattr(module, "WAIT_S", 0.05)
    monkeypatch.setattr(module, "MOST_WAITING", 2)

    async def scene():
        admission = Admission(1)
        taken = await admission.enter()
        asked = [asyncio.create_task(admission.enter()) for _ in range(3)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        taken.release()
        (await admission.enter()).release()  # nobody who went away holds a place, or stands in line
        return answers

    answers = asyncio.run(scene())
    assert [type(a) for a in answers] == [Busy, Busy, Busy]
    assert all("send it again" in str(a) for a in answers)


@pytest.mark.parametrize("given", [False, True])
def test_a_request_that_ends_while_it_waits_holds_no_place(given):
    async def scene():
        admission = Admission(1)
        taken = await admission.enter()
        waiting = asyncio.create_task(admission.enter())
        await asyncio.sleep(0)
        if given:  # and ends in the same moment
            taken.release()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        taken.release()
        assert not admission.full()
        (await admission.enter()).release()

    asyncio.run(scene())
