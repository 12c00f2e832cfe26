"""The notices of a notebook server, and the heartbeat that brings the service's."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tornado import httpserver, netutil, web

from maestro_core.usage import HEARTBEAT_SECONDS, Heartbeat, Notice
from server_extension import heartbeat, life
from server_extension.board import Board
from server_extension.heartbeat import MAX_PAUSE, Pulse
from server_extension.life import heartbeat_seconds
from server_extension.service import NotAnswered, Service

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
BEAT = Heartbeat(cpu_seconds=1.5, memory=2**30, busy=False, kernels=2)


def notice(name: str, message: str = "Hello.", **more: Any) -> Notice:
    return Notice(id=name, message=message, **more)


# -- the board


@pytest.fixture
def told() -> list[list[str]]:
    """What was shown after each change."""
    return []


@pytest.fixture
def now() -> list[datetime]:
    return [NOON]


@pytest.fixture
def board(told: list[list[str]], now: list[datetime]) -> Board:
    made = Board(lambda: told.append([one.id for one in made.shown()]), clock=lambda: now[0])
    return made


def test_windows_are_told_of_every_change_and_of_nothing_else(board: Board, told: list[list[str]]) -> None:
    board.take([])
    board.post(notice("own"))
    board.take([notice("theirs")])
    board.take([notice("theirs")])
    board.take([])
    board.withdraw("own")
    board.withdraw("own")
    assert told == [["own"], ["own", "theirs"], ["own"], []]


def test_what_was_read_stays_away_until_it_says_something_else(board: Board) -> None:
    board.take([notice("cull", "Ten minutes left.")])
    board.dismiss("cull")
    board.take([notice("cull", "Ten minutes left.")])
    assert board.shown() == ()
    board.take([notice("cull", "One minute left.")])
    assert [one.message for one in board.shown()] == ["One minute left."]


def test_what_was_taken_back_and_comes_again_is_news(board: Board) -> None:
    for notices in ([notice("cull")], [], [notice("cull")]):
        board.take(notices)
        if notices:
            assert [one.id for one in board.shown()] == ["cull"]
            board.dismiss("cull")


def test_the_same_thing_that_happens_again_is_news(board: Board) -> None:
    board.post(notice("memory"))
    board.dismiss("memory")
    board.dismiss("no such thing")
    assert board.shown() == ()
    board.post(notice("memory"))
    assert [one.id for one in board.shown()] == ["memory"]


def test_what_is_long_past_is_not_shown(board: Board, now: list[datetime]) -> None:
    """The service may be away, and then takes nothing back."""
    board.take([notice("cull", until=NOON + timedelta(minutes=1))])
    assert board.shown()
    now[0] += timedelta(minutes=4)
    assert board.shown() == ()


# -- the service, as it is on the wire


@pytest.fixture
async def asked() -> list[tuple[str, str | None, bytes]]:
    """Path, Authorization and body of what the service was asked."""
    return []


Serve = Callable[[Callable[[web.RequestHandler], None]], Awaitable[Service]]


@pytest.fixture
async def serve(asked: list[tuple[str, str | None, bytes]]) -> Any:
    """Make a service that answers in a way, and the server's client of it."""
    servers: list[httpserver.HTTPServer] = []

    async def start(answer: Callable[[web.RequestHandler], None]) -> Service:
        class Handler(web.RequestHandler):
            def get(self) -> None:
                answer(self)

            def post(self) -> None:
                asked.append((self.request.path, self.request.headers.get("Authorization"), self.request.body))
                answer(self)

        server = httpserver.HTTPServer(web.Application([(".*", Handler)]))
        (socket,) = netutil.bind_sockets(0, "127.0.0.1")
        server.add_socket(socket)
        servers.append(server)
        url = f"http://127.0.0.1:{socket.getsockname()[1]}/api/"
        found = Service.of(
            {"MAESTRO_SERVICE_URL": url, "MAESTRO_LAUNCH_ID": "l-1", "JUPYTERHUB_API_TOKEN": "secret-token"}
        )
        assert found is not None
        return found

    yield start
    for server in servers:
        server.stop()
        await server.close_all_connections()


async def test_the_service_is_asked_about_this_launch_with_the_servers_token(
    serve: Serve, asked: list[tuple[str, str | None, bytes]]
) -> None:
    service = await serve(lambda handler: handler.finish({"notices": []}) and None)
    assert await service.heartbeat(BEAT.model_dump_json()) == {"notices": []}
    assert await service.keep() == {"notices": []}
    assert [(path, token) for path, token, _ in asked] == [
        ("/api/launches/l-1/heartbeat", "token secret-token"),
        ("/api/launches/l-1/keep", "token secret-token"),
    ]
    assert Heartbeat.model_validate_json(asked[0][2]) == BEAT


async def test_notices_are_waited_for_with_what_is_known(serve: Serve) -> None:
    questions: list[tuple[str, str]] = []

    def answer(handler: web.RequestHandler) -> None:
        questions.append((handler.get_argument("seen"), handler.get_argument("wait")))
        handler.set_header("Etag", '"abc"')
        handler.finish({"notices": []})

    service = await serve(answer)
    assert await service.notices("", 50) == ({"notices": []}, "abc")
    await service.notices("abc", 0.5)
    assert questions == [("", "50"), ("abc", "0.5")]


def refuse(handler: web.RequestHandler) -> None:
    handler.set_status(403)
    handler.finish({"error": {}})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refuse, "keep: 403"),
        (lambda handler: handler.redirect("http://127.0.0.1:9/elsewhere"), "keep: 302"),
        (lambda handler: handler.finish("<html>"), "keep: no JSON"),
        (lambda handler: handler.finish(b" " * 300_000), "keep: 300000 bytes"),
    ],
)
async def test_another_answer_is_none_and_the_token_goes_nowhere_else(
    serve: Serve, asked: list[Any], answer: Callable[[web.RequestHandler], None], message: str
) -> None:
    service = await serve(answer)
    with pytest.raises(NotAnswered, match=message) as error:
        await service.keep()
    assert len(asked) == 1 and "secret-token" not in str(error.value)


async def test_a_service_that_is_away_is_no_answer() -> None:
    service = Service("http://127.0.0.1:9/api", "l-1", "secret-token")
    with pytest.raises(NotAnswered, match=r"^heartbeat: ConnectionRefusedError$"):
        await service.heartbeat("{}")


def test_a_launch_without_a_service_asks_nobody() -> None:
    assert Service.of({"MAESTRO_LAUNCH_ID": "l-1", "JUPYTERHUB_API_TOKEN": "t"}) is None


# -- the pulse


@pytest.mark.parametrize(
    ("given", "seconds"), [("", 30), ("5", 5), ("0", 30), ("1e9", 30), ("nan", 30), ("often", 30), ("0.5", 30)]
)
def test_how_often_it_beats_is_the_launchs_word(given: str, seconds: float) -> None:
    assert heartbeat_seconds({"MAESTRO_HEARTBEAT_SECONDS": given}) == seconds
    assert life.HEARTBEAT_SECONDS == HEARTBEAT_SECONDS


class Answers:
    """A service that answers one thing after the other."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.seen: list[str] = []

    async def heartbeat(self, beat: str) -> Any:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def keep(self) -> Any:
        return await self.heartbeat("")

    async def notices(self, seen: str, seconds: float) -> Any:
        self.seen.append(seen)
        return await self.heartbeat("")


def pulse(board: Board, *answers: Any) -> Pulse:
    async def beat() -> Heartbeat:
        return BEAT

    return Pulse(Answers(*answers), board, beat, logging.getLogger("test"), 30)  # type: ignore[arg-type]


async def test_the_services_notices_are_shown_and_taken_back(board: Board) -> None:
    cull = {"id": "cull", "kind": "cull", "message": "m", "until": "2026-11-24T12:10:00Z", "action": "keep"}
    beating = pulse(board, {"notices": [cull]}, {"notices": []})
    await beating.once()
    assert board.shown()[0].action == "keep"
    await beating.keep()
    assert board.shown() == ()


async def test_without_the_service_the_pause_grows_and_the_log_has_one_line(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    board.take([notice("role")])
    beating = pulse(board, *[NotAnswered("heartbeat: 503")] * 6, {"notices": []}, {"notices": []})
    pauses = []
    for _ in range(7):
        pauses.append(beating.pause)
        await beating.once()
    assert pauses == [30, 60, 120, 240, MAX_PAUSE, MAX_PAUSE, MAX_PAUSE] and beating.pause == 30
    assert [record.message for record in caplog.records] == [
        "Maestro's service: heartbeat: 503",
        "Maestro's service answers again.",
    ]


@pytest.mark.parametrize("answer", [None, [], "x", {"notices": [{"id": ""}]}, {"notices": 7}, {}])
async def test_notices_that_are_none_change_nothing_worse(board: Board, answer: Any) -> None:
    await pulse(board, answer).once()
    assert board.shown() == ()


async def test_a_notice_is_heard_as_soon_as_the_service_has_it(
    board: Board, told: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "LEAST_SECONDS", 0.001)
    answers = Answers(
        ({"notices": [{"id": "role", "message": "m"}]}, "one"),
        NotAnswered("notices: 503"),
        NotAnswered("notices: 503"),
        ({"notices": []}, "two"),
        ({"notices": []}, "two"),
        ZeroDivisionError(),  # ends the loop
    )

    async def beat() -> Heartbeat:
        return BEAT

    listening = Pulse(answers, board, beat, logging.getLogger("test"), 30)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        await listening.listen()
    assert told == [["role"], []], "what is known stays while the service is away"
    assert answers.seen == ["", "one", "", "", "two", "two"]
